"""Global tracer provider of OpenTelemetry's API.

This is the only module that patches the API. A process can set the global provider only once. It
belongs to the application, which may set it after ``configure()``. So it is never set here. Until
the application sets it, tracers of the API do nothing. :class:`GlobalProviderPatch` lets them use a
substitute, and reports the new provider.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error

_UNKNOWN: Final = object()


_CACHED: Final = "_otel_progress_substitute"
"""Attribute of a proxy tracer: the substitute provider and its tracer."""


def find_global_provider() -> Any | None:
    """Return the global provider, or None while none is set.

    It does not load the provider of ``OTEL_PYTHON_TRACER_PROVIDER``.
    """
    # Why a private name: this runs at each start of a level, and the public function needs ten
    # times as long while no provider is set.
    provider = getattr(trace, "_TRACER_PROVIDER", _UNKNOWN)
    if provider is _UNKNOWN:
        provider = trace.get_tracer_provider()
        return None if isinstance(provider, trace.ProxyTracerProvider) else provider
    return provider


def load_global_provider() -> Any | None:
    """Return the global provider, or None while none is set.

    It loads the provider of ``OTEL_PYTHON_TRACER_PROVIDER``.
    """
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


class GlobalProviderPatch:
    """Makes tracers of the API use ``substitute`` while no global provider is set.

    ``on_set`` is called after the application sets the global provider. Nothing else changes:
    ``get_tracer_provider()`` returns the proxy of the API as before. A version of the API without
    these private names is left unchanged.
    """

    def __init__(self, substitute: Any, on_set: Callable[[], object]) -> None:
        self._substitute = substitute
        self._on_set = on_set
        self._tracer_patch = AttributePatch(trace.ProxyTracer, "_tracer")
        self._set_patch = AttributePatch(trace, "_set_tracer_provider")

    def apply(self) -> None:
        """Patch the API."""
        self._tracer_patch.apply(self._build_tracer_property)
        self._set_patch.apply(self._build_set_function)

    def remove(self) -> None:
        """Restore the API."""
        self._tracer_patch.remove()
        self._set_patch.remove()

    def _build_tracer_property(self, original: Any) -> Any:
        if not isinstance(original, property) or original.fget is None:
            return original
        get_original = original.fget

        def get_tracer(proxy: Any) -> Any:
            tracer = get_original(proxy)
            if not self._tracer_patch.is_active or tracer is not getattr(proxy, "_noop_tracer", _UNKNOWN):
                return tracer
            return self._get_substitute(proxy, tracer)

        return property(get_tracer)

    def _get_substitute(self, proxy: Any, tracer: Any) -> Any:
        """Return the tracer of the substitute for a proxy, or ``tracer`` if that fails."""
        try:
            cached = proxy.__dict__.get(_CACHED)
            if cached is None or cached[0] is not self._substitute:
                found = self._substitute.get_tracer(
                    proxy._instrumenting_module_name,
                    proxy._instrumenting_library_version,
                    proxy._schema_url,
                    proxy._attributes,
                )
                cached = proxy.__dict__[_CACHED] = (self._substitute, found)
        except Exception as error:
            report_internal_error("span", "A tracer of the API could not be recorded", error=error)
            return tracer
        return cached[1]

    def _build_set_function(self, original: Any) -> Any:
        def set_tracer_provider(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._set_patch.is_active:
                try:
                    self._on_set()
                except Exception as error:
                    report_internal_error("span", "The global provider could not be joined", error=error)
            return result

        return set_tracer_provider
