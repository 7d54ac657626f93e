"""Prometheus metrics: series, counters, the collector and its HTTP server.

The exported names import ``prometheus_client``. They are loaded at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otel_progress.metrics.collector import ProgressCollector
    from otel_progress.metrics.exposition import render_exposition

__all__ = ["ProgressCollector", "render_exposition"]

_MODULES: Final = {"ProgressCollector": "collector", "render_exposition": "exposition"}
"""Modules of the exported names."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
