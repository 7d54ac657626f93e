"""Instrumentors: integrations that ``opentelemetry-instrument`` activates without code.

The base class is that of the package opentelemetry-instrumentation, which is not a requirement.
Each class calls ``instrument()`` and ``uninstrument()`` of the module with the same name.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import Any, ClassVar

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]


class _ModuleInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instrumentor that calls the functions of a module of this package."""

    _module: ClassVar[str]
    _dependency: ClassVar[str]
    """Requirement of the library, such as ``tqdm >= 4.60``."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the requirement of the library."""
        return (self._dependency,)

    def _instrument(self, **options: Any) -> None:
        import_module(f"otel_progress.integrations.{self._module}").instrument(**options)

    def _uninstrument(self, **_: Any) -> None:
        import_module(f"otel_progress.integrations.{self._module}").uninstrument()


class CeleryInstrumentor(_ModuleInstrumentor):
    """Instrumentor of Celery."""

    _module = "celery"
    _dependency = "celery >= 5.3"


class RQInstrumentor(_ModuleInstrumentor):
    """Instrumentor of RQ."""

    _module = "rq"
    _dependency = "rq >= 1.16"
