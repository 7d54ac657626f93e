"""The hub without a network: every client ends with the newest of everything, without a gap or a double, however slow it is."""

# ruff: noqa: D102 - the signatures are the protocol's

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_progress.codec import encode_operation
from otel_progress.errors import JournalError
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import StreamLimits
from otel_progress.server.streams import reader_watch as feed
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import Encoder
from otel_progress.server.streams.subscriber import PIECE_MESSAGES, Selection, Subscriber
from otel_progress.server.streams.subscriptions import LINGER_S
from otel_progress.testing import FakeClock
from tests.support.factories import event, operation
from tests.support.scripted_reader import Scripted, a_batch, an, an_ended, eventually, in_a_loop, seen
from tests.support.strategies import snapshots


class Watching:
    """A hub fed by hand, and clients of it; nothing runs in the background."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock()
        self.counts = ServerCounters()
        self.reader = Scripted()
        self.hub = Hub(self.reader, self.counts, limits=StreamLimits(**limits), clock=self.clock.monotonic)  # type: ignore[arg-type]
        self.hub._start = lambda: None  # type: ignore[method-assign] - no watch, no tasks: a test is the reader
        self.hub.primed = True

    def client(self, wide: Selection | None = Selection(), ids: Sequence[str] = ()) -> Subscriber:  # noqa: B008 - frozen
        follower = self.hub.attach("sse")
        follower.begin(wide, ids, levels=False)
        return follower


def told(follower: Subscriber) -> list[tuple[str, str, int]]:
    """Take everything; return (kind, operation, sequence of the snapshot) of each."""
    found = []
    while messages := follower.next_messages():
        assert len(messages) <= PIECE_MESSAGES
        for message in messages:
            document = json.loads(message.sse.decode().partition("data: ")[2])
            found.append((message.kind, document.get("operation_id", ""), document.get("sequence", 0)))
    return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 4)),
        st.tuples(st.just("end"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.integers(0, 2)),
        st.tuples(st.just("reconnect"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_resuming_leaves_no_gap_and_no_double(steps: list[tuple[str, int]], most_ended: int) -> None:
    """Changes, slow clients and lost connections in any order: each client has the newest of everything, nothing twice, in order."""

    async def scene() -> None:
        watching = Watching(most_ended=most_ended)
        hub, truth, sequence = watching.hub, {}, 0  # type: ignore[var-annotated]
        clients = [watching.client() for _ in range(3)]
        states: list[dict[str, int]] = [{} for _ in clients]
        last = [f"{hub.epoch}-0" for _ in clients]

        def take(place: int) -> None:
            follower, state = clients[place], states[place]
            if follower.is_behind():
                state.clear()
                follower.restart()
            for message in follower.next_messages():
                document = json.loads(message.sse.decode().partition("data: ")[2])
                before = state.get(document["run"])
                assert before is None or before < document["sequence"], "a double, or out of order"
                state[document["run"]] = document["sequence"]
                last[place] = f"{hub.epoch}-{message.number}"

        def reconnect(place: int) -> None:
            hub.detach(clients[place])
            clients[place] = watching.client()
            cursor = hub.can_resume(last[place], ())
            if cursor is None:
                states[place].clear()
            else:
                clients[place].resume(cursor)

        for step, number in steps:
            if step in {"change", "end"}:
                sequence += 1
                run = (
                    f"{number}-{sum(run.startswith(f'{number}-') and end for run, (_, end) in truth.items())}"
                )
                truth[run] = sequence, step == "end"
                make = an_ended if step == "end" else an
                hub.apply([make(str(number), sequence, run=run)])
            elif step == "take":
                take(number)
            else:
                reconnect(number)
        kept = {message.key[1]: truth[message.key[1]][0] for message in hub.known_runs()}
        for place in range(3):
            for _ in range(10):
                take(place)
            assert {run: states[place].get(run) for run in kept} == kept, "a gap"

    in_a_loop(scene)


def test_a_slow_client_gets_the_newest_only() -> None:
    """A hundred changes of one operation while a client does not read are one message to it, and 99 counted as coalesced."""

    async def scene() -> None:
        watching = Watching()
        slow, quick = watching.client(), watching.client()
        watching.hub.apply([an("a", 1)])
        assert told(slow) == told(quick) == [("snapshot", "a", 1)]
        for sequence in range(2, 12):
            watching.hub.apply([an("a", sequence)])
            assert told(quick) == [("snapshot", "a", sequence)]
        assert told(slow) == [("snapshot", "a", 11)]
        assert (slow.skipped, quick.skipped) == (9, 0)

    in_a_loop(scene)


def test_a_message_is_encoded_once() -> None:
    """All clients get the same bytes object, and nobody's bytes are made before somebody takes them."""

    async def scene() -> None:
        watching = Watching()
        clients = [watching.client() for _ in range(3)]
        watching.hub.apply([an("a")])
        messages = [client.next_messages()[0] for client in clients]
        assert messages[0] is messages[1] is messages[2]
        assert messages[0].sse is messages[1].sse

    in_a_loop(scene)


def test_who_missed_what_was_forgotten_is_told() -> None:
    """The backlog of ended operations is bounded; a client that was not told of one that fell out has to begin afresh."""

    async def scene() -> None:
        watching = Watching(most_ended=2)
        hub = watching.hub
        hub.apply([an("a")])
        behind, away = watching.client(), watching.client()
        told(behind)
        told(away)
        cursor = f"{hub.epoch}-{hub.head}"
        hub.apply([an_ended(id_) for id_ in "abcd"])
        assert behind.is_behind()
        assert hub.can_resume(cursor, ()) is None
        behind.restart()
        assert not behind.is_behind()
        assert [id_ for _, id_, _ in told(behind)] == ["c", "d"]
        assert hub.can_resume(f"{hub.epoch}-{hub.head}", ()) == hub.head

    in_a_loop(scene)


def test_ended_operations_age() -> None:
    """What ended long ago is forgotten by time alone, and what runs is not."""

    async def scene() -> None:
        watching = Watching(ended_age_s=60.0)
        watching.hub.apply([an("runs"), an_ended("ended")])
        watching.clock.advance(61.0)
        watching.hub.run_maintenance()
        assert told(watching.client()) == [("snapshot", "runs", 1)]

    in_a_loop(scene)


@pytest.mark.parametrize(
    "place", ["", "1", "-", "x-1", "{epoch}-", "{epoch}-x", "{epoch}-99", "{epoch}-²", "{epoch}-" + "9" * 99]
)
def test_a_foreign_place_cannot_be_resumed(place: str) -> None:
    """An id of another server, of the future, or of nobody, begins afresh instead of failing."""

    async def scene() -> None:
        hub = Watching().hub
        assert hub.can_resume(place.replace("{epoch}", hub.epoch), ()) is None

    in_a_loop(scene)


def test_clients_get_what_they_select() -> None:
    """By type, by batch, by id; and who names ids is told of nothing else."""

    async def scene() -> None:
        watching = Watching()
        types = watching.client(Selection(frozenset({"video"})))
        of_batch = watching.client(Selection(batch="b1"))
        named = watching.client(None, ["c"])
        watching.hub.apply([an("a", operation_type="video"), an("b", batch="b1"), an("c")])
        watching.hub.batches([a_batch("b1"), a_batch("b2")])
        assert [id_ for _, id_, _ in told(types)] == ["a"]
        assert [kind for kind, _, _ in told(of_batch)] == ["snapshot", "batch"]
        assert [id_ for _, id_, _ in told(named)] == ["c"]

    in_a_loop(scene)


def test_what_is_deleted_is_told_once() -> None:
    """A run that is gone takes its snapshot's place, for those who come later as well."""

    async def scene() -> None:
        watching = Watching()
        hub, client = watching.hub, watching.client()
        hub.apply([an_ended("a")])
        told(client)
        hub.mark_deleted("a", "run of a")
        hub.mark_deleted("a", "run of a")
        hub.mark_deleted("b", "never seen")
        assert [kind for kind, *_ in told(client)] == ["gone"]

    in_a_loop(scene)


def test_a_client_that_does_not_take_a_write_is_let_go() -> None:
    """After 30 seconds in one write its task is cancelled, and counted; one that is merely idle stays."""

    async def scene() -> None:
        watching = Watching(blocked_s=30.0)
        never = asyncio.Event()

        async def stuck() -> Subscriber:
            follower = watching.client()
            try:
                with follower.timed_write():
                    await never.wait()
            except asyncio.CancelledError:
                return follower
            raise AssertionError

        task = asyncio.get_running_loop().create_task(stuck())
        watching.client()
        await asyncio.sleep(0)
        watching.clock.advance(29.0)
        watching.hub.run_maintenance()
        await asyncio.sleep(0)
        assert not task.done()
        watching.clock.advance(2.0)
        watching.hub.run_maintenance()
        assert (await task).evicted
        assert any(series == {("slow",): 1} for series in watching.counts.read().values())

    in_a_loop(scene)


def test_items_and_the_past_come_to_who_names_an_operation() -> None:
    """An operation that ended before anybody asked is looked up; items come from the first look on, once each."""

    async def scene() -> None:
        reader = Scripted()
        reader.operations["old"] = an_ended("old")
        reader.operations["a"] = an("a")
        reader.items["a"] = [event(1, operation_id="a", name="before")]
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        follower = hub.attach("sse")
        follower.begin(None, ["old", "a"], levels=False)
        await eventually(follower.is_up_to_date, follower)
        reader.items["a"].append(event(2, operation_id="a", name="after"))
        reader.put([an("a", 2)])
        kinds = await eventually(lambda: "item" in seen(follower), follower)
        reader.put([an("a", 3)])
        await eventually(lambda: ("snapshot", 3) in follower.__dict__["seen"], follower)
        assert kinds is not None
        names = [entry for entry in follower.__dict__["seen"] if entry[0] == "item"]
        assert len(names) == 1
        hub.detach(follower)
        hub.close()

    in_a_loop(scene)


def test_a_journal_that_fails_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are told what is wrong while it is; then the watch goes on by itself, and nothing was lost."""
    monkeypatch.setattr(feed, "RETRY_S", 0.01)

    async def scene() -> None:
        reader = Scripted()
        reader.operations["a"] = an("a")
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        follower = hub.attach("sse")
        follower.begin(Selection(), (), levels=False)
        await eventually(lambda: "snapshot" in seen(follower), follower)
        reader.there.clear()  # so that it stays away until this was seen, however late that is
        reader.put(JournalError("the disk is away"))
        await eventually(lambda: hub.trouble == "the disk is away", follower)
        reader.operations["a"] = an("a", 7)
        reader.there.set()
        await eventually(
            lambda: hub.trouble is None and ("snapshot", 7) in follower.__dict__["seen"], follower
        )
        assert reader.watches == 2
        hub.close()

    in_a_loop(scene)


def test_one_watch_for_all_and_none_for_nobody() -> None:
    """The first client starts the watch, others join it, and a minute after the last one it ends."""

    async def scene() -> None:
        clock, reader = FakeClock(), Scripted()
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005), clock=clock.monotonic)  # type: ignore[arg-type]
        clients = [hub.attach("sse") for _ in range(5)]
        clients[0].begin(Selection(), (), levels=False)
        epoch = hub.epoch
        await eventually(lambda: hub.primed, clients[0])
        assert reader.watches == 1
        for client in clients:
            hub.detach(client)
        clock.advance(LINGER_S - 1.0)
        hub.run_maintenance()
        assert hub.attach("sse") in hub.followers
        assert hub.epoch == epoch
        hub.detach(next(iter(hub.followers)))
        clock.advance(LINGER_S + 1.0)
        hub.run_maintenance()
        last = hub.attach("sse")
        assert hub.epoch != epoch, "what happened in between was not watched, so no old place may be resumed"
        hub.detach(last)
        hub.close()

    in_a_loop(scene)


@given(snapshots(""), st.booleans())
@settings(deadline=None)
def test_the_quick_encoder_says_what_the_codec_says(root: Any, alive: bool) -> None:
    """Whatever an operation holds, the stream's document is the codec's, also from what was remembered of its run."""
    encoder, one = Encoder(), operation(root, alive=alive)
    for _ in range(2):
        assert json.loads(encoder.encode(one)) == json.loads(json.dumps(encode_operation(one, levels=False)))


def test_a_deleted_run_is_gone_at_once_also_one_that_never_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abandoned run that was deleted by its id and run is told without waiting for the next comparison; a newer one stays."""
    monkeypatch.setattr("otel_progress.server.streams.poller.SWEEP_EVERY_S", 1e6)

    async def scene() -> None:
        reader = Scripted()
        reader.operations.update({"a": an("a"), "b": an("b")})
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        follower = hub.attach("sse")
        follower.begin(Selection(), (), levels=False)
        await eventually(lambda: seen(follower).count("snapshot") == 2, follower)
        hub.forget("b", "another run")
        hub.forget("a", reader.operations.pop("a").run)
        await eventually(lambda: "gone" in seen(follower), follower)
        assert {message.operation_id for message in hub.known_runs()} == {"b"}
        hub.close()

    in_a_loop(scene)
