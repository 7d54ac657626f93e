"""Start of the recording at the first use of a helper, or span with progress.

Until then little is imported, nothing is opened, and no thread is started.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanProcessor

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import defer_fork
from otel_progress.instrument.backend import SpanStartContext, backend_slot
from otel_progress.interrupts import is_interrupt
from otel_progress.runtime.automatic import automatic_options, read_automatic_settings

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.runtime.runtime import Runtime
    from otel_progress.settings.fields import Settings


_CONFIG: Final = "otel_progress.config"


_PROGRESS_ATTRIBUTES: Final = (semconv.CURRENT, semconv.TOTAL)


def configure_at_first_use(options: Mapping[str, Any], environ: Mapping[str, str]) -> Settings | None:
    """Start to record at the first use of a helper, unless configured before.

    The arguments are those of :func:`read_automatic_settings`. A later ``configure()`` replaces the
    recording. Return the settings, or None if a recording is active or disabled. Raises
    ConfigurationError for an invalid value.
    """
    # Why: a recording needs the module, which takes time to import.
    if _CONFIG in sys.modules and sys.modules[_CONFIG].current_runtime() is not None:
        return None
    settings = read_automatic_settings(options, environ)
    if not settings.enabled:
        return None
    automatic_options.clear()
    automatic_options.update(options)

    def start() -> RecordingBackend | None:
        backend: RecordingBackend | None = _load_config().start_at_first_use(environ)
        return backend

    backend_slot.defer(start)
    provider = trace.get_tracer_provider()
    add_span_processor = getattr(provider, "add_span_processor", None)
    # Why: a proxy and a provider that is not of the SDK have no processors.
    if callable(add_span_processor):
        add_span_processor(_FirstSpanProcessor())
    return settings


def start_automatically() -> Runtime | None:
    """Start the recording as the first use does. Return the active runtime, if any."""
    _ = backend_slot.current
    runtime: Runtime | None = _load_config().current_runtime()
    return runtime


def cancel_first_use() -> None:
    """Undo :func:`configure_at_first_use`, and shut down the runtime that it started."""
    backend_slot.cancel_deferral()
    automatic_options.clear()
    if _CONFIG in sys.modules:
        sys.modules[_CONFIG].end_automatic_runtime()


def _load_config() -> Any:
    """Return the module with the active runtime."""
    with defer_fork():
        from otel_progress import config
    return config


class _FirstSpanProcessor(SpanProcessor):
    """Starts the recording at the first plain span that has progress when it starts."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Start the recording if a span has progress. Never raises."""
        attributes = span.attributes
        if not attributes or not any(name in attributes for name in _PROGRESS_ATTRIBUTES):
            return
        try:
            if type(parent_context) is SpanStartContext or not backend_slot.is_deferred:
                return
            runtime = start_automatically()
            if runtime is not None:
                from otel_progress.runtime.runtime import get_span_processor

                # Why: the provider calls the new processor only for later spans.
                get_span_processor(runtime).on_start(span, parent_context)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("processor", "Watching a span for progress failed.", error=error)
