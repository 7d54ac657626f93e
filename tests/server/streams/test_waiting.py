"""Waiting for an event with a timeout."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.server.streams.waiting import wait_for_event


@pytest.mark.parametrize("steps", range(8))
def test_wait_with_a_cancellation_near_the_event_is_cancelled(steps: int) -> None:
    """The cancellation comes some steps of the event loop after the event."""

    async def run_scenario() -> None:
        event = asyncio.Event()

        async def work() -> None:
            while True:
                await wait_for_event(event, 600.0)
                event.clear()

        task = asyncio.ensure_future(work())
        for _ in range(5):
            await asyncio.sleep(0)
        event.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        ended = task.cancelled()
        task.cancel()
        assert ended

    asyncio.run(run_scenario())


def test_wait_returns_whether_the_event_was_set() -> None:
    """False means that the time is over."""

    async def run_scenario() -> None:
        event = asyncio.Event()
        assert await wait_for_event(event, 0.001) is False
        event.set()
        assert await wait_for_event(event, 600.0) is True

    asyncio.run(run_scenario())
