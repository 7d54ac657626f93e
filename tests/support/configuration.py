"""Configuration of a test: variables, used ports and the active runtime."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_progress import config


def remove_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all variables of this package and of OpenTelemetry for the test."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def shut_down_active_runtime() -> None:
    """Shut down the runtime that the test has configured, if any."""
    runtime = config.current_runtime()
    if runtime is not None:
        runtime.shutdown()


@contextmanager
def occupy_port() -> Iterator[int]:
    """Listen on a port of this machine, as another program does. Yield its number."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]
