"""Start of threads, with reporting of failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import build_thread_error
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
    thread = threading.Thread(target=run, name=f"otel-progress-{name}", daemon=True)
    register(thread)
    try:
        thread.start()
    except RuntimeError as error:
        if not str(error).endswith(_AT_EXIT):
            report_internal_error(place, text, error=build_thread_error(error))
        return None
    return thread
