"""Which tracer providers are joined, and which one makes the helpers' spans."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_progress.diagnostics import report_internal_error
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.exporters import build_span_processor, build_tracer_provider
from otel_progress.processor import ProgressSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from otel_progress.live.store import LiveStore


_making: Final = threading.Lock()


_made: list[TracerProvider] = []
"""The provider made here and set as the global one; a process can do so only once, so it outlives a runtime."""


_exporting: list[TracerProvider] = []


class TracerProviders:
    """The providers of one runtime. The first one that is given explicitly makes the helpers' spans; else the global one."""

    def __init__(self, store: LiveStore) -> None:
        self.processor = ProgressSpanProcessor(store)
        self._joined: list[Any] = []
        self._explicit = False
        self._source: Any = trace.NoOpTracerProvider()
        self._tracers: dict[str, Tracer] = {}
        self._budget: ShutdownBudget | None = None

    def tracer(self, scope: str) -> Tracer:
        """Return the tracer of an instrumentation scope."""
        found = self._tracers.get(scope)
        if found is None:
            found = self._tracers[scope] = self._source.get_tracer(scope)
        return found

    def add(self, provider: Any, *, given: bool) -> None:
        """Follow the spans of a provider; make the helpers' spans with it when it is the first that was given."""
        if not any(known is provider for known in self._joined):
            self._joined.append(provider)
            add = getattr(provider, "add_span_processor", None)
            if callable(add):  # a provider of the API only has spans to make, but none to follow
                add(self.processor)
        if (given and not self._explicit) or len(self._joined) == 1:
            self._source, self._explicit = provider, given
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
        """Join the provider the application has set; make one and set it when there is none."""
        self._budget = budget
        existing = trace.get_tracer_provider()
        if isinstance(existing, trace.ProxyTracerProvider):
            with _making:
                existing = build_tracer_provider(service_name, otlp=False, instance_id=instance_id)
                trace.set_tracer_provider(existing)
                _made[:] = [existing]
        if export and existing in _made and existing not in _exporting:
            _made[0].add_span_processor(build_span_processor(os.environ, budget=budget, on_error=on_error))
            _exporting.append(_made[0])
        self.add(existing, given=False)

    def flush(self, timeout: float) -> bool:
        """Export the ended spans of the provider made here; a given one is its owner's to flush."""
        return all(provider.force_flush(int(timeout * 1000)) for provider in _exporting)

    def close(self, timeout: float) -> None:
        """Export the remaining spans within the budget for shutdown, and stop reading spans."""
        if self._budget is not None and _exporting:
            with self._budget.wait() as budgeted:
                flushed = self.flush(min(timeout, budgeted))
            if not flushed:
                report_internal_error("otlp.traces", "spans were not all exported before the end")
        self.processor.close()
