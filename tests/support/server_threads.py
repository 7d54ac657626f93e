"""Wait for the threads of closed servers, so that none affects a later test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SERVING = ("otel-progress-server", "otel-progress-feed", "otel-progress-looker", "otel-progress-reader")
"""Name prefixes of threads that a server starts and does not join."""


@contextmanager
def threads_end() -> Iterator[None]:
    """After the block, wait for the server threads that it started.

    One that continues fails the test.
    """
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before and thread.name.startswith(SERVING):
            thread.join(60.0)
            assert not thread.is_alive(), f"{thread.name} goes on after its server was closed"
