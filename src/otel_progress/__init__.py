"""Progress as a first-class OpenTelemetry signal.

Instrumentation needs opentelemetry-api only. All names are imported at their first use, so
``import otel_progress`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_progress.config import configure
    from otel_progress.errors import (
        ConfigurationError,
        JournalError,
        MissingExtraError,
        OperationCancelledError,
        OperationRunningError,
        ProgressError,
        RejectedTypeError,
        RejectedValueError,
    )
    from otel_progress.instrument.batch import OperationBatch
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
    from otel_progress.instrument.wrapping import ProgressExecutor, wrap
    from otel_progress.integrations.activation import instrument_tqdm
    from otel_progress.model import Eta, Failure, LevelCounts, LevelSnapshot, Outcome, Status
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
    from otel_progress.stages import Stage, Stages


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
    "OperationRunningError",
    "OperationSnapshot",
    "Outcome",
    "OverallProgress",
    "Pause",
    "ProgressError",
    "ProgressExecutor",
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
    "instrument_tqdm",
    "level",
    "operation",
    "remove_callback",
    "request_cancel",
    "shutdown",
    "track",
    "wrap",
]


_LAZY_MODULES = {
    "BatchSnapshot": "operations",
    "Callback": "runtime.callbacks",
    "CallbackEvent": "runtime.callbacks",
    "Condition": "operations",
    "ConfigurationError": "errors",
    "Eta": "model",
    "Event": "operations",
    "Failure": "model",
    "JournalError": "errors",
    "Level": "instrument.level",
    "LevelCounts": "model",
    "LevelSnapshot": "model",
    "LogRecord": "records",
    "MissingExtraError": "errors",
    "OpaqueStep": "instrument.level",
    "OperationBatch": "instrument.batch",
    "OperationCancelledError": "errors",
    "OperationRunningError": "errors",
    "OperationSnapshot": "operations",
    "Outcome": "model",
    "OverallProgress": "operations",
    "Pause": "instrument.level",
    "ProgressError": "errors",
    "ProgressExecutor": "instrument.wrapping",
    "ProgressSampler": "sampling",
    "ProgressTracer": "instrument.tracer",
    "RejectedTypeError": "errors",
    "RejectedValueError": "errors",
    "Runtime": "runtime.runtime",
    "Stage": "stages",
    "Stages": "stages",
    "Status": "model",
    "Track": "instrument.level",
    "add_callback": "queries",
    "batch": "instrument.tracer",
    "configure": "config",
    "current_level": "instrument.tracer",
    "flush": "queries",
    "get_active_operations": "queries",
    "get_batch": "queries",
    "get_events": "queries",
    "get_history": "queries",
    "get_logs": "queries",
    "get_operation": "queries",
    "get_tracer": "instrument.tracer",
    "instrument_tqdm": "integrations.activation",
    "level": "instrument.tracer",
    "operation": "instrument.tracer",
    "remove_callback": "queries",
    "request_cancel": "queries",
    "shutdown": "queries",
    "track": "instrument.tracer",
    "wrap": "instrument.wrapping",
}
"""Modules of the names that are imported at their first use."""


_SUBMODULES = frozenset({"errors", "instrument", "model", "stages"})
"""Submodules that are imported at their first use as well."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_MODULES and name not in _SUBMODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from otel_progress.fork import defer_fork

    with defer_fork():
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        value = getattr(import_module(f"{__name__}.{_LAZY_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
