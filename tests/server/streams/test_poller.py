"""Polls of batches and of runs whose end or deletion the watch did not report."""

from __future__ import annotations

from dataclasses import replace

from otel_progress.batches import BatchCursor
from otel_progress.errors import JournalError
from otel_progress.operations import BatchSnapshot
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import PollIntervals, StreamLimits
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.subscriber import Selection
from tests.support.scripted_reader import Scripted, a_batch, an, an_ended, eventually, in_a_loop, seen

LIMITS = StreamLimits(
    interval_s=0.005,
    polling=PollIntervals(
        pause_s=0.005,
        idle_pause_s=0.005,
        batches_s=0.01,
        idle_batches_s=0.01,
        reconcile_s=0.01,
        settle_s=0.01,
    ),
)
"""Intervals that are so short that no test waits."""
UNRECONCILED = StreamLimits(interval_s=0.005, polling=replace(LIMITS.polling, reconcile_s=1e6))
"""The same without a search for missed ends."""


def test_run_deleted_by_another_process_is_reported() -> None:
    """A run whose end the watch did not report is sent again in its final state."""

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations.update({"a": an("a"), "b": an("b"), "c": an("c")})
        hub = Hub(reader, ServerCounters(), limits=LIMITS)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        await eventually(lambda: seen(subscriber).count("snapshot") == 3, subscriber)
        del reader.operations["a"]
        await eventually(lambda: "gone" in seen(subscriber), subscriber)
        assert {message.operation_id for message in hub.known_runs()} == {"b", "c"}
        reader.operations["b"] = an_ended("b", 9)
        reader.operations["b again"] = an_ended("b", 9, run="another")
        hub.resolve_missing(reader.get("b"), "b", "run of b")
        await eventually(lambda: ("snapshot", 9) in subscriber.__dict__["seen"], subscriber)
        hub.report_deleted("b")
        await eventually(lambda: seen(subscriber).count("gone") == 2, subscriber)
        hub.close()

    in_a_loop(run_scenario)


def test_batch_is_sent_only_after_a_change() -> None:
    """A poll without a change sends nothing."""

    class BatchReader(Scripted):
        now: tuple[BatchSnapshot, ...] = ()
        polls = 0

        def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> tuple[BatchSnapshot, ...]:
            self.polls += 1
            return self.now[:limit] if after is None else ()

    async def run_scenario() -> None:
        reader = BatchReader()
        hub = Hub(reader, ServerCounters(), limits=LIMITS)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        reader.now = (a_batch("b1"),)
        await eventually(lambda: seen(subscriber) == ["batch"], subscriber)
        polls = reader.polls
        await eventually(lambda: reader.polls > polls + 2, subscriber)
        assert seen(subscriber) == ["batch"]
        reader.now = (a_batch("b2"), a_batch("b1"))
        await eventually(lambda: seen(subscriber) == ["batch", "batch"], subscriber)
        hub.close()

    in_a_loop(run_scenario)


def test_run_whose_end_the_watch_missed_is_sent_in_its_final_state() -> None:
    """It is in the history already, and the watch reports no error."""

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations["a"] = an("a")
        hub = Hub(reader, ServerCounters(), limits=LIMITS)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        await eventually(lambda: seen(subscriber).count("snapshot") == 1, subscriber)
        reader.operations["a"] = an_ended("a", 9)
        await eventually(lambda: ("snapshot", 9) in subscriber.__dict__["seen"], subscriber)
        hub.close()

    in_a_loop(run_scenario)


def test_operations_that_ended_during_an_error_of_the_reader_are_sent() -> None:
    """Also one that started during it. One that ended before is not sent."""

    async def run_scenario() -> None:
        reader = Scripted()
        reader.operations.update({"a": an("a"), "old": an_ended("old", 3)})
        hub = Hub(reader, ServerCounters(), limits=UNRECONCILED)  # type: ignore[arg-type]
        subscriber = hub.attach("sse")
        subscriber.start(Selection(), (), levels=False)
        await eventually(lambda: seen(subscriber).count("snapshot") == 1, subscriber)
        reader.there.clear()
        reader.put(JournalError("the server is away"))
        await eventually(lambda: reader.watches == 2, subscriber)
        reader.operations.update({"a": an_ended("a", 9), "b": an_ended("b", 7)})
        reader.there.set()
        expected = {("snapshot", 9), ("snapshot", 7)}
        await eventually(lambda: expected <= set(subscriber.__dict__["seen"]), subscriber)
        assert ("snapshot", 3) not in subscriber.__dict__["seen"]
        hub.close()

    in_a_loop(run_scenario)
