"""The settings all benchmarks share: nothing from the environment, no console, no export but what a benchmark asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress import Runtime


def clear_environment() -> None:
    """Forget all OpenTelemetry settings of the shell, so that two runs measure the same."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]


@contextmanager
def configured(provider: Any = None, store: str = "memory:", **settings: Any) -> Iterator[Runtime]:
    """Record progress for a while: live store and ticker on, spans made by a provider (one without processors unless given)."""
    runtime = progress.configure(
        store=store, console=False, otlp=False, tracer_provider=provider or TracerProvider(), **settings
    )
    try:
        yield runtime
    finally:
        runtime.shutdown()
