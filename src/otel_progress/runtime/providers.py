"""Tracer providers of a runtime: those it follows, and the source of its spans."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_progress import semconv
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.otlp.bounded import ShutdownBudget, run_with_timeout
from otel_progress.otlp.exporters import BoundedSpanProcessor, build_span_processor, build_tracer_provider
from otel_progress.otlp.instance_id import read_instance_id, set_instance_id
from otel_progress.processor import ProgressSpanProcessor
from otel_progress.runtime.global_provider import (
    GlobalProviderPatch,
    find_global_provider,
    load_global_provider,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from otel_progress.live.store import LiveStore


_UNKNOWN_SERVICE: Final = "unknown_service"
"""Start of the default of the SDK. The executable may follow."""


_own_providers: list[TracerProvider] = []
"""Provider created here, if any. Runtimes share it, so that spans that end after a shutdown are
exported at the end of the process.
"""


_exporting_providers: list[TracerProvider] = []
"""The own provider, once it has an exporter."""


_own_processors: list[BoundedSpanProcessor] = []
"""The processor of that exporter."""


_inherited_providers: list[Any] = []
"""Providers that a parent process created, as far as this process knows them."""


def _add_inherited(provider: Any) -> None:
    if provider is not None and not any(each is provider for each in _inherited_providers):
        _inherited_providers.append(provider)


# Why: the application may have set it, and configure() is called only in the child.
on_fork(phase=ForkPhase.CACHES, after_in_child=lambda: _add_inherited(find_global_provider()))


def discard_own_provider() -> None:
    """Drop the own provider. The next runtime creates another one."""
    for known in (_own_providers, _exporting_providers, _own_processors):
        known.clear()


class _SpanSource:
    """A provider that creates the spans of levels, and its tracers by scope."""

    __slots__ = ("provider", "tracers")

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.tracers: dict[str, Tracer] = {}


class TracerProviders:
    """Tracer providers of one runtime.

    The first explicitly joined provider creates the spans of levels. Without one it is the global
    provider from the time that the application sets it, and the own provider before.
    """

    def __init__(self, store: LiveStore) -> None:
        self.processor = ProgressSpanProcessor(store)
        self._joined: dict[int, tuple[object, Any]] = {}
        """Mark of the thread that joined a provider, and the provider, by its id."""
        self._is_explicit = False
        self._source = _SpanSource(trace.NoOpTracerProvider())
        self._follows_global = False
        self._global: Any = None
        """The last global provider that was found."""
        self._patch: GlobalProviderPatch | None = None
        self._budget: ShutdownBudget | None = None

    def get_tracer(self, scope: str) -> Tracer:
        """Return the tracer of an instrumentation scope."""
        if self._follows_global and find_global_provider() is not self._global:
            self.follow_global()
        # Why one object: another thread may change the provider at the same time.
        source = self._source
        tracer = source.tracers.get(scope)
        if tracer is None:
            tracer = source.tracers[scope] = source.provider.get_tracer(scope)
        return tracer

    def read_service_name(self) -> str | None:
        """Return the service name of the provider's resource, or None for the default."""
        attributes = getattr(getattr(self._source.provider, "resource", None), "attributes", None) or {}
        service = str(attributes.get(semconv.SERVICE_NAME) or "")
        return None if not service or service.startswith(_UNKNOWN_SERVICE) else service

    @property
    def is_inherited(self) -> bool:
        """True if a parent process created the provider that creates the spans of levels."""
        return any(each is self._source.provider for each in _inherited_providers)

    def read_instance_id(self) -> str | None:
        """Return ``service.instance.id`` of that provider, or None if it has none.

        Return None for a provider of a parent process.
        """
        return None if self.is_inherited else read_instance_id(self._source.provider)

    def restart(self, instance_id: str) -> None:
        """Continue in a forked child with the given id."""
        for _, provider in self._joined.values():
            _add_inherited(provider)
        for own in _own_providers:
            set_instance_id(own, self._source.tracers.values(), instance_id)

    def add(self, provider: Any, *, is_explicit: bool) -> None:
        """Follow the spans of a provider.

        The first explicit provider creates the spans of levels from then on. Without one, the
        provider that was added last does.
        """
        mark = object()
        # Why no lock: a signal handler or another thread may start a level during this call.
        if self._joined.setdefault(id(provider), (mark, provider))[0] is mark:
            add_span_processor = getattr(provider, "add_span_processor", None)
            # Why: only a provider of the SDK has processors. One of the API only creates spans.
            if callable(add_span_processor):
                add_span_processor(self.processor)
        if not self._is_explicit:
            self._is_explicit = is_explicit
            self._source = _SpanSource(provider)

    def add_global(
        self,
        service_name: str | None,
        instance_id: str,
        *,
        export: bool,
        budget: ShutdownBudget,
        on_error: Callable[[], object],
    ) -> None:
        """Join the global provider, now and whenever the application sets it.

        Until then the own provider records the spans of levels and of other code. Only the own
        provider gets an exporter, when ``export`` is True.
        """
        self._budget = budget
        if load_global_provider() is None:
            own = self._prepare_own_provider(
                service_name, instance_id, export=export, budget=budget, on_error=on_error
            )
            self.add(own, is_explicit=False)
            self._patch = GlobalProviderPatch(own, self.follow_global)
            self._patch.apply()
        self._follows_global = True
        self.follow_global()

    def follow_global(self) -> None:
        """Join the global provider if the application has set one."""
        provider = find_global_provider()
        if provider is None or provider is self._global:
            return
        self.add(provider, is_explicit=False)
        self._global = provider

    def _prepare_own_provider(
        self,
        service_name: str | None,
        instance_id: str,
        *,
        export: bool,
        budget: ShutdownBudget,
        on_error: Callable[[], object],
    ) -> TracerProvider:
        """Return the own provider, with an exporter if ``export`` is True."""
        # No lock: configure() builds one runtime at a time.
        if not _own_providers:
            _own_providers.append(build_tracer_provider(service_name, otlp=False, instance_id=instance_id))
        own = _own_providers[0]
        if export and own not in _exporting_providers:
            processor = build_span_processor(os.environ, budget=budget, on_error=on_error)
            own.add_span_processor(processor)
            _own_processors.append(processor)
            _exporting_providers.append(own)
        return own

    @property
    def exports_spans(self) -> bool:
        """True if the own provider creates the spans of levels and has an exporter."""
        return self._source.provider in _exporting_providers

    @property
    def is_failing(self) -> bool:
        """True while the exporter of the own provider fails."""
        return any(processor.monitor.is_failing for processor in _own_processors)

    def export_now(self) -> None:
        """Export the ended spans of the own provider on the current thread."""
        for processor in _own_processors:
            processor.export_now()

    def flush_joined(self, timeout: float) -> None:
        """Export the ended spans of all joined providers within ``timeout`` seconds.

        A process that leaves through ``os._exit`` does not shut down the providers of the
        application.
        """
        for provider in self._list_application_providers():
            force_flush = getattr(provider, "force_flush", None)
            if callable(force_flush):
                run_with_timeout(timeout, lambda flush=force_flush: flush(int(timeout * 1000)))  # type: ignore[misc]

    @property
    def has_application_provider(self) -> bool:
        """True if a provider of the application is joined."""
        return bool(self._list_application_providers())

    def _list_application_providers(self) -> list[Any]:
        return [provider for _, provider in list(self._joined.values()) if provider not in _own_providers]

    def flush(self, timeout: float) -> bool:
        """Export the ended spans of the own provider.

        Return False after ``timeout`` seconds. The application flushes its own providers.
        """
        return all(provider.force_flush(int(timeout * 1000)) for provider in _exporting_providers)

    def close(self, timeout: float) -> bool:
        """Export the remaining spans within the shutdown budget, and stop following spans.

        Return False if the collector did not accept them.
        """
        is_exported = True
        if self._budget is not None and _exporting_providers:
            with self._budget.wait() as budgeted_s:
                is_flushed = self.flush(min(timeout, budgeted_s))
            if not is_flushed:
                for processor in _own_processors:
                    processor.monitor.report_waiting()
            is_exported = is_flushed and not self.is_failing
        self._follows_global = False
        if self._patch is not None:
            self._patch.remove()
        self.processor.close()
        return is_exported
