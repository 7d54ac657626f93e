"""Targets of exports: a receiver of OTLP requests, and scrapes.

This is the only module here that imports the helpers of the OTLP tests.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support import otlp_receiver as receivers

PATIENCE_S = 30.0
"""Timeout of a scrape in seconds."""


class Requests(receivers.Receiver):
    """A receiver that stores whole requests."""

    def requests(self) -> dict[str, list[Any]]:
        """Return the received requests by path."""
        return {path: self._copy(path) for path in receivers.REQUESTS}


@contextmanager
def receiving() -> Iterator[Requests]:
    """Run a receiver for the length of the block."""
    with receivers.receiving() as receiver:
        receiver.__class__ = Requests
        assert isinstance(receiver, Requests)
        yield receiver


def scrape(url: str, accept: str) -> str:
    """Return the response of a metrics endpoint."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        text: str = answer.read().decode()
    return text
