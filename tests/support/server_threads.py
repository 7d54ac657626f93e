"""The threads of servers and hubs end a moment after those were closed: tests wait for them, so that none is met by a later test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SERVING = ("otel-progress-server", "otel-progress-feed", "otel-progress-looker", "otel-progress-reader")
"""How the names of the threads begin that a server starts, and ends without waiting for them."""


@contextmanager
def threads_end() -> Iterator[None]:
    """Wait in the end for the threads of servers that were started within the block; one that goes on fails the test."""
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before and thread.name.startswith(SERVING):
            thread.join(60.0)
            assert not thread.is_alive(), f"{thread.name} goes on after its server was closed"
