"""Work of other processes in the operations of their owner, with two live stores."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.live import contributions as contributions_module
from otel_progress.live import shares
from otel_progress.live.node import Node, Spec
from otel_progress.live.store import LiveStore
from otel_progress.model import NO_METADATA, Failure, LevelSnapshot, Outcome, ParentLink, Status
from otel_progress.records import CancelRequest, Contribution
from otel_progress.stages import to_stages
from otel_progress.testing import CountingIds, FakeClock
from tests.support.factories import instance
from tests.support.interruptions import Interrupter


def make_spec(type_: str, id_: str | None = None, total: int | None = None, weight: int = 1) -> Spec:
    """Return the arguments of a level."""
    return Spec(type_, id_, None, total, None, weight, None, None, NO_METADATA)


class User:
    """Call that uses a share."""


class Owner:
    """A process with one shared operation."""

    def __init__(self, clock: FakeClock, total: int | None = None) -> None:
        self.clock = clock
        self.store = LiveStore(
            instance("owner"), clock=clock.monotonic, now=clock.wall, ids=CountingIds().run_id
        )
        root = self.store.start_level(None, make_spec("job", "j", total))
        assert root is not None
        self.root = root
        self.store.share_level(root)

    def link(self, node: Node | None = None) -> ParentLink:
        """Return the link to a level, by default the operation."""
        return ParentLink("j", self.root.operation.run, "" if node is None else node.path)

    def read(self) -> LevelSnapshot:
        """Return the operation."""
        return self.store.reader.get_level(self.root)

    def levels(self) -> dict[str, tuple[str, float]]:
        """Return status and count of all levels by path."""
        operation = self.store.reader.get("j")
        assert operation is not None
        return {level.path: (level.status.value, level.current) for level in operation.levels}


class Child:
    """Another process, and the contributions that the store has of it."""

    def __init__(self, owner: Owner, name: str = "child") -> None:
        self.owner = owner
        self.store = LiveStore(instance(name), clock=owner.clock.monotonic, now=owner.clock.wall)
        self.stored: dict[tuple[str, str, str], Contribution] = {}

    def open(self, node: Node | None = None) -> Node:
        """Return the share of a level of the owner."""
        return self.store.open_share(self.owner.link(node), "job", "job", None)

    def write(self) -> list[Contribution]:
        """Write the changes of a tick. Return all stored contributions."""
        change_set = self.store.collect()
        assert not change_set.snapshots
        assert not change_set.evicted
        assert not change_set.items
        for each in change_set.contributions:
            known = self.stored.get(each.key)
            if known is None or known.level.sequence < each.level.sequence:
                self.stored[each.key] = each
        return sorted(self.stored.values(), key=lambda each: each.level.info.depth)

    def deliver(self) -> None:
        """Write the changes and let the owner poll them."""
        assert self.owner.store.merge_contributions(self.write()) == set()


def start(store: LiveStore, parent: Node, spec: Spec) -> Node:
    """Start a level."""
    node = store.start_level(parent, spec)
    assert node is not None
    return node


def count(node: Node, units: int) -> None:
    """Count units on a level."""
    node.ensure_counter().add(units)


@pytest.fixture
def owner() -> Owner:
    """A process with an operation of six units."""
    return Owner(FakeClock(), 6)


def test_units_of_other_processes_are_added_to_those_of_the_owner(owner: Owner) -> None:
    """The counts of two processes and of the owner have one total, ratio and outcome."""
    first, second = Child(owner, "first"), Child(owner, "second")
    count(owner.root, 1)
    for child, units in ((first, 2), (second, 3)):
        count(child.open(), units)
        child.open().fail_one()
        child.deliver()
    root = owner.read()
    assert (root.current, root.ratio, root.failed, root.completed) == (6, 1.0, 2, 4)


def test_repeated_contribution_counts_once(owner: Owner) -> None:
    child = Child(owner)
    count(child.open(), 2)
    for _ in range(3):
        child.deliver()
    assert owner.read().current == 2


def test_older_contribution_is_ignored(owner: Owner) -> None:
    child = Child(owner)
    count(child.open(), 2)
    old = child.write()
    count(child.open(), 2)
    child.deliver()
    owner.store.merge_contributions(old)
    assert owner.read().current == 4


def test_levels_of_another_process_are_levels_of_the_operation(owner: Owner) -> None:
    """Their figures, failures and names are those of their process."""
    child = Child(owner)
    share = child.open()
    file = start(child.store, share, make_spec("file", "a.wav", total=4))
    part = start(child.store, file, make_spec("part"))
    count(file, 2)
    child.store.add_item(file, "x", Outcome.FAILED, None, NO_METADATA)
    file.fail_one()
    child.deliver()
    assert owner.levels() == {"file:a.wav": ("running", 2), "file:a.wav/part:1@child": ("running", 0)}
    child.store.end_level(part, Status.COMPLETED)
    child.store.end_level(file, Status.FAILED, error=Failure("OSError", "disk full"))
    child.deliver()
    assert owner.levels() == {"file:a.wav": ("failed", 2), "file:a.wav/part:1@child": ("completed", 0)}
    operation = owner.store.reader.get("j")
    assert operation is not None
    assert operation.levels[0].error == Failure("OSError", "disk full")
    assert (operation.root.current, operation.root.failed) == (1, 1)


def test_units_on_a_level_of_a_third_process_wait_for_that_level(owner: Owner) -> None:
    """The process that counts may write before the one that started the level."""
    starter, counter = Child(owner, "starter"), Child(owner, "counter")
    file = start(starter.store, starter.open(), make_spec("file", "a", total=4))
    share = counter.open(file)
    part = start(counter.store, share, make_spec("part", "p"))
    count(share, 2)
    early = counter.write()
    waiting = {each.key for each in early}
    assert owner.store.merge_contributions(early) == waiting
    assert owner.store.dropped_contributions == 0
    counter.store.end_level(part, Status.COMPLETED)
    starter.store.end_level(file, Status.COMPLETED)
    # All arrive in one poll, the units before their level.
    everything = [*counter.write(), *starter.write()]
    assert owner.store.merge_contributions(everything) == set()
    assert owner.levels()["file:a"] == ("completed", 2)


def test_units_wait_a_limited_time_for_their_level(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level has ended long ago, so it is not in memory any more."""
    monkeypatch.setattr(contributions_module, "MAX_POLLS_FOR_LEVEL", 2)
    starter, counter = Child(owner, "starter"), Child(owner, "counter")
    count(counter.open(start(starter.store, starter.open(), make_spec("file", "a"))), 2)
    units = counter.write()
    results = [len(owner.store.merge_contributions(units)) for _ in range(4)]
    assert results == [1, 1, 0, 0]
    assert owner.store.dropped_contributions == 1


def test_generated_ids_of_two_processes_differ(owner: Owner) -> None:
    for name in ("first", "second"):
        child = Child(owner, name)
        start(child.store, child.open(), make_spec("track", total=3))
        child.deliver()
    assert len(owner.levels()) == 2


def test_levels_that_end_within_one_tick_are_all_counted(owner: Owner) -> None:
    """More levels than stay in memory end between two ticks."""
    owner.root.total = 3_000
    child = Child(owner)
    share = child.open()
    for number in range(3_000):
        node = start(child.store, share, make_spec("file", str(number)))
        child.store.end_level(node, Status.COMPLETED)
    child.deliver()
    root = owner.read()
    assert (root.current, root.ended_levels.completed) == (3_000, 3_000)
    assert share.children is not None
    assert not share.children.nodes


def test_level_that_starts_again_in_another_process_counts_once(owner: Owner) -> None:
    """The retry of a level replaces its first attempt, whose process has ended."""
    first, second = Child(owner, "first"), Child(owner, "second")
    count(start(first.store, first.open(), make_spec("file", "a", total=2)), 1)
    first.deliver()
    owner.store.end_contributors(["first"])
    assert owner.levels() == {"file:a": ("cancelled", 1)}
    retry = start(second.store, second.open(), make_spec("file", "a", total=2))
    count(retry, 2)
    second.store.end_level(retry, Status.COMPLETED)
    second.deliver()
    first.deliver()
    assert owner.levels() == {"file:a": ("completed", 2)}
    assert owner.read().current == 1


def test_level_that_starts_again_in_its_process_is_the_next_attempt(owner: Owner) -> None:
    child = Child(owner)
    for units in (1, 2):
        owner.clock.advance(1.0)
        file = start(child.store, child.open(), make_spec("file", "a", total=2))
        count(file, units)
        child.store.end_level(file, Status.COMPLETED)
        child.deliver()
    assert owner.levels() == {"file:a": ("completed", 2)}
    assert owner.read().current == 1


def test_counts_of_a_process_that_has_ended_stay(owner: Owner) -> None:
    child = Child(owner)
    count(child.open(), 2)
    start(child.store, child.open(), make_spec("file", "a"))
    child.deliver()
    assert owner.store.list_contributors() == ["child"]
    owner.store.end_contributors(["child"])
    operation = owner.store.reader.get("j")
    assert operation is not None
    assert operation.root.current == 2
    assert [(level.status, level.message) for level in operation.levels] == [
        (Status.CANCELLED, contributions_module.REASON_GONE)
    ]
    assert owner.store.list_contributors() == []


def test_declared_stages_of_another_process_are_stages(owner: Owner) -> None:
    """Their weights define the ratio of the level, and a skipped stage counts as done."""
    child = Child(owner)
    spec = make_spec("file", "a")._replace(stages=to_stages({"load": 1, "check": 1, "encode": 2}))
    file = start(child.store, child.open(), spec)
    child.deliver()
    assert {path: found[0] for path, found in owner.levels().items()} == {
        "file:a": "running",
        "file:a/stage:load": "pending",
        "file:a/stage:check": "pending",
        "file:a/stage:encode": "pending",
    }
    for name in ("load", "encode"):
        child.store.start_stage(file, make_spec(semconv.STAGE, name)._replace(name=name))
    child.deliver()
    operation = owner.store.reader.get("j")
    assert operation is not None
    ratios = {level.path: level.ratio for level in operation.levels}
    assert ratios["file:a"] == pytest.approx(0.5)
    child.store.end_level(file, Status.COMPLETED)
    child.deliver()
    assert owner.levels()["file:a"][0] == "completed"
    assert owner.levels()["file:a/stage:encode"][0] == "completed"


def test_total_message_and_metadata_of_a_share_are_applied_once(owner: Owner) -> None:
    """A later value of the owner is not replaced by the same value again."""
    child = Child(owner)
    share = child.open()
    share.total, share.message, share.metadata, share.dirty = 12, "half", {"host": "b"}, True
    child.deliver()
    root = owner.read()
    assert (root.total, root.message, dict(root.metadata)) == (12, "half", {"host": "b"})
    owner.root.total, owner.root.message, owner.root.dirty = 20, "own", True
    count(share, 1)
    child.deliver()
    root = owner.read()
    assert (root.total, root.message, root.current) == (20, "own", 1)


def test_late_units_revise_the_ended_operation(owner: Owner) -> None:
    """Its status and end stay, and the next change set has the new count."""
    child = Child(owner)
    share = child.open()
    count(share, 4)
    child.deliver()
    owner.store.end_level(owner.root, Status.COMPLETED)
    (ended,) = owner.store.collect().snapshots
    owner.clock.advance(1.0)
    count(share, 2)
    child.deliver()
    (revised,) = owner.store.collect().snapshots
    assert (ended.current, revised.current, revised.ratio) == (4, 6, 1.0)
    assert (revised.status, revised.ended_at, revised.duration_s) == (
        ended.status,
        ended.ended_at,
        ended.duration_s,
    )
    assert revised.sequence > ended.sequence
    assert not owner.store.collect().snapshots


def test_operation_is_not_shared_any_more_after_the_late_time(owner: Owner) -> None:
    run = owner.root.operation.run
    owner.store.end_level(owner.root, Status.COMPLETED)
    owner.clock.advance(9.0)
    assert owner.store.list_shared_runs(10.0) == [run]
    owner.clock.advance(2.0)
    assert owner.store.list_shared_runs(10.0) == []
    child = Child(owner)
    count(child.open(), 1)
    owner.store.merge_contributions(child.write())
    assert owner.read().current == 0


def test_level_below_an_ended_operation_is_dropped_and_counted(owner: Owner) -> None:
    child = Child(owner)
    owner.store.end_level(owner.root, Status.COMPLETED)
    start(child.store, child.open(), make_spec("file", "a"))
    for _ in range(2):
        owner.store.merge_contributions(child.write())
    assert owner.levels() == {}
    assert owner.store.dropped_contributions == 1


def test_writers_beyond_the_limit_are_dropped_and_counted(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contributions_module, "MAX_WRITERS_PER_OPERATION", 1)
    for name in ("first", "second"):
        child = Child(owner, name)
        count(child.open(), 1)
        child.deliver()
    assert (owner.read().current, owner.store.dropped_contributions) == (1, 1)


def test_child_whose_parent_is_unknown_waits(owner: Owner) -> None:
    """It is merged when a later poll has the level above it."""
    child = Child(owner)
    file = start(child.store, child.open(), make_spec("file", "a"))
    start(child.store, file, make_spec("part", "p"))
    share, level, part = child.write()
    assert owner.store.merge_contributions([share, part]) == {part.key}
    assert owner.store.merge_contributions([share, level, part]) == set()
    assert set(owner.levels()) == {"file:a", "file:a/part:p"}


def test_cancel_request_reaches_the_share(owner: Owner) -> None:
    child = Child(owner)
    share = child.open()
    run = owner.root.operation.run
    assert child.store.list_share_runs() == [run]
    child.store.cancel_shares([CancelRequest(run, "j", "too slow", 1.0)])
    assert (share.operation.cancel_requested_at, share.operation.cancel_reason) == (1.0, "too slow")


def test_share_is_not_an_operation_of_its_process(owner: Owner) -> None:
    """No query lists it, and its end is that of the owner."""
    child = Child(owner)
    share = child.open()
    start(child.store, share, make_spec("file", "a"))
    assert list(child.store.reader.active()) == []
    assert child.store.reader.get("j") is None
    assert child.store.end_level(share, Status.COMPLETED) is False
    child.deliver()
    assert owner.read().status is Status.RUNNING


def test_idle_share_is_closed_and_its_next_use_is_another_share(owner: Owner) -> None:
    """Units of both are counted, also those that were counted while it was closed."""
    child = Child(owner)
    share = child.open()
    count_one = share.ensure_counter().count_one
    count_one()
    child.deliver()
    for _ in range(2):
        owner.clock.advance(shares.IDLE_S)
        child.write()
    count_one()
    child.deliver()
    assert child.store.idle
    again = child.open()
    assert again is not share
    count(again, 2)
    child.deliver()
    assert owner.read().current == 4


def test_share_in_use_is_not_closed(owner: Owner) -> None:
    child = Child(owner)
    share, user = child.open(), User()
    child.store.hold_share(share, user)
    for _ in range(3):
        owner.clock.advance(shares.IDLE_S)
        child.write()
    assert child.open() is share
    child.store.release_share(share, user)
    owner.clock.advance(shares.IDLE_S)
    child.write()
    assert child.open() is not share


def test_share_whose_user_was_collected_is_closed(owner: Owner) -> None:
    """An exception can interrupt the end of a call before the release."""
    child = Child(owner)
    share, user = child.open(), User()
    child.store.hold_share(share, user)
    for _ in range(2):
        child.write()
    del user
    owner.clock.advance(shares.IDLE_S)
    child.write()
    assert child.open() is not share


def test_calls_at_every_line_open_one_share_and_release_it(owner: Owner) -> None:
    """A signal handler may use the level of a pickled handle at any time."""
    child = Child(owner)
    levels = [start(owner.store, owner.root, make_spec("file", str(number))) for number in range(3)]
    opened: list[Node] = []

    def use(level: Node) -> None:
        user = User()
        share = child.open(level)
        child.store.hold_share(share, user)
        share.ensure_counter().add(1)
        opened.append(share)
        child.store.release_share(share, user)

    def work() -> None:
        use(levels[0])
        child.store.collect()

    interrupter = Interrupter(lambda: [use(level) for level in levels])
    interrupter.run(work)
    assert interrupter.errors == []
    assert interrupter.calls > 100
    assert len(set(opened)) == len(levels)
    assert child.open(levels[1]) in opened
    for _ in range(2):
        child.deliver()
    counts = sorted(current for _, current in owner.levels().values())
    assert counts == [interrupter.calls, interrupter.calls, interrupter.calls + 1]


def test_calls_at_every_line_use_one_operation_in_place_of_a_share(owner: Owner) -> None:
    """There is no store in common."""
    child = Child(owner)
    link = owner.link()
    used: list[Node] = []

    def use() -> None:
        user = User()
        node = child.store.open_local_share(link, make_spec("job")._replace(link=link))
        assert node is not None
        child.store.hold_share(node, user)
        used.append(node)
        child.store.release_share(node, user)

    keeper = User()
    kept = child.store.open_local_share(link, make_spec("job")._replace(link=link))
    assert kept is not None
    child.store.hold_share(kept, keeper)
    interrupter = Interrupter(use)
    interrupter.run(use)
    assert interrupter.errors == []
    assert interrupter.calls > 20
    assert set(used) == {kept}
    child.store.release_share(kept, keeper)
    assert kept.status is Status.COMPLETED


def test_shares_beyond_the_limit_close_the_oldest(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MAX_SHARES", 2)
    child = Child(owner)
    levels = [start(owner.store, owner.root, make_spec("file", str(number))) for number in range(4)]
    for level in levels:
        count(child.open(level), 1)
        child.deliver()
    child.deliver()
    assert set(owner.levels().values()) == {("running", 1)}
    assert len(child.store.list_share_runs()) == 1


def test_share_of_a_contributed_level_is_added_to_it(owner: Owner) -> None:
    """A process hands its level on to a further process."""
    child, grandchild = Child(owner, "child"), Child(owner, "grandchild")
    file = start(child.store, child.open(), make_spec("file", "a", total=3))
    count(file, 1)
    child.deliver()
    count(grandchild.open(file), 2)
    grandchild.deliver()
    assert owner.levels() == {"file:a": ("running", 3)}


def test_levels_of_a_process_that_leaves_are_cancelled(owner: Owner) -> None:
    child = Child(owner)
    file = start(child.store, child.open(), make_spec("file", "a"))
    start(child.store, file, make_spec("part", "p"))
    child.store.cancel_share_levels("the process ended first")
    child.deliver()
    assert {status for status, _ in owner.levels().values()} == {"cancelled"}
    assert owner.read().status is Status.RUNNING


def test_events_of_several_processes_are_in_the_order_of_time(owner: Owner) -> None:
    """Their numbers differ within one microsecond, and JavaScript has them exactly."""
    child = Child(owner)
    share = child.open()
    numbers: list[int] = []
    for name in range(3):
        for store, node in ((owner.store, owner.root), (child.store, share)):
            for _ in range(2):
                store.add_item(node, str(name), Outcome.COMPLETED, None, NO_METADATA)
            numbers += [event.number for event in store.collect().events]
        owner.clock.advance(0.001)
    assert len(set(numbers)) == 12
    steps = [numbers[start : start + 4] for start in range(0, 12, 4)]
    assert max(steps[0]) < min(steps[1]) <= max(steps[1]) < min(steps[2])
    assert max(numbers) < 2**53


# --- property ------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["count", "fail", "start", "inside", "end", "write"])),
    max_size=40,
)


def do_steps(
    children: Sequence[Child], steps: Sequence[tuple[int, str]]
) -> tuple[list[list[Contribution]], float, int]:
    """Let processes work. Return all polls, the counted units and the started levels."""
    polls: list[list[Contribution]] = []
    running: list[list[Node]] = [[] for _ in children]
    units, started = 0.0, 0
    for index, step in steps:
        child = children[index]
        if step == "count":
            count(child.open(), 1)
            units += 1
        elif step == "fail":
            child.open().fail_one()
            count(child.open(), 1)
            units += 1
        elif step == "start":
            parent = running[index][-1] if running[index] else child.open()
            running[index].append(start(child.store, parent, make_spec("file")))
            started += 1
        elif step == "inside" and running[index]:
            count(running[index][-1], 1)
        elif step == "end" and running[index]:
            child.store.end_level(running[index].pop(), Status.COMPLETED)
        elif step == "write":
            polls.append(child.write())
    polls += [child.write() for child in children]
    return polls, units, started


@settings(deadline=None, max_examples=60)
@given(STEPS, st.randoms(use_true_random=False))
def test_sum_of_contributions_is_the_work_for_any_order_of_polls(
    steps: list[tuple[int, str]], rng: random.Random
) -> None:
    """Polls are delayed and repeated, also the last one of each process."""
    owner = Owner(FakeClock())
    children = [Child(owner, f"{number}-process") for number in range(3)]
    polls, units, started = do_steps(children, steps)
    shuffled = polls + rng.choices(polls, k=len(polls))
    rng.shuffle(shuffled)
    for poll in shuffled:
        owner.store.merge_contributions(poll)
    assert owner.store.dropped_contributions == 0
    operation = owner.store.reader.get("j")
    assert operation is not None
    shares_of_owner = {} if owner.root.extras is None else owner.root.extras.shares or {}
    assert sum(each.level.current for each in shares_of_owner.values()) == units
    if units:
        assert operation.root.current == units
    assert len(operation.levels) == started
    found = {level.path: (level.status, level.current) for level in operation.levels}
    for contribution in (each for child in children for each in child.stored.values()):
        level = contribution.level
        if not contribution.is_share:
            status, current = found[level.path]
            assert status is level.status
            # Without units of its own, a level counts the completed levels below it.
            assert current == level.current or not contribution.is_counted
