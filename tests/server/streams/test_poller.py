"""Polls of batches and of runs whose end or deletion the watch did not report."""

from __future__ import annotations

from otel_progress.batches import BatchCursor
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
