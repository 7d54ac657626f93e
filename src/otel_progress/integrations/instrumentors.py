"""Instrumentors: integrations that ``opentelemetry-instrument`` activates.

The base class is that of the package opentelemetry-instrumentation, which is not a requirement.
:class:`ProgressInstrumentor` starts the recording at its first use. Each other class calls
``instrument()`` and ``uninstrument()`` of the module with the same name, as soon as the program
imports the library.

An instrumentor does nothing if it is disabled:

- ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` has its name, ``progress`` for all, or ``*``,
- the file of ``OTEL_CONFIG_FILE`` has ``enabled: false`` for its name, or for ``progress``,
- ``OTEL_PROGRESS_ENABLED`` is false.

It never raises, so it cannot stop the instrumentors after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import field, make_dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Final

from opentelemetry import trace
from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_progress import semconv
from otel_progress.diagnostics import log_warning, logger, report_internal_error
from otel_progress.errors import ConfigurationError
from otel_progress.integrations.first_use import (
    cancel_first_use,
    configure_at_first_use,
    start_automatically,
)
from otel_progress.integrations.switches import ALL, CONFIG_FILE, find_switch
from otel_progress.settings.fields import PREFIX, SETTINGS, Settings

_HELPER_PROCESS: Final = "resource_tracker import main"
"""Part of the command of the process that multiprocessing, and joblib, start for clean-ups."""


def is_helper_process() -> bool:
    """Return True in a process of multiprocessing that never runs code of the program."""
    return any(_HELPER_PROCESS in argument for argument in sys.orig_argv)


class _GuardedInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instrumentor that may be disabled and never raises."""

    _entry_point: ClassVar[str]
    """Name of the entry point."""

    def instrument(self, **options: Any) -> None:
        """Activate the integration, unless it is active, disabled or impossible.

        ``options`` are those of the integration, as in a configuration file.
        """
        try:
            if self.is_instrumented_by_opentelemetry or is_helper_process():
                return
            switch = find_switch(self._entry_point, os.environ)
            if switch:
                logger.debug("The instrumentation %s is disabled: %s", self._entry_point, switch)
                return
            if options.pop("skip_dep_check", False):
                # Why: the caller has checked the requirements of this package, not of the library.
                conflict = self._check_dependency_conflicts()
                if conflict is not None:
                    # Why debug: most programs do not have most of the libraries.
                    is_installed = bool(conflict.found or getattr(conflict, "found_any", None))
                    (log_warning if is_installed else logger.debug)("%s: %s", self._entry_point, conflict)
                    return
            super().instrument(skip_dep_check=False, **options)
        except DependencyConflictError:
            # The caller requested it by an option.
            raise
        except ConfigurationError as error:
            log_warning("The instrumentation %s is not active: %s", self._entry_point, error)
        except Exception as error:
            report_internal_error(
                "integration", f"The instrumentation {self._entry_point} is not active", error=error
            )

    def uninstrument(self, **options: Any) -> None:
        """Undo :meth:`instrument`. Without an active integration it does nothing."""
        try:
            if self.is_instrumented_by_opentelemetry:
                super().uninstrument(**options)
        except Exception as error:
            self._is_instrumented_by_opentelemetry = False
            report_internal_error(
                "integration", f"The instrumentation {self._entry_point} could not be removed", error=error
            )


class _ModuleInstrumentor(_GuardedInstrumentor):
    """Instrumentor that calls the functions of a module of this package.

    It waits until the program imports the library, so that other programs do not pay for that.
    """

    _module: ClassVar[str]
    """Name of the module in this package. The entry point is ``progress-`` and this name."""
    _dependency: ClassVar[str]
    """Requirement of the library, such as ``tqdm >= 4.60``."""
    _library: ClassVar[str] = ""
    """Top-level package of the library. Default: the name of the module."""

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
        if library in sys.modules or find_spec(library) is None:
            self._call_module(options)
            return
        # Why here: only few programs need it. It is a requirement of opentelemetry-instrumentation.
        from wrapt import when_imported

        def instrument_imported(_: object) -> None:
            if self.is_instrumented_by_opentelemetry:
                self._call_module(options)

        when_imported(library)(instrument_imported)

    def _call_module(self, options: Mapping[str, Any]) -> None:
        """Activate the integration. Never raises, because an import may call it."""
        try:
            import_module(f"otel_progress.integrations.{self._module}").instrument(**options)
        except Exception as error:
            report_internal_error(
                "integration", f"The instrumentation {self._entry_point} is not active", error=error
            )

    def _uninstrument(self, **_: Any) -> None:
        module = sys.modules.get(f"otel_progress.integrations.{self._module}")
        if module is not None:
            module.uninstrument()


def _check_options(options: Any) -> None:
    """Convert the options of a configuration file. Raises ConfigurationError."""
    given = {setting.name: getattr(options, setting.name) for setting in SETTINGS}
    settings = Settings().with_arguments(**given)
    for name, value in given.items():
        if value is not None:
            setattr(options, name, getattr(settings, name))


ProgressConfiguration: Final = make_dataclass(
    "ProgressConfiguration",
    [(setting.name, Any, field(default=None)) for setting in SETTINGS],
    namespace={
        "__doc__": "Options of the instrumentation ``progress`` in a configuration file: all settings.",
        "__module__": __name__,
        "__post_init__": _check_options,
    },
)
"""Options of :class:`ProgressInstrumentor` in a configuration file. None means not given."""


class ProgressInstrumentor(_GuardedInstrumentor):
    """Starts to record at the first use of a helper, without ``configure()``.

    Options are those of ``configure()``. By default nothing is printed, and there is no journal.
    Spans of the global tracer provider are followed. A call of ``configure()`` in the program
    replaces the recording.
    """

    configuration = ProgressConfiguration
    _entry_point = ALL

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return no requirement: there is no library."""
        return ()

    def _instrument(self, **options: Any) -> None:
        provider = trace.get_tracer_provider()
        defaults = {**_read_file_defaults(os.environ), **_read_service_defaults(provider)}
        settings = configure_at_first_use(options, defaults)
        if settings is not None and _has_watchdog(settings):
            # Why: the service manager ends a service that does not report to its watchdog.
            start_automatically()

    def _uninstrument(self, **_: Any) -> None:
        cancel_first_use()


def _has_watchdog(settings: Settings) -> bool:
    """Return True if the service manager expects reports of this process."""
    if {"auto", "systemd"}.isdisjoint(settings.report_to):
        return False
    # Why here: only few programs report to a platform.
    from otel_progress.platforms.systemd import has_watchdog

    return has_watchdog(os.environ)


def _read_file_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """Return defaults of variables for a program with a configuration file.

    Why: the distribution sets the variables of exporters although the file is used instead of
    them. They would request an export to a default address.
    """
    if not environ.get(CONFIG_FILE, "").strip():
        return {}
    endpoints = ("", "TRACES_", "METRICS_", "LOGS_")
    if any(environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT", "").strip() for part in endpoints):
        return {}
    return {PREFIX + "OTLP": "false"}


def _read_service_defaults(provider: object) -> dict[str, str]:
    """Return the service name of a provider as the default of a variable."""
    attributes = getattr(getattr(provider, "resource", None), "attributes", None) or {}
    service = str(attributes.get(semconv.SERVICE_NAME) or "")
    is_known = service and not service.startswith("unknown_service")
    return {PREFIX + "SERVICE_NAME": service} if is_known else {}
