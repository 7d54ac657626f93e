"""Instrumentors: integrations that ``opentelemetry-instrument`` activates.

The base class is that of the package opentelemetry-instrumentation, which is not a requirement.
Each class calls ``instrument()`` and ``uninstrument()`` of the module with the same name, as soon
as the program imports the library.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, ClassVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.integrations.guarded_instrumentor import GuardedInstrumentor
from otel_progress.integrations.switches import ALL


class _ModuleInstrumentor(GuardedInstrumentor):
    """Instrumentor that calls the functions of a module of this package.

    It waits until the program imports the library, so that other programs do not pay for that.
    """

    _module: ClassVar[str]
    """Name of the module in this package. The entry point is ``progress-`` and this name."""
    _dependency: ClassVar[str]
    """Requirement of the library, such as ``tqdm >= 4.66``."""
    _library: ClassVar[str] = ""
    """Module of the library whose import activates the integration. Default: ``_module``."""
    _waiting: Mapping[str, Any] | None = None
    """Options for the call, until the program imports the library."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        module = getattr(cls, "_module", None)
        if module is not None and "_entry_point" not in vars(cls):
            cls._entry_point = f"{ALL}-{module.replace('_', '-')}"

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the requirement of the library."""
        return (self._dependency,) if self._dependency else ()

    def _instrument(self, **options: Any) -> None:
        library = self._library or self._module
        # Why the package: the search for a submodule imports its package.
        if library in sys.modules or find_spec(library.partition(".")[0]) is None:
            self._call_module(options)
            return
        # Why here: only few programs need it. It is a requirement of opentelemetry-instrumentation.
        from wrapt import when_imported

        def instrument_imported(_: object) -> None:
            # Why the identity: it may have been removed, and added with other options.
            if self._waiting is options:
                self._call_module(options)

        self._waiting = options
        when_imported(library)(instrument_imported)

    def _call_module(self, options: Mapping[str, Any]) -> None:
        """Activate the integration. Never raises, because an import may call it."""
        self._waiting = None
        try:
            instrument = import_module(f"otel_progress.integrations.{self._module}").instrument
            known = signature(instrument).parameters
            instrument(**self.drop_unknown(options, known, ", ".join(known) or "no options"))
        except Exception as error:
            report_internal_error(
                "integration", f"The instrumentation {self._entry_point} is not active", error=error
            )

    def uninstrument(self, **options: Any) -> None:
        """Undo :meth:`instrument`. The module is not imported for that."""
        if self._waiting is not None:
            self._waiting, self._is_instrumented_by_opentelemetry = None, False
            return
        super().uninstrument(**options)

    def _uninstrument(self, **_: Any) -> None:
        import_module(f"otel_progress.integrations.{self._module}").uninstrument()


class AliveProgressInstrumentor(_ModuleInstrumentor):
    """Instrumentor of alive-progress: a level per bar."""

    _module = "alive_progress"
    _dependency = "alive-progress >= 3.1"


class CeleryInstrumentor(_ModuleInstrumentor):
    """Instrumentor of Celery: an operation per task, from the queue to its end."""

    _module = "celery"
    _dependency = "celery >= 5.3"


class DaskInstrumentor(_ModuleInstrumentor):
    """Instrumentor of the local schedulers of Dask: a level per computation."""

    _module = "dask"
    _dependency = "dask >= 2024.8"


class JoblibInstrumentor(_ModuleInstrumentor):
    """Instrumentor of joblib: a level per call of ``Parallel``."""

    _module = "joblib"
    _dependency = "joblib >= 1.5"


class KerasInstrumentor(_ModuleInstrumentor):
    """Instrumentor of Keras: a callback in each ``fit``, ``evaluate`` and ``predict``."""

    _module, _library, _dependency = "keras", "keras", "keras >= 3.0"


class LightgbmInstrumentor(_ModuleInstrumentor):
    """Instrumentor of LightGBM: a callback in each training."""

    _module, _library, _dependency = "lightgbm", "lightgbm", "lightgbm >= 4.0"


class OptunaInstrumentor(_ModuleInstrumentor):
    """Instrumentor of Optuna: a level per call of ``Study.optimize`` and per trial."""

    _module, _library, _dependency = "optuna", "optuna", "optuna >= 3.0"


class RichInstrumentor(_ModuleInstrumentor):
    """Instrumentor of rich: a level per task of a progress display."""

    _module, _library, _dependency = "rich", "rich.progress", "rich >= 13.7"


class RqInstrumentor(_ModuleInstrumentor):
    """Instrumentor of RQ: an operation per job, from the queue to its end."""

    _module = "rq"
    _dependency = "rq >= 1.16"


class TqdmInstrumentor(_ModuleInstrumentor):
    """Instrumentor of tqdm: a level per bar."""

    _module = "tqdm"
    _dependency = "tqdm >= 4.66"


class TransformersInstrumentor(_ModuleInstrumentor):
    """Instrumentor of transformers: a callback in each Trainer."""

    _module, _library, _dependency = "transformers", "transformers.trainer", "transformers >= 4.40"


class XgboostInstrumentor(_ModuleInstrumentor):
    """Instrumentor of XGBoost: a callback in each training."""

    _module, _library, _dependency = "xgboost", "xgboost", "xgboost >= 2.0"
