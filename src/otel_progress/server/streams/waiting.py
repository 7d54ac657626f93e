"""Waits for an asyncio event with a timeout, without losing a cancellation."""

from __future__ import annotations

import asyncio


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> bool:
    """Return True as soon as ``event`` is set, False after ``timeout_s`` seconds."""
    # Why: up to Python 3.11 asyncio.wait_for loses a cancellation that arrives when the event
    # is set. A task that waits in a loop would then never end.
    waiter = asyncio.ensure_future(event.wait())
    try:
        done, _ = await asyncio.wait({waiter}, timeout=timeout_s)
    finally:
        waiter.cancel()
    return bool(done)
