"""Common settings of benchmarks: no environment, console or export by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress import Runtime


def clear_environment() -> None:
    """Remove all OpenTelemetry settings of the shell, so that runs are comparable."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]


@contextmanager
def configured(provider: Any = None, store: str = "memory:", **settings: Any) -> Iterator[Runtime]:
    """Record progress with live store and ticker.

    Spans have a provider, by default without processors.
    """
    runtime = progress.configure(
        store=store, console=False, otlp=False, tracer_provider=provider or TracerProvider(), **settings
    )
    try:
        yield runtime
    finally:
        runtime.shutdown()
