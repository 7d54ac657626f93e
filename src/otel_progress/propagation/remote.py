"""Reference to a level of another process, as pickled handles carry it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_progress.diagnostics import report_internal_error
from otel_progress.model import ParentLink

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext


_trace_context: Final = TraceContextTextMapPropagator()


class RemoteReference(NamedTuple):
    """Level of another process.

    ``link`` identifies it. ``trace`` are the headers of its trace context. ``settings`` are
    environment variables with the settings of the process, without credentials. ``store`` is the
    name of its journal without credentials, empty without one. ``configure`` starts the recording
    in a process that has none, with these settings.
    """

    link: ParentLink
    operation_type: str
    trace: Mapping[str, str]
    store: str
    settings: Mapping[str, str]
    configure: Callable[[Mapping[str, str]], object] | None

    def read_span_context(self) -> SpanContext | None:
        """Return the context of the level's span, or None if it has no valid one."""
        if not self.trace:
            return None
        try:
            context = _trace_context.extract(dict(self.trace), context_api.Context())
            span_context = trace.get_current_span(context).get_span_context()
        except Exception:
            report_internal_error("start", "The trace context of a handle could not be read.")
            return None
        return span_context if span_context.is_valid else None


def encode_trace(span: Span) -> dict[str, str]:
    """Return the headers of the trace context of a span, without one an empty dict."""
    carrier: dict[str, str] = {}
    _trace_context.inject(carrier, trace.set_span_in_context(span, context_api.Context()))
    return carrier
