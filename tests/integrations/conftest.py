"""Isolation of the tests of other libraries."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def restored_signal_handlers() -> Iterator[None]:
    """Restore signal handlers that a library changes, as workers of RQ do.

    Children of a later test would inherit them, and ignore the SIGTERM of their pool.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
