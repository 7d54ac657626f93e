"""Prometheus metrics: the series, the counters, the collector and its HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_progress.metrics.collector import ProgressCollector
    from otel_progress.metrics.exposition import render_exposition

__all__ = ["ProgressCollector", "render_exposition"]

# Why lazily: OTLP uses the series, and prometheus_client is imported only for a scrape.
_LAZY = {"ProgressCollector": "collector", "render_exposition": "exposition"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value
