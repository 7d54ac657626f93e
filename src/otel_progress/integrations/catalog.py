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
        "dask",
        ("dask",),
        "Compute in a block 'with otel_progress.integrations.dask.ProgressCallback()', or use "
        "opentelemetry-instrument.",
        "progress-dask",
    ),
    Integration(
        "distributed",
        ("distributed",),
        "Submit in a block 'with otel_progress.integrations.distributed.follow_client(client)'.",
    ),
    Integration(
        "futures",
        (),
        "Call otel_progress.integrations.futures.follow_futures(futures, name).",
    ),
    Integration(
        "joblib",
        ("joblib",),
        "Call otel_progress.integrations.joblib.instrument(), or use opentelemetry-instrument.",
        "progress-joblib",
    ),
    Integration(
        "mcp",
        ("mcp",),
        "Run 'otel-progress mcp', or call otel_progress.integrations.mcp.add_tools(server, runtime.reader).",
    ),
    Integration(
        "ray",
        ("ray",),
        "Decorate functions with otel_progress.integrations.ray.remote, or pass a handle to tasks.",
    ),
)
"""All integrations, in alphabetical order of the names."""
