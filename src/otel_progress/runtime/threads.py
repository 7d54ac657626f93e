"""Starting threads where it may not be possible: too many of them, or an interpreter that is about to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.semconv import InternalErrorPlace

_AT_EXIT: Final = "at interpreter shutdown"
"""How CPython from 3.12 on ends its refusal to start a thread while exit handlers run: no trouble, only a short process."""


def start_daemon_thread(
    target: Callable[[], object], name: str, place: InternalErrorPlace, text: str
) -> threading.Thread | None:
    """Return a running daemon thread, or None when none can be had; that is a trouble at ``place`` unless the process is ending."""
    thread = threading.Thread(target=target, name=f"otel-progress-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if not str(error).endswith(_AT_EXIT):
            report_internal_error(place, text, error=error)
        return None
    return thread
