"""Start of threads, with reporting of failures."""

from __future__ import annotations

import sys
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import build_thread_error
from otel_progress.processes import allows_daemon_threads
from otel_progress.semconv import InternalErrorPlace
from otel_progress.suppression import run_suppressed

_AT_EXIT: Final = "at interpreter shutdown"
"""End of the message of CPython >= 3.12 when exit handlers run already. It is not an error."""


def start_daemon_thread(
    target: Callable[[], object],
    name: str,
    place: InternalErrorPlace,
    text: str,
    *,
    is_suppressed: bool = True,
    register: Callable[[threading.Thread], object] = lambda thread: None,
) -> threading.Thread | None:
    """Start and return a daemon thread, or None if that is not possible.

    ``register`` receives the thread before it starts. A failure is reported as the internal error
    ``text`` of ``place``, except at interpreter shutdown. Without ``is_suppressed`` the thread is
    instrumented, as code of the application is.
    """
    run = run_suppressed(target) if is_suppressed else target
    thread = threading.Thread(target=run, name=f"otel-progress-{name}", daemon=allows_daemon_threads())
    register(thread)
    try:
        thread.start()
    except RuntimeError as error:
        if not str(error).endswith(_AT_EXIT):
            report_internal_error(place, text, error=build_thread_error(error))
        return None
    return thread


def run_with_limit(function: Callable[[], object], timeout_s: float) -> bool:
    """Run a function on a thread of its own, for at most ``timeout_s`` seconds.

    Return False if it takes longer. Then it continues in the background. It never raises. Signal
    handlers may call it: it uses no lock that the interrupted code may hold. Without a further
    thread the function runs here.
    """
    finished = allocate_lock()
    finished.acquire()

    def run() -> None:
        try:
            function()
        except Exception as error:
            report_internal_error("shutdown", "Progress could not be written at the exit", error=error)
        finally:
            finished.release()

    try:
        # Why not threading: its locks may be held by the interrupted code.
        start_new_thread(run_suppressed(run), ())
    except RuntimeError:
        run()
    return finished.acquire(timeout=max(0.0, timeout_s))


def has_event_loop() -> bool:
    """Return True in a thread that runs an event loop of asyncio."""
    asyncio_events = sys.modules.get("asyncio.events")
    return asyncio_events is not None and asyncio_events._get_running_loop() is not None
