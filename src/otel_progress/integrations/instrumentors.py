"""Instrumentors: integrations that ``opentelemetry-instrument`` activates.

The base class is that of the package opentelemetry-instrumentation, which is not a requirement.
Each class calls ``instrument()`` and ``uninstrument()`` of the module with the same name. Libraries
that take long to import are not imported: their module is activated when the program imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from importlib import import_module
from typing import Any, ClassVar

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_progress.diagnostics import report_internal_error


class _ModuleInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instrumentor that calls the functions of a module of this package."""

    _module: ClassVar[str]
    _dependency: ClassVar[str]
    """Requirement of the library, such as ``tqdm >= 4.66``."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the requirement of the library."""
        return (self._dependency,)

    def _instrument(self, **options: Any) -> None:
        import_module(f"otel_progress.integrations.{self._module}").instrument(**options)

    def _uninstrument(self, **_: Any) -> None:
        import_module(f"otel_progress.integrations.{self._module}").uninstrument()


class AliveProgressInstrumentor(_ModuleInstrumentor):
    """Records the bars of alive-progress."""

    _module = "alive_progress"
    _dependency = "alive-progress >= 3.1"


class RichInstrumentor(_ModuleInstrumentor):
    """Records the tasks of rich's progress displays."""

    _module = "rich"
    _dependency = "rich >= 13.7"


class TqdmInstrumentor(_ModuleInstrumentor):
    """Records the bars of tqdm."""

    _module = "tqdm"
    _dependency = "tqdm >= 4.66"


class DaskInstrumentor(_ModuleInstrumentor):
    """Instrumentor ``progress-dask``."""

    _module = "dask"
    _dependency = "dask >= 2024.8"


class JoblibInstrumentor(_ModuleInstrumentor):
    """Instrumentor ``progress-joblib``."""

    _module = "joblib"
    _dependency = "joblib >= 1.5"


class _LazyInstrumentor(_ModuleInstrumentor):
    """Instrumentor of a library that is not imported before the program imports it."""

    _library: ClassVar[str]
    """Module of the library whose import activates the integration."""

    _options: ClassVar[dict[str, Any] | None] = None
    """Options of the active instrumentor. None while it is not active."""

    def _instrument(self, **options: Any) -> None:
        type(self)._options = options
        # Why wrapt: it is a requirement of opentelemetry-instrumentation.
        wrapt.register_post_import_hook(self._activate, self._library)

    def _activate(self, _: object) -> None:
        """Activate the integration after the import of the library. Never raises."""
        if self._options is None:
            return
        try:
            super()._instrument(**self._options)
        except Exception as error:
            report_internal_error("start", f"The integration {self._module} failed.", error=error)

    def _uninstrument(self, **options: Any) -> None:
        type(self)._options = None
        if f"otel_progress.integrations.{self._module}" in sys.modules:
            super()._uninstrument(**options)


class KerasInstrumentor(_LazyInstrumentor):
    """Instrumentor of Keras: a callback in each ``fit``, ``evaluate`` and ``predict``."""

    _module, _library, _dependency = "keras", "keras", "keras >= 3.0"


class LightgbmInstrumentor(_LazyInstrumentor):
    """Instrumentor of LightGBM: a callback in each training."""

    _module, _library, _dependency = "lightgbm", "lightgbm", "lightgbm >= 4.0"


class OptunaInstrumentor(_LazyInstrumentor):
    """Instrumentor of Optuna: a level per call of ``Study.optimize`` and per trial."""

    _module, _library, _dependency = "optuna", "optuna", "optuna >= 3.0"


class TransformersInstrumentor(_LazyInstrumentor):
    """Instrumentor of transformers: a callback in each Trainer."""

    _module, _library, _dependency = "transformers", "transformers.trainer", "transformers >= 4.40"


class XgboostInstrumentor(_LazyInstrumentor):
    """Instrumentor of XGBoost: a callback in each training."""

    _module, _library, _dependency = "xgboost", "xgboost", "xgboost >= 2.0"
