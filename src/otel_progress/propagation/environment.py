"""Environment variables that connect a child process with a level of this process.

``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE`` follow the OpenTelemetry specification of
environment variable carriers. ``OTEL_PROGRESS_PARENT`` is the parent link.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_progress.diagnostics import report_internal_error
from otel_progress.propagation.parent_link import VARIABLE, format_parent_link, parse_parent_link

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import SpanContext

    from otel_progress.model import ParentLink


UPDATES_VARIABLE: Final = "OTEL_PROGRESS_UPDATES"
"""Address at which the owner of the operation receives updates."""


TRACE_VARIABLES: Final = ("TRACEPARENT", "TRACESTATE")
"""Environment variables with the trace context."""


_trace_context: Final = TraceContextTextMapPropagator()
_baggage: Final = W3CBaggagePropagator()


@dataclass(frozen=True, slots=True)
class RemoteParent:
    """Level of another process, as this process received it.

    ``link`` is None if only a trace was received. ``span_context`` is None without a trace.
    """

    link: ParentLink | None
    span_context: SpanContext | None

    def add_span(self, context: context_api.Context) -> context_api.Context:
        """Return the context with the remote span, unless it contains a valid span."""
        if self.span_context is None or trace.get_current_span(context).get_span_context().is_valid:
            return context
        return trace.set_span_in_context(trace.NonRecordingSpan(self.span_context), context)


def read_remote_parent(environ: Mapping[str, str]) -> RemoteParent | None:
    """Return the parent that an environment names, or None. Never raises."""
    link = parse_parent_link(environ.get(VARIABLE))
    carrier = {name.lower(): environ[name] for name in TRACE_VARIABLES if environ.get(name)}
    span_context: SpanContext | None = None
    if carrier:
        try:
            context = _trace_context.extract(carrier, context_api.Context())
            span_context = trace.get_current_span(context).get_span_context()
        except Exception:
            report_internal_error("start", "The trace context of the environment could not be read.")
    if span_context is not None and not span_context.is_valid:
        span_context = None
    return None if link is None and span_context is None else RemoteParent(link, span_context)


def build_environment(
    base: Mapping[str, str],
    link: ParentLink,
    context: context_api.Context,
    settings: Mapping[str, str],
) -> dict[str, str]:
    """Return a copy of an environment for a child process of a level.

    ``context`` has the span of the level and the baggage. ``settings`` are variables with the
    settings of this process. A trace of ``base`` is replaced, because it is that of another level.
    """
    environment = dict(base)
    carrier: dict[str, str] = {}
    _trace_context.inject(carrier, context)
    if carrier:
        for name in TRACE_VARIABLES:
            environment.pop(name, None)
    _baggage.inject(carrier, context)
    environment.update({name.upper(): value for name, value in carrier.items()})
    environment.update(settings)
    # Why: another process owns the level at this address.
    environment.pop(UPDATES_VARIABLE, None)
    environment[VARIABLE] = format_parent_link(link)
    return environment


class UpdateReceiver(Protocol):
    """Server of updates, from its creation until ``close``."""

    address: str

    def start(self) -> None:
        """Start to receive updates."""

    def close(self) -> None:
        """Stop to receive updates."""


class ChildEnvironment:
    """Context manager that returns the environment of a child process.

    ``build`` returns None if nothing is recorded. The environment is then that of this process.
    ``serve`` returns a server of updates for the time of the block.
    """

    __slots__ = ("_build", "_receivers", "_serve")

    def __init__(
        self,
        build: Callable[[], dict[str, str] | None],
        serve: Callable[[], UpdateReceiver] | None = None,
    ) -> None:
        self._build = build
        self._serve = serve
        self._receivers: list[UpdateReceiver] = []

    def __enter__(self) -> dict[str, str]:
        environment: dict[str, str] | None = None
        try:
            environment = self._build()
            if environment is not None and self._serve is not None:
                receiver = self._serve()
                receiver.start()
                self._receivers.append(receiver)
                environment[UPDATES_VARIABLE] = receiver.address
        except Exception:
            report_internal_error("start", "The environment of a child process could not be built.")
        return dict(os.environ) if environment is None else environment

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._receivers:
            self._receivers.pop().close()
