"""Progress as a first-class OpenTelemetry signal.

Instrumentation needs opentelemetry-api only. The other names are imported at their first use,
so ``import otel_progress`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_progress.errors import (
    ConfigurationError,
    JournalError,
    MissingExtraError,
    OperationCancelledError,
    ProgressError,
    RejectedTypeError,
    RejectedValueError,
)
from otel_progress.instrument.level import Level, OpaqueStep, Pause, Track
from otel_progress.instrument.tracer import (
    ProgressTracer,
    batch,
    current_level,
    get_tracer,
    level,
    operation,
    track,
)
from otel_progress.model import Eta, Failure, LevelCounts, LevelSnapshot, Outcome, Status
from otel_progress.stages import Stage, Stages

if TYPE_CHECKING:
    from otel_progress.config import configure
    from otel_progress.instrument.batch import OperationBatch
    from otel_progress.operations import BatchSnapshot, Condition, Event, OperationSnapshot, OverallProgress
    from otel_progress.queries import (
        add_callback,
        flush,
        get_active_operations,
        get_batch,
        get_events,
        get_history,
        get_logs,
        get_operation,
        remove_callback,
        request_cancel,
        shutdown,
    )
    from otel_progress.records import LogRecord
    from otel_progress.runtime.callbacks import Callback, CallbackEvent
    from otel_progress.runtime.runtime import Runtime
    from otel_progress.sampling import ProgressSampler


__all__ = [
    "BatchSnapshot",
    "Callback",
    "CallbackEvent",
    "Condition",
    "ConfigurationError",
    "Eta",
    "Event",
    "Failure",
    "JournalError",
    "Level",
    "LevelCounts",
    "LevelSnapshot",
    "LogRecord",
    "MissingExtraError",
    "OpaqueStep",
    "OperationBatch",
    "OperationCancelledError",
    "OperationSnapshot",
    "Outcome",
    "OverallProgress",
    "Pause",
    "ProgressError",
    "ProgressSampler",
    "ProgressTracer",
    "RejectedTypeError",
    "RejectedValueError",
    "Runtime",
    "Stage",
    "Stages",
    "Status",
    "Track",
    "add_callback",
    "batch",
    "configure",
    "current_level",
    "flush",
    "get_active_operations",
    "get_batch",
    "get_events",
    "get_history",
    "get_logs",
    "get_operation",
    "get_tracer",
    "level",
    "operation",
    "remove_callback",
    "request_cancel",
    "shutdown",
    "track",
]


_LAZY_MODULES = {
    "BatchSnapshot": "operations",
    "Callback": "runtime.callbacks",
    "CallbackEvent": "runtime.callbacks",
    "Condition": "operations",
    "Event": "operations",
    "LogRecord": "records",
    "OperationBatch": "instrument.batch",
    "OperationSnapshot": "operations",
    "OverallProgress": "operations",
    "ProgressSampler": "sampling",
    "Runtime": "runtime.runtime",
    "add_callback": "queries",
    "configure": "config",
    "flush": "queries",
    "get_active_operations": "queries",
    "get_batch": "queries",
    "get_events": "queries",
    "get_history": "queries",
    "get_logs": "queries",
    "get_operation": "queries",
    "remove_callback": "queries",
    "request_cancel": "queries",
    "shutdown": "queries",
}
"""Modules of the names that are imported at their first use."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
