"""What the hub looks up beside the watch: batches, and what became of operations that nobody told of."""

from __future__ import annotations

import asyncio

import pytest

from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import StreamLimits
from otel_progress.server.streams import poller as looking
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.subscriber import Selection
from tests.support.scripted_reader import Scripted, a_batch, an, an_ended, eventually, in_a_loop, seen


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at everything all the time, so that no test waits."""
    for name in ("BATCHES_EVERY_S", "BATCHES_AT_LEAST_S", "SWEEP_EVERY_S", "_SETTLED_S"):
        monkeypatch.setattr(looking, name, 0.01)

    async def a_moment(event: asyncio.Event, seconds: float) -> None:
        del event, seconds
        await asyncio.sleep(0.005)

    monkeypatch.setattr(looking, "wait_for_event", a_moment)


def test_what_vanished_is_found_out() -> None:
    """A run deleted by another process is gone; one that ended while nobody watched comes once more, as it ended."""

    async def scene() -> None:
        reader = Scripted()
        reader.operations.update({"a": an("a"), "b": an("b"), "c": an("c")})
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        follower = hub.attach("sse")
        follower.begin(Selection(), (), levels=False)
        await eventually(lambda: seen(follower).count("snapshot") == 3, follower)
        del reader.operations["a"]
        await eventually(lambda: "gone" in seen(follower), follower)
        assert {message.operation_id for message in hub.known_runs()} == {"b", "c"}
        reader.operations["b"] = an_ended("b", 9)
        reader.operations["b again"] = an_ended("b", 9, run="another")
        hub.resolve_missing(reader.get("b"), "b", "run of b")
        await eventually(lambda: ("snapshot", 9) in follower.__dict__["seen"], follower)
        hub.forget("b")
        await eventually(lambda: seen(follower).count("gone") == 2, follower)
        hub.close()

    in_a_loop(scene)


def test_batches_are_told_when_they_say_something_new() -> None:
    """A batch comes when it was declared and when it changed, and not at each look."""

    class Batching(Scripted):
        now: tuple[BatchSnapshot, ...] = ()
        looks = 0

        def batches(self, query: BatchQuery = BatchQuery()) -> tuple[BatchSnapshot, ...]:
            self.looks += 1
            return self.now[: query.limit] if query.after is None else ()

    async def scene() -> None:
        reader = Batching()
        hub = Hub(reader, ServerCounters(), limits=StreamLimits(interval_s=0.005))  # type: ignore[arg-type]
        follower = hub.attach("sse")
        follower.begin(Selection(), (), levels=False)
        reader.now = (a_batch("b1"),)
        await eventually(lambda: seen(follower) == ["batch"], follower)
        looks = reader.looks
        await eventually(lambda: reader.looks > looks + 2, follower)
        assert seen(follower) == ["batch"]
        reader.now = (a_batch("b2"), a_batch("b1"))
        await eventually(lambda: seen(follower) == ["batch", "batch"], follower)
        hub.close()

    in_a_loop(scene)
