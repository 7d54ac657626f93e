"""Waiting for an event, for some time, without ever losing a cancellation."""

from __future__ import annotations

import asyncio


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Return True as soon as ``event`` is set, False after so many seconds.

    Not ``asyncio.wait_for``: up to Python 3.11 that forgets a cancellation which comes in the moment in which the event is set, and
    a task that waits in a loop would go on for ever.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        done, _ = await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
    return bool(done)
