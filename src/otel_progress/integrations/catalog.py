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
        "alive_progress",
        ("alive-progress",),
        "Call `otel_progress.integrations.alive_progress.instrument()`.",
        "progress-alive-progress",
    ),
    Integration(
        "rich",
        ("rich",),
        "Call `otel_progress.integrations.rich.instrument()`.",
        "progress-rich",
    ),
    Integration(
        "tqdm",
        ("tqdm",),
        "Call `otel_progress.instrument_tqdm()`, or import tqdm from `otel_progress.tqdm`.",
        "progress-tqdm",
    ),
)
"""All integrations, in alphabetical order of the names."""
