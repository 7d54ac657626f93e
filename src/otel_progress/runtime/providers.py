"""Tracer providers of a runtime: those it follows, and the one that it uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.exporters import build_span_processor, build_tracer_provider
from otel_progress.processor import ProgressSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from otel_progress.live.store import LiveStore


_UNKNOWN_SERVICE: Final = "unknown_service"
"""Start of the default of the SDK. The executable may follow."""


_own_providers: list[TracerProvider] = []
"""Global provider created here, if any. A process can set it only once, so runtimes share it."""


_exporting_providers: list[TracerProvider] = []
"""The own provider, once it has an exporter."""


class TracerProviders:
    """Tracer providers of one runtime.

    The first explicitly joined provider creates the spans of levels, otherwise the global one.
    """

    def __init__(self, store: LiveStore) -> None:
        self.processor = ProgressSpanProcessor(store)
        self._joined: list[Any] = []
        self._is_explicit = False
        self._provider: Any = trace.NoOpTracerProvider()
        self._tracers: dict[str, Tracer] = {}
        self._budget: ShutdownBudget | None = None

    def get_tracer(self, scope: str) -> Tracer:
        """Return the tracer of an instrumentation scope."""
        tracer = self._tracers.get(scope)
        if tracer is None:
            tracer = self._tracers[scope] = self._provider.get_tracer(scope)
        return tracer

    def read_service_name(self) -> str | None:
        """Return the service name of the provider's resource, or None for the default."""
        attributes = getattr(getattr(self._provider, "resource", None), "attributes", None) or {}
        service = str(attributes.get(semconv.SERVICE_NAME) or "")
        return None if not service or service.startswith(_UNKNOWN_SERVICE) else service

    def add(self, provider: Any, *, is_explicit: bool) -> None:
        """Follow the spans of a provider.

        The first explicit provider also creates the spans of levels.
        """
        if not any(joined is provider for joined in self._joined):
            self._joined.append(provider)
            add_span_processor = getattr(provider, "add_span_processor", None)
            # Why: only a provider of the SDK has processors. One of the API only creates spans.
            if callable(add_span_processor):
                add_span_processor(self.processor)
        if (is_explicit and not self._is_explicit) or len(self._joined) == 1:
            self._provider, self._is_explicit = provider, is_explicit
            self._tracers = {}

    def add_global(
        self,
        service_name: str | None,
        instance_id: str,
        *,
        export: bool,
        budget: ShutdownBudget,
        on_error: Callable[[], object],
    ) -> None:
        """Join the global provider, or create and set one.

        Only a provider created here gets an exporter, when ``export`` is True.
        """
        self._budget = budget
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            # No lock: configure() builds one runtime at a time.
            provider = build_tracer_provider(service_name, otlp=False, instance_id=instance_id)
            trace.set_tracer_provider(provider)
            _own_providers[:] = [provider]
        if export and provider in _own_providers and provider not in _exporting_providers:
            processor = build_span_processor(os.environ, budget=budget, on_error=on_error)
            _own_providers[0].add_span_processor(processor)
            _exporting_providers.append(_own_providers[0])
        self.add(provider, is_explicit=False)

    def flush(self, timeout: float) -> bool:
        """Export the ended spans of the own provider.

        Return False after ``timeout`` seconds. The application flushes its own providers.
        """
        return all(provider.force_flush(int(timeout * 1000)) for provider in _exporting_providers)

    def close(self, timeout: float) -> None:
        """Export the remaining spans within the shutdown budget, and stop following spans."""
        if self._budget is not None and _exporting_providers:
            with self._budget.wait() as budgeted_s:
                is_flushed = self.flush(min(timeout, budgeted_s))
            if not is_flushed:
                report_internal_error("otlp.traces", "Some spans were not exported before the shutdown")
        self.processor.close()
