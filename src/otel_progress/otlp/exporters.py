"""Span export over OTLP, and the resource and exporters that all signals share.

Everything is built from the standard environment variables. An exporter (gRPC above all) takes long
to import, so each one is imported only when it is created.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from otel_progress import semconv
from otel_progress.errors import ConfigurationError, is_thread_error, to_unavailable_error
from otel_progress.otlp.bounded import (
    ExportMonitor,
    ShutdownBudget,
    capture_exporter_logs,
    capturing_constructor_logs,
    report_unsent_records,
)
from otel_progress.otlp.environment import Protocol, Signal, is_signal_disabled, select_protocol
from otel_progress.sampling import ProgressSampler

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue


__all__ = [
    "build_resource",
    "build_span_processor",
    "build_tracer_provider",
    "configuration_errors",
    "make_exporter",
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
    """Return a provider that records every progress span.

    It exports over OTLP if ``otlp`` is True, sampled by ``OTEL_TRACES_SAMPLER``. With
    ``OTEL_TRACES_EXPORTER=none`` nothing is exported. With ``OTEL_SDK_DISABLED=true`` the spans do
    nothing. Raises ConfigurationError for settings from which no exporter can be created.
    """
    provider = TracerProvider(resource=build_resource(service_name, instance_id))
    provider.sampler = ProgressSampler(provider.sampler)
    if otlp and not is_signal_disabled("traces", os.environ):
        provider.add_span_processor(build_span_processor(os.environ, budget=budget, on_error=on_error))
    return provider


def build_resource(
    service_name: str | None, instance_id: str, *, overrides_environment: bool = False
) -> Resource:
    """Return the resource: the attributes of the environment, service and instance.

    ``service_name`` overrides ``OTEL_SERVICE_NAME``. ``instance_id`` becomes
    ``service.instance.id`` unless ``OTEL_RESOURCE_ATTRIBUTES`` defines one, or always with
    ``overrides_environment``.
    """
    attributes: dict[str, AttributeValue] = {}
    if service_name:
        attributes[semconv.SERVICE_NAME] = service_name
    resource = _detect_resource(attributes)
    if _has_instance_id(os.environ) and not overrides_environment:
        return resource
    return resource.merge(Resource({semconv.SERVICE_INSTANCE_ID: instance_id}))


def _detect_resource(attributes: dict[str, AttributeValue]) -> Resource:
    """Return the SDK's resource with ``attributes``.

    The SDK runs its detectors on threads. If none can be started, only the environment is read.
    """
    try:
        return Resource.create(attributes)
    except RuntimeError as error:
        if not is_thread_error(error):
            raise
    unknown = Resource({semconv.SERVICE_NAME: "unknown_service"})
    return unknown.merge(OTELResourceDetector().detect()).merge(Resource(attributes))


def build_span_processor(
    environ: Mapping[str, str],
    *,
    budget: ShutdownBudget | None = None,
    on_error: Callable[[], object] | None = None,
) -> BoundedSpanProcessor:
    """Return a batch processor with an OTLP exporter and a bounded shutdown."""
    with configuration_errors("traces"):
        exporter = make_exporter("traces", environ, _make_span_exporter)
        bounded = BoundedSpanExporter(exporter, budget=budget, on_error=on_error)
        with bounded.monitor.stopped_on_error():
            return BoundedSpanProcessor(bounded)


def make_exporter(signal: Signal, environ: Mapping[str, str], make: Callable[[Protocol], E]) -> E:
    """Return ``make(protocol)`` and let an ExportMonitor report its warnings.

    Raises ConfigurationError for an unsupported protocol.
    """
    # The exporter logs a stack trace for each TLS file that it cannot read. The first failed export
    # reports the file.
    with capturing_constructor_logs():
        exporter = make(select_protocol(signal, environ))
    capture_exporter_logs(exporter)
    return exporter


@contextmanager
def configuration_errors(signal: Signal) -> Iterator[None]:
    """Convert SDK errors to a ConfigurationError that names the variables.

    For an error of the environment, such as no free thread, it is an UnavailableError.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as exc:
        if (unavailable := to_unavailable_error(exc)) is not None:
            raise unavailable from exc
        batch = {"traces": "OTEL_BSP_*", "logs": "OTEL_BLRP_*", "metrics": "OTEL_METRIC_EXPORT_*"}[signal]
        # The SDK's texts have line breaks and full stops.
        reason = " ".join(str(exc).split()).rstrip(".")
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
        """Export the spans. Return FAILURE if the collector did not accept them."""
        return SpanExportResult.SUCCESS if self.monitor.export(spans) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the exporter immediately."""
        self.monitor.stop()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Return True. Spans wait in the processor, not here."""
        return True


class BoundedSpanProcessor(BatchSpanProcessor):
    """A batch processor with time limits of ``force_flush`` and ``shutdown``."""

    def __init__(self, exporter: BoundedSpanExporter) -> None:
        super().__init__(exporter)
        self.monitor = exporter.monitor

    def export_now(self) -> None:
        """Export all ended spans on the current thread."""
        super().force_flush()

    def shutdown(self) -> None:
        """Export pending spans within the ShutdownBudget, then close."""
        # Why: the public shutdown() takes no timeout and waits 30 s.
        with self.monitor.budget.wait() as timeout_s:
            self._batch_processor.shutdown(timeout_millis=int(timeout_s * 1000))
        report_unsent_records(self._batch_processor, self.monitor)

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Return True if all ended spans were exported within ``timeout_millis`` (30,000)."""
        return self.monitor.flush((timeout_millis or 30_000) / 1000, super().force_flush)


def _make_span_exporter(protocol: Protocol) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    from otel_progress.otlp.http_session import make_session

    return HttpSpanExporter(session=make_session("traces"))


def _has_instance_id(environ: Mapping[str, str]) -> bool:
    pairs = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    return any(pair.partition("=")[0].strip() == semconv.SERVICE_INSTANCE_ID for pair in pairs)
