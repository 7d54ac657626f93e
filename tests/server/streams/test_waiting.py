"""A task that waits in a loop ends when it is cancelled, whatever happens in that moment."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.server.streams.waiting import wait_for_event


@pytest.mark.parametrize("steps", range(8))
def test_a_cancellation_is_never_lost(steps: int) -> None:
    """However many steps of the loop after the event was set it comes."""

    async def scene() -> None:
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

    asyncio.run(scene())


def test_the_time_runs_out_or_the_event_comes() -> None:
    """It tells which of both it was."""

    async def scene() -> None:
        event = asyncio.Event()
        assert await wait_for_event(event, 0.001) is False
        event.set()
        assert await wait_for_event(event, 600.0) is True

    asyncio.run(scene())
