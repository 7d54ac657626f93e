"""Spans out over OTLP, and what all three signals share: the resource that says who works, and how exporters are made.

Everything is built from the standard environment. The exporters (gRPC above all) are heavy to import, so each one is imported
only when it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.otlp.bounded import ExportMonitor, ShutdownBudget, capture_exporter_logs
from otel_progress.otlp.environment import Protocol, Signal, otlp_wanted, protocol, signal_refused
from otel_progress.sampling import ProgressSampler

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue


__all__ = [
    "build_resource",
    "build_tracer_provider",
    "configuration_errors",
    "make_exporter",
    "otlp_wanted",
    "span_processor",
]


E = TypeVar("E")


def build_tracer_provider(
    service_name: str | None,
    *,
    otlp: bool,
    instance_id: str,
    budget: ShutdownBudget | None = None,
    on_error: Callable[[], object] | None = None,
) -> TracerProvider:
    """Return a provider that records every progress span and exports what ``OTEL_TRACES_SAMPLER`` says, over OTLP if told so.

    The environment is that of the process. ``OTEL_TRACES_EXPORTER=none`` keeps spans in; ``OTEL_SDK_DISABLED=true`` gives a
    provider whose spans do nothing. Raises ConfigurationError for settings an exporter cannot be made from.
    """
    provider = TracerProvider(resource=build_resource(service_name, instance_id))
    provider.sampler = ProgressSampler(provider.sampler)
    if otlp and not signal_refused("traces", os.environ):
        provider.add_span_processor(span_processor(os.environ, budget=budget, on_error=on_error))
    return provider


def build_resource(service_name: str | None, instance_id: str) -> Resource:
    """Return who works: the environment's resource attributes, ``service_name`` over ``OTEL_SERVICE_NAME`` when it is given.

    ``instance_id`` becomes ``service.instance.id`` unless ``OTEL_RESOURCE_ATTRIBUTES`` has one already.
    """
    attributes: dict[str, AttributeValue] = {}
    if service_name:
        attributes[semconv.SERVICE_NAME] = service_name
    resource = Resource.create(attributes)
    if _names_instance(os.environ):
        return resource
    return resource.merge(Resource({semconv.SERVICE_INSTANCE_ID: instance_id}))


def span_processor(
    environ: Mapping[str, str],
    *,
    budget: ShutdownBudget | None = None,
    on_error: Callable[[], object] | None = None,
) -> BoundedSpanProcessor:
    """Return a batch processor with the OTLP exporter the environment describes, with a bounded shutdown."""
    with configuration_errors("traces"):
        exporter = make_exporter("traces", environ, _span_exporter)
        bounded = BoundedSpanExporter(exporter, budget=budget, on_error=on_error)
        with bounded.monitor.stopped_on_error():
            return BoundedSpanProcessor(bounded)


def make_exporter(signal: Signal, environ: Mapping[str, str], make: Callable[[Protocol], E]) -> E:
    """Return ``make(protocol)``; an ExportMonitor reports its warnings. Raises ConfigurationError for a wrong protocol."""
    exporter = make(protocol(signal, environ))
    capture_exporter_logs(exporter)
    return exporter


@contextmanager
def configuration_errors(signal: Signal) -> Iterator[None]:
    """Turn whatever the SDK raises for a setting it cannot use into a ConfigurationError that says where to look."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as exc:
        batch = {"traces": "OTEL_BSP_*", "logs": "OTEL_BLRP_*", "metrics": "OTEL_METRIC_EXPORT_*"}[signal]
        reason = " ".join(str(exc).split()).rstrip(
            "."
        )  # the SDK's texts have line breaks and full stops of their own
        msg = (
            f"OTLP export of {signal} cannot be set up: {reason}. Correct the OTEL_EXPORTER_OTLP_* variables "
            f"(endpoint, headers, timeout, compression, certificates) or {batch}."
        )
        raise ConfigurationError(msg) from exc


class BoundedSpanExporter(SpanExporter):
    """Exports spans through an ExportMonitor."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        budget: ShutdownBudget | None = None,
        on_error: Callable[[], object] | None = None,
    ) -> None:
        def export(spans: Sequence[ReadableSpan]) -> bool:
            return exporter.export(spans) is SpanExportResult.SUCCESS

        self.monitor: ExportMonitor[Sequence[ReadableSpan]] = ExportMonitor(
            "spans", export, exporter.shutdown, budget=budget, on_error=on_error
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; FAILURE when the collector did not accept the spans."""
        return SpanExportResult.SUCCESS if self.monitor.export(spans) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the exporter immediately."""
        self.monitor.stop()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature; nothing is kept here
        """Return True: spans wait in the processor, not here."""
        return True


class BoundedSpanProcessor(BatchSpanProcessor):
    """A batch processor whose ``force_flush`` honours its timeout and whose ``shutdown`` honours the ShutdownBudget."""

    def __init__(self, exporter: BoundedSpanExporter) -> None:
        super().__init__(exporter)
        self.monitor = exporter.monitor

    def shutdown(self) -> None:
        """Export what is pending within the ShutdownBudget, then close."""
        # Why: the public shutdown() takes no timeout and waits 30 s.
        with self.monitor.budget.wait() as timeout_s:
            self._batch_processor.shutdown(timeout_millis=int(timeout_s * 1000))

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Return True when all spans ended before the call were exported within ``timeout_millis`` (default 30,000)."""
        return self.monitor.flush((timeout_millis or 30_000) / 1000, super().force_flush)


def _span_exporter(chosen: Protocol) -> SpanExporter:
    if chosen == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    return HttpSpanExporter()


def _names_instance(environ: Mapping[str, str]) -> bool:
    pairs = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    return any(pair.partition("=")[0].strip() == semconv.SERVICE_INSTANCE_ID for pair in pairs)
