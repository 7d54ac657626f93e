"""Catalogue of the integrations: their libraries, and how each is activated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration with another library."""

    name: str
    """Name of the module in this package."""
    distributions: tuple[str, ...]
    """Names of packages on PyPI of which one is required. Empty if no library is required."""
    usage: str
    """How to activate it: a sentence in the imperative with the code."""
    instrumentor: str = ""
    """Name of the entry point that ``opentelemetry-instrument`` loads. Empty without one."""


INTEGRATIONS: Final[tuple[Integration, ...]] = (
    Integration(
        "celery",
        ("celery",),
        "Call otel_progress.integrations.celery.instrument() in the module of the application.",
        "progress-celery",
    ),
    Integration(
        "dramatiq",
        ("dramatiq",),
        "Call broker.add_middleware(otel_progress.integrations.dramatiq.ProgressMiddleware()).",
    ),
    Integration(
        "huey",
        ("huey",),
        "Call otel_progress.integrations.huey.instrument(huey) with the Huey object.",
    ),
    Integration(
        "rq",
        ("rq",),
        "Call otel_progress.integrations.rq.instrument() in senders and workers.",
        "progress-rq",
    ),
    Integration(
        "taskiq",
        ("taskiq",),
        "Call broker.with_middlewares(otel_progress.integrations.taskiq.ProgressMiddleware()).",
    ),
)
"""All integrations, in alphabetical order of the names."""
