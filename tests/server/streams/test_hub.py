"""The hub without a network: every client gets each latest state once."""

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
from otel_progress.protocols import PreviewQuery
from otel_progress.records import Preview
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import PollIntervals, StreamLimits
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import Encoder
from otel_progress.server.streams.subscriber import PIECE_MESSAGES, Selection, Subscriber
from otel_progress.server.streams.subscriptions import LINGER_S
from otel_progress.testing import FakeClock
from tests.support.examples import scale_examples
from tests.support.factories import event, operation, preview
from tests.support.scripted_reader import Scripted, a_batch, an, an_ended, eventually, in_a_loop, seen
from tests.support.strategies import snapshots


class ManualHub:
    """A hub without a watch: the test reports changes to it."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock()
        self.counts = ServerCounters()
        self.reader = Scripted()
        self.hub = Hub(self.reader, self.counts, limits=StreamLimits(**limits), clock=self.clock.monotonic)  # type: ignore[arg-type]
        self.hub._start = lambda: None  # type: ignore[method-assign]
        self.hub.primed = True

    def add_client(
        self,
        selection: Selection | None = Selection(),  # noqa: B008 - frozen
        ids: Sequence[str] = (),
    ) -> Subscriber:
        subscriber = self.hub.attach("sse")
        subscriber.start(selection, ids, levels=False)
        return subscriber


def receive_all(subscriber: Subscriber) -> list[tuple[str, str, int]]:
    """Return (kind, operation id, sequence of the snapshot) of all messages."""
    found = []
    while messages := subscriber.next_messages():
        assert len(messages) <= PIECE_MESSAGES
        for message in messages:
            document = json.loads(message.sse.decode().partition("data: ")[2])
            found.append((message.kind, document.get("operation_id", ""), document.get("sequence", 0)))
    return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 4)),
        st.tuples(st.just("end"), st.integers(0, 4)),
        st.tuples(st.just("receive"), st.integers(0, 2)),
        st.tuples(st.just("reconnect"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
@settings(max_examples=scale_examples(150), deadline=None)
def test_clients_with_any_reconnects_receive_every_latest_state_once(
    steps: list[tuple[str, int]], max_ended: int
) -> None:
    """Changes, slow clients and reconnects come in any order."""

    async def run_scenario() -> None:
        manual = ManualHub(max_ended=max_ended)
        hub, truth, sequence = manual.hub, {}, 0  # type: ignore[var-annotated]
        clients = [manual.add_client() for _ in range(3)]
        states: list[dict[str, int]] = [{} for _ in clients]
        last = [f"{hub.epoch}-0" for _ in clients]

        def receive(index: int) -> None:
            subscriber, state = clients[index], states[index]
            if subscriber.is_behind():
                state.clear()
                subscriber.restart()
            for message in subscriber.next_messages():
                document = json.loads(message.sse.decode().partition("data: ")[2])
                before = state.get(document["run"])
                assert before is None or before < document["sequence"], "a duplicate, or out of order"
                state[document["run"]] = document["sequence"]
                last[index] = f"{hub.epoch}-{message.number}"

        def reconnect(index: int) -> None:
            hub.detach(clients[index])
            clients[index] = manual.add_client()
            cursor = hub.find_cursor(last[index], ())
            if cursor is None:
                states[index].clear()
            else:
                clients[index].resume(cursor)

        for step, number in steps:
            if step in {"change", "end"}:
                sequence += 1
                run = (
                    f"{number}-{sum(run.startswith(f'{number}-') and end for run, (_, end) in truth.items())}"
                )
                truth[run] = sequence, step == "end"
                make = an_ended if step == "end" else an
                hub.apply([make(str(number), sequence, run=run)])
            elif step == "receive":
                receive(number)
            else:
                reconnect(number)
        stored = {message.key[1]: truth[message.key[1]][0] for message in hub.known_runs()}
        for index in range(3):
            for _ in range(10):
                receive(index)
            assert {run: states[index].get(run) for run in stored} == stored, "a gap"

    in_a_loop(run_scenario)


def test_slow_client_receives_only_the_latest_snapshot() -> None:
    """The versions that it did not receive are counted."""

    async def run_scenario() -> None:
        manual = ManualHub()
        slow, fast = manual.add_client(), manual.add_client()
        manual.hub.apply([an("a", 1)])
        assert receive_all(slow) == receive_all(fast) == [("snapshot", "a", 1)]
        for sequence in range(2, 12):
            manual.hub.apply([an("a", sequence)])
            assert receive_all(fast) == [("snapshot", "a", sequence)]
        assert receive_all(slow) == [("snapshot", "a", 11)]
        assert (slow.skipped, fast.skipped) == (9, 0)

    in_a_loop(run_scenario)


def test_message_for_several_clients_is_encoded_once() -> None:
    """All clients receive the same bytes object."""

    async def run_scenario() -> None:
        manual = ManualHub()
        clients = [manual.add_client() for _ in range(3)]
        manual.hub.apply([an("a")])
        messages = [client.next_messages()[0] for client in clients]
        assert messages[0] is messages[1] is messages[2]
        assert messages[0].sse is messages[1].sse

    in_a_loop(run_scenario)


def test_client_that_missed_an_evicted_message_has_to_restart() -> None:
    """The backlog of ended operations is bounded."""

    async def run_scenario() -> None:
        manual = ManualHub(max_ended=2)
        hub = manual.hub
        hub.apply([an("a")])
        behind, away = manual.add_client(), manual.add_client()
        receive_all(behind)
        receive_all(away)
        cursor = f"{hub.epoch}-{hub.last_number}"
        hub.apply([an_ended(id_) for id_ in "abcd"])
        assert behind.is_behind()
        assert hub.find_cursor(cursor, ()) is None
        behind.restart()
        assert not behind.is_behind()
        assert [id_ for _, id_, _ in receive_all(behind)] == ["c", "d"]
        assert hub.find_cursor(f"{hub.epoch}-{hub.last_number}", ()) == hub.last_number

    in_a_loop(run_scenario)


def test_ended_operation_expires_after_its_maximum_age() -> None:
    """A running operation does not expire."""

    async def run_scenario() -> None:
        manual = ManualHub(ended_age_s=60.0)
        manual.hub.apply([an("runs"), an_ended("ended")])
        manual.clock.advance(61.0)
        manual.hub.run_maintenance()
        assert receive_all(manual.add_client()) == [("snapshot", "runs", 1)]

    in_a_loop(run_scenario)


@pytest.mark.parametrize(
    "cursor", ["", "1", "-", "x-1", "{epoch}-", "{epoch}-x", "{epoch}-99", "{epoch}-²", "{epoch}-" + "9" * 99]
)
def test_cursor_of_another_sequence_cannot_be_resumed(cursor: str) -> None:
    """The client receives the full set instead of an error."""

    async def run_scenario() -> None:
        hub = ManualHub().hub
        assert hub.find_cursor(cursor.replace("{epoch}", hub.epoch), ()) is None

    in_a_loop(run_scenario)


def test_client_receives_only_the_operations_it_selects() -> None:
    """A selection is by type, by batch or by id."""

    async def run_scenario() -> None:
        manual = ManualHub()
        types = manual.add_client(Selection(frozenset({"video"})))
        of_batch = manual.add_client(Selection(batch="b1"))
        named = manual.add_client(None, ["c"])
        manual.hub.apply([an("a", operation_type="video"), an("b", batch="b1"), an("c")])
        manual.hub.apply_batches([a_batch("b1"), a_batch("b2")])
        assert [id_ for _, id_, _ in receive_all(types)] == ["a"]
        assert [kind for kind, _, _ in receive_all(of_batch)] == ["snapshot", "batch"]
        assert [id_ for _, id_, _ in receive_all(named)] == ["c"]

    in_a_loop(run_scenario)


def test_deleted_run_is_reported_once() -> None:
    """The message of the deletion replaces the snapshot."""

    async def run_scenario() -> None:
        manual = ManualHub()
        hub, client = manual.hub, manual.add_client()
        hub.apply([an_ended("a")])
        receive_all(client)
        hub.mark_deleted("a", "run of a")
        hub.mark_deleted("a", "run of a")
        hub.mark_deleted("b", "never seen")
        assert [kind for kind, *_ in receive_all(client)] == ["gone"]

    in_a_loop(run_scenario)


def test_client_with_a_blocked_write_is_disconnected() -> None:
    """An idle client stays connected."""

    async def run_scenario() -> None:
        manual = ManualHub(blocked_s=30.0)
        never = asyncio.Event()

        async def block_a_write() -> Subscriber:
            subscriber = manual.add_client()
            try:
                with subscriber.timed_write():
                    await never.wait()
            except asyncio.CancelledError:
                return subscriber
            raise AssertionError

        task = asyncio.get_running_loop().create_task(block_a_write())
        manual.add_client()
        await asyncio.sleep(0)
        manual.clock.advance(29.0)
        manual.hub.run_maintenance()
        await asyncio.sleep(0)
        assert not task.done()
        manual.clock.advance(2.0)
        manual.hub.run_maintenance()
        assert (await task).evicted
        assert any(series == {("slow",): 1} for series in manual.counts.read().values())

    in_a_loop(run_scenario)


def test_client_by_id_receives_ended_operations_and_new_items() -> None:
    """An operation that ended earlier is read from the journal."""

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations["old"] = an_ended("old")
        reader.operations["a"] = an("a")
        reader.items["a"] = [event(1, operation_id="a", name="before")]
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(None, ["old", "a"], levels=False)
        await eventually(subscriber.is_up_to_date, subscriber)
        reader.items["a"].append(event(2, operation_id="a", name="after"))
        reader.put([an("a", 2)])
        kinds = await eventually(lambda: "item" in seen(subscriber), subscriber)
        reader.put([an("a", 3)])
        await eventually(lambda: ("snapshot", 3) in subscriber.__dict__["seen"], subscriber)
        assert kinds is not None
        names = [entry for entry in subscriber.__dict__["seen"] if entry[0] == "item"]
        assert len(names) == 1
        hub.detach(subscriber)
        hub.close()

    in_a_loop(run_scenario)


class PreviewReader(Scripted):
    """A scripted reader that also has previews."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[Preview] = []

    def previews(
        self,
        operation_id: str,
        query: PreviewQuery = PreviewQuery(),
    ) -> Sequence[Preview]:
        return [one for one in self.stored if one.operation_id == operation_id][-query.limit :]


@pytest.mark.parametrize("levels", [False, True])
def test_item_and_preview_without_a_newer_snapshot_reach_a_client_by_id(levels: bool) -> None:
    """They are polled without a change, and the tree is not sent again."""

    async def run_scenario() -> None:
        reader = PreviewReader()
        reader.operations["a"] = an("a")
        reader.items["a"] = [event(1, operation_id="a", name="before")]
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(None, ["a"], levels=levels)
        await eventually(subscriber.is_up_to_date, subscriber)
        await asyncio.sleep(0.5)
        snapshots_before, reads_before = seen(subscriber).count("snapshot"), len(reader.asked)
        reader.items["a"] += [event(number, operation_id="a") for number in range(2, 80)]
        reader.stored.append(preview(1, operation_id="a"))
        await eventually(lambda: seen(subscriber).count("item") == 78, subscriber)
        await eventually(lambda: seen(subscriber).count("preview") == 1, subscriber)
        assert seen(subscriber).count("snapshot") == snapshots_before
        assert len(reader.asked) == reads_before
        hub.detach(subscriber)
        hub.close()

    in_a_loop(run_scenario)


def test_hub_with_a_failing_journal_reports_the_error_and_recovers() -> None:
    """The watch is retried, and no change is lost."""
    limits = StreamLimits(interval_s=0.005, polling=PollIntervals(watch_retry_s=0.01))

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations["a"] = an("a")
        hub = Hub(reader, ServerCounters(), limits=limits)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        await eventually(lambda: "snapshot" in seen(subscriber), subscriber)
        reader.there.clear()
        reader.put(JournalError("the disk is away"))
        await eventually(lambda: hub.reader_error == "the disk is away", subscriber)
        reader.operations["a"] = an("a", 7)
        reader.there.set()
        await eventually(
            lambda: hub.reader_error is None and ("snapshot", 7) in subscriber.__dict__["seen"], subscriber
        )
        assert reader.watches == 2
        hub.close()

    in_a_loop(run_scenario)


def test_watch_is_shared_and_stops_a_minute_after_the_last_client() -> None:
    """The first client starts it."""

    async def run_scenario() -> None:
        clock, reader = FakeClock(), Scripted()
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005), clock=clock.monotonic)  # type: ignore[arg-type]
        clients = [hub.attach("sse") for _ in range(5)]
        clients[0].start(Selection(), (), levels=False)
        epoch = hub.epoch
        await eventually(lambda: hub.primed, clients[0])
        assert reader.watches == 1
        for client in clients:
            hub.detach(client)
        clock.advance(LINGER_S - 1.0)
        hub.run_maintenance()
        assert hub.attach("sse") in hub.subscribers
        assert hub.epoch == epoch
        hub.detach(next(iter(hub.subscribers)))
        clock.advance(LINGER_S + 1.0)
        hub.run_maintenance()
        last = hub.attach("sse")
        assert hub.epoch != epoch, "changes without a watch are unknown, so an old cursor is not valid"
        hub.detach(last)
        hub.close()

    in_a_loop(run_scenario)


@given(snapshots(""), st.booleans())
@settings(deadline=None)
def test_encoder_with_cached_parts_equals_the_codec(root: Any, alive: bool) -> None:
    """The second encoding uses the cache."""
    encoder, encoded = Encoder(), operation(root, alive=alive)
    for _ in range(2):
        assert json.loads(encoder.encode(encoded)) == json.loads(
            json.dumps(encode_operation(encoded, levels=False))
        )


def test_deleted_abandoned_run_is_reported_without_a_reconciliation() -> None:
    """A newer run of the same id stays."""
    limits = StreamLimits(interval_s=0.005, polling=PollIntervals(reconcile_s=1e6))

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations.update({"a": an("a"), "b": an("b")})
        hub = Hub(reader, ServerCounters(), limits=limits)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        await eventually(lambda: seen(subscriber).count("snapshot") == 2, subscriber)
        hub.report_deleted("b", "another run")
        hub.report_deleted("a", reader.operations.pop("a").run)
        await eventually(lambda: "gone" in seen(subscriber), subscriber)
        assert {message.operation_id for message in hub.known_runs()} == {"b"}
        hub.close()

    in_a_loop(run_scenario)
