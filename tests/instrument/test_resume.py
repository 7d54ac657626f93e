"""Operations that continue the run of an earlier session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.instrument.level import Level
from otel_progress.model import LevelCounts, Number
from otel_progress.operations import Condition
from otel_progress.testing import Recorder

CRASH = "the session crashed"


class _CrashError(Exception):
    """End of a session whose operation is not complete."""


@pytest.fixture
def store(tmp_path: Path) -> str:
    """URL of the journal of all sessions."""
    return f"sqlite:///{tmp_path / 'progress.db'}"


@contextmanager
def session(store: str, **arguments: Any) -> Iterator[Level]:
    """Run one session of an operation. A crash ends it as failed."""
    given = {"type": "job", "id": "nightly", "resume": True, **arguments}
    with progress.configure(store=store, console=False, resources=False):
        try:
            with progress.operation(**given) as op:
                yield op
        except _CrashError:
            return


def _read_newest(store: str) -> Any:
    with progress.configure(store=store, console=False, resources=False) as runtime:
        return runtime.get_operation("nightly")


def _run_steps(store: str, crash_at: int | None, **arguments: Any) -> tuple[list[int], Any]:
    """Run steps as levels with ids.

    Return those that ran, and the operation before its end.
    """
    ran: list[int] = []
    with session(store, **arguments) as op:
        before = op.snapshot()
        for step in range(10):
            with op.level("step", step) as level:
                if level.already_completed:
                    continue
                if step == crash_at:
                    raise _CrashError(CRASH)
                ran.append(step)
        return ran, (before, op.snapshot())
    return ran, (before, None)


def test_completed_levels_are_known_and_count_once(store: str) -> None:
    """The level that failed runs again."""
    first, _ = _run_steps(store, 4, total=10)
    second, (before, after) = _run_steps(store, None, total=10)
    assert (first, second) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert (before.current, before.resumed_from, before.ratio, before.info.attempt) == (4, 4, 0.4, 2)
    assert (after.current, after.failed, after.ratio) == (10, 0, 1.0)
    assert after.ended_levels == LevelCounts(completed=10)


def test_levels_of_three_sessions_count_once(store: str) -> None:
    """Levels that were left out in one session are known in the next one."""
    ran = [_run_steps(store, crash_at, total=10)[0] for crash_at in (3, 7, None)]
    assert ran == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    newest = _read_newest(store)
    assert (newest.root.current, newest.root.info.attempt) == (10, 3)


def test_weights_of_completed_levels_count(store: str) -> None:
    """A level counts as its weight, also if another session completed it."""
    for crash in (True, False):
        with session(store, total=12) as op:
            assert op.snapshot().current == (0 if crash else 5)
            with op.level("part", "a", weight=5) as level:
                assert level.already_completed is not crash
            with op.level("part", "b", weight=7):
                if crash:
                    raise _CrashError(CRASH)
            assert op.snapshot().current == 12


def test_level_that_was_completed_may_run_again(store: str) -> None:
    """Its new result replaces the earlier one in the counts."""
    with session(store, total=2) as op:
        with op.level("part", "a"):
            pass
        raise _CrashError(CRASH)
    with session(store, total=2) as op:
        level = op.level("part", "a").start()
        assert op.snapshot().current == 1
        level.fail("broken")
        after = op.snapshot()
    assert (after.current, after.failed, after.ended_levels) == (1, 1, LevelCounts(failed=1))


def test_nested_levels_are_known(store: str) -> None:
    """A level that was not completed continues with its completed children."""
    ran: list[tuple[str, str]] = []
    for crash_at in (("b", "2"), None):
        with session(store, total=2) as op:
            for part in "ab":
                with op.level("part", part, total=3) as level:
                    for step in "123":
                        with level.level("step", step) as below:
                            if below.already_completed or level.already_completed:
                                continue
                            if (part, step) == crash_at:
                                raise _CrashError(CRASH)
                            ran.append((part, step))
                    assert level.snapshot().current == 3
    assert ran == [(part, step) for part in "ab" for step in "123"]


def test_levels_without_an_id_are_never_known(store: str) -> None:
    """Their numbers depend on the order of the starts."""
    for crash in (True, False):
        with session(store, total=4) as op:
            with op.level("part") as level:
                assert not level.already_completed
            if crash:
                raise _CrashError(CRASH)
            assert op.snapshot().current == 2


def test_own_count_continues(store: str) -> None:
    """An operation that counts itself starts with the units of the journal."""
    for crash in (True, False):
        with session(store, total=100) as op:
            done = int(op.snapshot().current)
            assert done == (0 if crash else 40)
            for unit in range(done, 100):
                if crash and unit == 40:
                    raise _CrashError(CRASH)
                op.increment()
            assert op.snapshot().current == 100


def test_own_count_with_failed_levels_continues(store: str) -> None:
    """Failed levels do not reduce what the operation has counted itself."""
    with session(store, total=10) as op:
        for number in range(4):
            with op.level("part", number) as level:
                if number == 2:
                    level.fail("broken")
            op.increment()
        raise _CrashError(CRASH)
    with session(store, total=10) as op:
        assert op.snapshot().current == 4


def test_completed_stages_are_known(store: str) -> None:
    """The ratio continues, and a stage that is left out stays completed."""
    stages = {"load": 1, "work": 8, "save": 1}
    with session(store, stages=stages) as op:
        op.stage("load").start()
        op.stage("work").start()
        raise _CrashError(CRASH)
    with session(store, stages=stages) as op:
        assert op.snapshot().ratio == pytest.approx(0.1)
        assert op.stage("work").already_completed is False
        op.stage("save").start()
    newest = _read_newest(store)
    states = {level.info.id: level.status.value for level in newest.levels}
    assert states == {"load": "completed", "work": "completed", "save": "completed"}
    assert newest.ratio == 1.0


def test_completed_stage_can_be_entered_and_left(store: str) -> None:
    """``already_completed`` is True then."""
    stages = ["load", "work"]
    with session(store, stages=stages) as op:
        op.stage("load").start()
        op.stage("work").start()
        raise _CrashError(CRASH)
    with session(store, stages=stages) as op:
        with op.stage("load") as stage:
            assert stage.already_completed
        assert op.snapshot().ratio == pytest.approx(0.5)
        with op.stage("work") as stage:
            assert not stage.already_completed
        assert (op.snapshot().current, op.snapshot().ratio) == (2, 1.0)


# --- keyed loops ---------------------------------------------------------------------------------


def _loop(store: str, items: list[str], crash_at: str | None, **arguments: Any) -> tuple[list[str], Any]:
    done: list[str] = []
    with session(store) as op:
        loop = op.track(items, **{"key": str, **arguments})
        for item in loop:
            if item == crash_at:
                raise _CrashError(CRASH)
            done.append(item)
        return done, loop.level.snapshot()
    return done, None


def test_loop_leaves_out_completed_keys(store: str) -> None:
    """Each item is counted once."""
    items = [f"file {number}" for number in range(100)]
    first, _ = _loop(store, items, "file 40")
    second, level = _loop(store, items, None)
    assert first + second == items
    assert (level.current, level.total, level.resumed_from, level.ratio) == (100, 100, 40, 1.0)


def test_loop_with_other_items_counts_what_it_finds(store: str) -> None:
    """Items that do not exist any more are not counted, and new ones are."""
    _loop(store, ["a", "b", "c", "d"], "d")
    done, level = _loop(store, ["new", "c", "d"], None)
    assert (done, level.current, level.total) == (["new", "d"], 3, 3)


@pytest.mark.parametrize("items", [["a"], ["c", "a"], ["d"], ["c", "d"], []])
def test_loop_with_fewer_items_than_an_earlier_session_completed(store: str, items: list[str]) -> None:
    """The count is that of the items which are left."""
    _loop(store, ["a", "b", "c", "d"], "d")
    done, level = _loop(store, items, None)
    assert done == [item for item in items if item == "d"]
    assert (level.current, level.total) == (len(items), len(items))


def test_loops_below_one_level_have_separate_keys(store: str) -> None:
    """The second loop has the same items and name."""
    for crash in (True, False):
        with session(store) as op:
            first = list(op.track("abc", "letters", key=str))
            second = []
            for letter in op.track("abc", "letters", key=str):
                if crash and letter == "b":
                    raise _CrashError(CRASH)
                second.append(letter)
            assert (first, second) == ([], ["b", "c"])


@pytest.mark.parametrize("depth", [2, 3])
def test_loops_in_the_body_of_a_keyed_loop_have_keys_per_element(store: str, depth: int) -> None:
    """The next session starts fewer inner loops, because it leaves out outer elements."""
    ran: list[tuple[int, ...]] = []

    def run(op: Level, crash_at: int | None) -> None:
        for outer in op.track(range(4), "outer", key=str):
            for middle in progress.track(range(2), "middle", key=str):
                for inner in progress.track(range(2), "inner", key=str) if depth == 3 else (0,):
                    if len(ran) == crash_at:
                        raise _CrashError
                    ran.append((outer, middle, inner))

    with session(store) as op:
        run(op, 5)
    with session(store) as op:
        run(op, 11 if depth == 3 else None)
    if depth == 3:
        with session(store) as op:
            run(op, None)
    inner_values = range(2) if depth == 3 else (0,)
    assert ran == [
        (outer, middle, inner) for outer in range(4) for middle in range(2) for inner in inner_values
    ]


def test_elements_without_a_key_run_in_each_session(store: str) -> None:
    """They count in the session that has run last."""
    for crash in (True, False):
        done = []
        with session(store) as op:
            loop = op.track("abcd", key=lambda letter: None if letter == "a" else letter)
            for letter in loop:
                if crash and letter == "c":
                    raise _CrashError(CRASH)
                done.append(letter)
            assert done == ["a", "c", "d"]
            assert loop.level.snapshot().current == 4


def test_loop_with_resume_false_runs_all_elements(store: str) -> None:
    """It records no key either."""
    for _ in range(2):
        with session(store) as op:
            assert list(op.track("abc", key=str, resume=False)) == ["a", "b", "c"]
            raise _CrashError(CRASH)


def test_repeated_key_is_reported_and_both_run(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """The work of the caller is never left out because of a mistake in its keys."""
    with session(store) as op:
        loop = op.track(["aa", "ab", "b"], key=lambda text: text[0])
        assert list(loop) == ["aa", "ab", "b"]
        assert loop.level.snapshot().current == 3
    assert "Invalid key: expected a key that no other element of the loop has" in caplog.text


def test_error_of_the_key_function_reaches_the_caller(store: str) -> None:
    """The loop fails, as with an error of the iterable."""
    with pytest.raises(ZeroDivisionError), session(store) as op:
        for _ in op.track([1, 0], key=lambda number: 1 / number):
            pass


def test_early_end_of_a_loop_keeps_its_last_element_open(store: str) -> None:
    """The element at which the loop stopped runs again."""
    for expected in (["a", "b"], ["b"], ["b"]):
        with session(store) as op:
            done = []
            for letter in op.track("abc", key=str):
                done.append(letter)
                if letter == "b":
                    break
            assert done == expected
            raise _CrashError(CRASH)


def test_threads_share_a_keyed_loop(store: str) -> None:
    """Each element is recorded when its thread requests the next one."""
    done: list[int] = []
    with session(store) as op:
        loop = op.track(range(500), key=str)
        iterator = iter(loop)
        threads = [threading.Thread(target=lambda: done.extend(iterator)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        level = loop.level.snapshot()
        assert sorted(done) == list(range(500))
        assert (level.current, level.status.value) == (500, "completed")
        raise _CrashError(CRASH)
    with session(store) as op:
        assert list(op.track(range(500), key=str)) == []


def test_async_loop_leaves_out_completed_keys(store: str) -> None:
    """The rules are those of other loops."""

    async def letters() -> AsyncIterator[str]:
        for letter in "abcd":
            yield letter

    async def run(op: Level, crash_at: str | None) -> list[str]:
        done = []
        async for letter in op.track(letters(), key=str):
            if letter == crash_at:
                raise _CrashError(CRASH)
            done.append(letter)
        return done

    with session(store) as op:
        asyncio.run(run(op, "c"))
    with session(store) as op:
        assert asyncio.run(run(op, None)) == ["c", "d"]


def test_named_loop_without_an_operation_can_be_resumed(store: str) -> None:
    """Its name is the id of its operation."""
    done: list[str] = []
    for crash in (True, False):
        with progress.configure(store=store, console=False, resources=False) as runtime:
            try:
                for letter in progress.track("abcd", "letters", key=str, resume=True):
                    if crash and letter == "c":
                        raise _CrashError(CRASH)
                    done.append(letter)
            except _CrashError:
                continue
            found = runtime.get_operation("letters")
            assert found is not None
            assert (found.root.current, found.root.info.attempt) == (4, 2)
    assert done == ["a", "b", "c", "d"]


@pytest.mark.parametrize("arguments", [{"resume": True}, {"resume": True, "key": str}])
def test_loop_that_cannot_be_resumed_is_reported(
    store: str, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    """All elements run."""
    with (
        progress.configure(store=store, console=False, resources=False),
        progress.operation("job", id="plain") as op,
    ):
        assert list(op.track("ab", **arguments)) == ["a", "b"]
    assert "Invalid resume of a loop" in caplog.text


def test_keys_beyond_the_limit_are_counted(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """Their items run again, and each item counts once."""
    with session(store) as op:
        work = op._node.operation.completed_work
        assert work is not None
        work.max_keys = 3
        for item in op.track(range(6), key=str):
            if item == 5:
                raise _CrashError(CRASH)
    totals = caplog.text.count("expected at most 1000000 keys per operation")
    assert totals == 1
    with session(store) as op:
        loop = op.track(range(6), key=str)
        assert list(loop) == [3, 4, 5]
        assert loop.level.snapshot().current == 6


def test_dropped_keys_are_in_the_metrics(store: str) -> None:
    """The label is the kind of record."""
    with progress.configure(store=store, console=False, resources=False) as runtime:
        with progress.operation("job", id="nightly", resume=True) as op:
            work = op._node.operation.completed_work
            assert work is not None
            work.max_keys = 1
            list(op.track(range(4), key=str))
        dropped = runtime._totals.read().counters[semconv.EVENTS_DROPPED]
    assert {labels: count for labels, count in dropped.items() if "completed_key" in labels} == {
        ("completed_key",): 3
    }


# --- checkpoints ---------------------------------------------------------------------------------


def test_checkpoint_passes_to_the_next_session(store: str) -> None:
    """It is in the journal when the call returns."""
    with session(store) as op:
        assert op.last_checkpoint is None
        assert op.checkpoint({"epoch": 3, "file": "ü.pt"}) is True
        assert op.last_checkpoint == {"epoch": 3, "file": "ü.pt"}
        raise _CrashError(CRASH)
    with session(store) as op:
        assert op.last_checkpoint == {"epoch": 3, "file": "ü.pt"}
        with op.level("part", 1) as level:
            assert level.checkpoint([4]) is True
        assert op.last_checkpoint == [4]
    with session(store) as op:
        assert op.last_checkpoint is None


def test_checkpoint_of_a_session_without_resume_passes_on(store: str) -> None:
    """Only the session that continues it needs ``resume``."""
    with session(store, resume=False) as op:
        assert op.checkpoint(1) is True
        raise _CrashError(CRASH)
    with session(store) as op:
        assert op.last_checkpoint == 1


@pytest.mark.parametrize(
    "value",
    [{1, 2}, float("nan"), "x" * 65_535, b"bytes", object(), "\ud800", {"k": float("inf")}],
    ids=lambda value: type(value).__name__,
)
def test_invalid_checkpoint_changes_nothing(
    store: str, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    """It is rejected like other invalid values."""
    with session(store) as op:
        assert op.checkpoint("good") is True
        assert op.checkpoint(value) is False
        assert op.last_checkpoint == "good"
        raise _CrashError(CRASH)
    assert "Invalid checkpoint" in caplog.text
    with session(store) as op:
        assert op.last_checkpoint == "good"


def test_deeply_nested_checkpoint_is_rejected(store: str) -> None:
    """It would exceed the recursion limit."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with session(store) as op:
        assert op.checkpoint(value) is False


def test_largest_checkpoint_is_stored(store: str) -> None:
    """The limit is that of its JSON in bytes."""
    with session(store) as op:
        assert op.checkpoint("x" * 65_534) is True
        raise _CrashError(CRASH)
    with session(store) as op:
        assert len(op.last_checkpoint) == 65_534


def test_invalid_checkpoint_raises_in_strict_mode(recorder: Recorder) -> None:
    """The error is that of other invalid values."""
    with progress.operation("job") as op:
        with pytest.raises(progress.RejectedTypeError, match="Invalid checkpoint"):
            op.checkpoint(object())
        assert op.last_checkpoint is None
    assert recorder.operation(op.operation_id).status.finished


def test_checkpoint_changes_nothing_without_configuration() -> None:
    """Libraries may call it."""
    with progress.operation("job") as op:
        assert op.checkpoint(1) is False
        assert op.last_checkpoint is None
        assert op.already_completed is False


def test_checkpoint_returned_to_the_caller_is_a_copy(store: str) -> None:
    """Changing it does not change the stored one."""
    with session(store) as op:
        op.checkpoint([1])
        op.last_checkpoint.append(2)
        assert op.last_checkpoint == [1]


# --- starts --------------------------------------------------------------------------------------


def test_start_of_a_running_operation_is_rejected(store: str) -> None:
    """Both would do the same work. The one that runs is not changed."""
    with session(store) as op:
        op.increment()
        with pytest.raises(progress.OperationRunningError, match=r"'nightly'.*this process runs it"):
            progress.operation("job", id="nightly", resume=True).start()
        assert op.recording
        assert op.snapshot().current == 1


def test_start_without_an_id_is_reported(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing that a later session could find."""
    with session(store, id=None) as op:
        assert op.recording
    assert "Invalid resume of an operation without an id" in caplog.text


def test_start_in_memory_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """The operation starts from the beginning."""
    with progress.configure(store="memory:", console=False, resources=False):
        for _ in range(3):
            with progress.operation("job", id="nightly", resume=True) as op:
                assert op.snapshot().info.attempt == 1
                assert list(op.track("ab", key=str)) == ["a", "b"]
                assert op.checkpoint(1) is False
    assert caplog.text.count("starts from the beginning, because there is no journal") == 1


def test_start_with_a_broken_journal_has_another_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So the next session finds the earlier work."""
    store = f"sqlite:///{tmp_path / 'progress.db'}"
    with session(store) as op:
        op.checkpoint("kept")
        raise _CrashError(CRASH)
    file = tmp_path / "progress.db"
    content = file.read_bytes()
    file.write_bytes(b"not a journal" * 100)
    with session(store) as op:
        assert op.operation_id.startswith("nightly~")
        assert op.last_checkpoint is None
    assert "cannot be resumed" in caplog.text
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"progress.db{suffix}").unlink(missing_ok=True)
    file.write_bytes(content)
    with session(store) as op:
        assert op.last_checkpoint == "kept"


def test_completed_operation_starts_from_the_beginning(store: str) -> None:
    """Its attempt is the first one again."""
    for _ in range(2):
        ran, (before, after) = _run_steps(store, None, total=10)
        assert ran == list(range(10))
        assert (before.current, before.info.attempt, after.current) == (0, 1, 10)


def test_span_links_to_the_earlier_session(store: str) -> None:
    """The link has the trace of the run that is continued."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for crash in (True, False):
        with progress.configure(store=store, console=False, resources=False, tracer_provider=provider):
            try:
                with progress.operation("job", id="nightly", resume=True):
                    if crash:
                        raise _CrashError(CRASH)
            except _CrashError:
                continue
    first, second = exporter.get_finished_spans()
    (link,) = second.links
    assert link.context.trace_id == first.context.trace_id
    assert link.context.span_id == first.context.span_id
    assert dict(link.attributes or {}) == {semconv.ATTEMPT: 1}
    assert (second.attributes or {})[semconv.ATTEMPT] == 2


def test_resumed_run_adds_nothing_to_the_history(store: str) -> None:
    """Neither does the superseded one."""
    for crash_at in (5, None):
        _run_steps(store, crash_at, total=10)
    from otel_progress.journal import open_journal
    from otel_progress.records import TrajectoryKey

    journal = open_journal(store)
    with journal._reading.acquire() as connection:  # type: ignore[attr-defined]
        (count,) = connection.execute(
            "SELECT count(*) FROM trajectories WHERE level = '' AND operation_type = 'job'"
        ).fetchone()
    journal.close()
    assert count == 0
    assert TrajectoryKey is not None


def test_superseded_run_is_in_the_history_of_the_process(store: str) -> None:
    """All sessions of a process that retries are visible."""
    with progress.configure(store=store, console=False, resources=False) as runtime:
        for crash in (True, False):
            try:
                with progress.operation("job", id="nightly", total=2, resume=True) as op:
                    op.increment()
                    if crash:
                        raise _CrashError(CRASH)
                    assert (op.snapshot().current, op.snapshot().info.attempt) == (2, 2)
            except _CrashError:
                continue
        runtime.force_flush()
        stored = {each.root.info.attempt: each.condition for each in runtime.get_history()}
    assert stored == {1: Condition.SUPERSEDED, 2: Condition.OK}


def test_metrics_do_not_count_earlier_units_again(store: str) -> None:
    """The earlier session has counted them."""
    _run_steps(store, 4, total=10)
    with progress.configure(store=store, console=False, resources=False) as runtime:
        with progress.operation("job", id="nightly", total=10, resume=True) as op:
            for step in range(10):
                with op.level("step", step):
                    pass
        runtime.force_flush()
        items = runtime._totals.read().counters[semconv.ITEMS]
    assert sum(count for labels, count in items.items() if "completed" in labels) == 6


# --- resume_from ---------------------------------------------------------------------------------


def _advance(recorder: Recorder, op: Level, steps: int) -> list[Number]:
    seen = []
    for _ in range(steps):
        with op.level("epoch"):
            recorder.clock.advance(1.0)
        recorder.tick()
        seen.append(op.snapshot().current)
    return seen


def test_resumed_parent_counts_its_children(recorder: Recorder) -> None:
    """The estimate uses the rate of this session."""
    with progress.operation("train", id="t", total=100) as op:
        op.resume_from(40)
        assert _advance(recorder, op, 10) == list(range(41, 51))
        operation = recorder.operation("t")
        assert operation.ratio == 0.5
        assert operation.remaining_seconds == pytest.approx(50.0, rel=0.1)
        assert operation.root.resumed_from == 40
        for _ in range(50):
            with op.level("epoch"):
                recorder.clock.advance(1.0)
        assert op.snapshot().current == 100


def test_resumed_parent_includes_running_children(recorder: Recorder) -> None:
    """The ratio of a running child counts, as without earlier units."""
    with progress.operation("train", id="t", total=10) as op:
        op.resume_from(4)
        with op.level("epoch", total=10) as level:
            level.increment(5)
            recorder.tick()
            assert op.snapshot().ratio == pytest.approx(0.45)


def test_resumed_parent_that_counts_itself_ignores_its_children(recorder: Recorder) -> None:
    """Its own count and the children are the same work."""
    with progress.operation("train", id="t", total=10) as op:
        op.resume_from(4)
        for _ in range(3):
            with op.level("epoch"):
                pass
            op.increment()
        assert op.snapshot().current == 7
    assert recorder.operation("t").root.current == 7


def test_children_before_resume_from_are_part_of_its_units(recorder: Recorder) -> None:
    """The value replaces the count of the moment."""
    with progress.operation("train", id="t", total=10) as op:
        for _ in range(2):
            with op.level("epoch"):
                pass
        op.resume_from(5)
        assert op.snapshot().current == 5
        with op.level("epoch"):
            pass
        assert op.snapshot().current == 6
    assert recorder.operation("t").status.finished


def test_operation_of_a_batch_can_be_resumed(store: str) -> None:
    """The batch counts it once."""
    for crash in (True, False):
        with progress.configure(store=store, console=False, resources=False) as runtime:
            try:
                with (
                    progress.batch("nightly jobs", id="night") as batch,
                    batch.operation("job", id="nightly", total=2, resume=True) as op,
                ):
                    op.increment()
                    if crash:
                        raise _CrashError(CRASH)
                    assert op.snapshot().current == 2
            except _CrashError:
                continue
            runtime.force_flush()
    with progress.configure(store=store, console=False, resources=False) as runtime:
        stored = runtime.get_batch("night")
    assert stored is not None
    assert {status.value: count for status, count in stored.counts.items() if count} == {"completed": 1}


def test_key_that_is_not_a_function_is_rejected(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """The loop runs without keys."""
    with session(store) as op:
        assert list(op.track("ab", key="name")) == ["a", "b"]  # type: ignore[arg-type]
    assert "Invalid key of type str: expected a function" in caplog.text
