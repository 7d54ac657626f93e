"""Questions to a Reader from the event loop: readers block (SQLite waits for locks and disks), so a few threads ask in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_progress.server.problems import Problem
from otel_progress.server.settings import Limits

if TYPE_CHECKING:
    from otel_progress.server.counters import ServerCounters


T = TypeVar("T")


_RETRY: Final = {"Retry-After": "1"}


class ReaderPool:
    """A few threads that run what blocks, a bounded queue before them, and a limit in time for each answer.

    A thread whose question takes too long stays busy with it and counts as busy, so a disk that hangs costs ``limits.readers``
    threads and no more. The threads start at the first question.
    """

    def __init__(self, limits: Limits, counts: ServerCounters) -> None:
        self._limits = limits
        self._counts = counts
        self._pool: ThreadPoolExecutor | None = None
        self._open = 0
        self._lock = Lock()

    async def run(self, question: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        """Return ``question(*arguments, **named)``, run in a thread. Raises Problem (503) when busy or out of time."""
        limits = self._limits
        if self._open >= limits.readers + limits.waiting:
            self._counts.refused("busy")
            raise Problem(
                503,
                "Too many requests wait to be answered. Ask again in a moment, and less often.",
                headers=_RETRY,
            )
        if self._pool is None:
            self._pool = ThreadPoolExecutor(limits.readers, thread_name_prefix="otel-progress-reader")
        answer = self._pool.submit(partial(question, *arguments, **named))
        with self._lock:
            self._open += 1
        # Counted until the thread is done with it, not until somebody stopped waiting.
        answer.add_done_callback(self._count_down)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), limits.answer_s)
        except asyncio.TimeoutError:
            self._counts.refused("timeout")
            msg = f"The journal did not answer within {limits.answer_s:g} seconds. See whether its disk is busy or its file locked."
            raise Problem(503, msg, headers=_RETRY) from None

    def close(self) -> None:
        """Let the threads end, and forget the questions that wait; one that is being answered goes on by itself.

        A later question starts threads anew, as an application may be started again.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _count_down(self, answer: Future[Any]) -> None:
        """Called in the thread that is done, or where a question was forgotten."""
        del answer
        with self._lock:
            self._open -= 1
