"""Thread pool for blocking calls of a Reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar

from otel_progress.server.counters import ServerCounters
from otel_progress.server.problems import Problem
from otel_progress.server.settings import Limits

T = TypeVar("T")


_RETRY: Final = {"Retry-After": "1"}


class ReaderPool:
    """Bounded thread pool with a bounded queue and a timeout per call.

    A call that takes too long still occupies its thread. A disk that hangs therefore blocks at most
    ``limits.readers`` threads. The first call starts the threads.
    """

    def __init__(self, limits: Limits, counts: ServerCounters) -> None:
        self._limits = limits
        self._counts = counts
        self._pool: ThreadPoolExecutor | None = None
        self._open = 0
        self._lock = Lock()

    async def run(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        """Call ``function`` in a thread.

        Raises Problem (503) when the queue is full or the time is over.
        """
        limits = self._limits
        if self._open >= limits.readers + limits.waiting:
            self._counts.count_refusal("busy")
            raise Problem(
                503,
                "Too many requests are queued. Try again later, and less often.",
                headers=_RETRY,
            )
        if self._pool is None:
            self._pool = ThreadPoolExecutor(limits.readers, thread_name_prefix="otel-progress-reader")
        result = self._pool.submit(partial(function, *arguments, **named))
        with self._lock:
            self._open += 1
        # The call counts until the thread has finished it, also after the timeout.
        result.add_done_callback(self._decrement)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(result), limits.answer_s)
        except asyncio.TimeoutError:
            self._counts.count_refusal("timeout")
            msg = (
                f"The journal did not answer within {limits.answer_s:g} seconds. "
                "Check for a busy disk or a locked file."
            )
            raise Problem(503, msg, headers=_RETRY) from None

    def close(self) -> None:
        """Stop the threads and cancel queued calls. A running call ends by itself.

        A later call starts new threads, because an application can be started again.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _decrement(self, result: Future[Any]) -> None:
        """Count a call that has ended or was cancelled. Runs in any thread."""
        del result
        with self._lock:
            self._open -= 1
