"""Instrumentor ``progress``: it starts the recording at its first use."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import field, make_dataclass
from typing import Any, Final

from opentelemetry import trace

from otel_progress import semconv
from otel_progress.integrations.first_use import (
    cancel_first_use,
    configure_at_first_use,
    start_automatically,
)
from otel_progress.integrations.guarded_instrumentor import GuardedInstrumentor
from otel_progress.integrations.switches import ALL, CONFIG_FILE
from otel_progress.settings.fields import PREFIX, SETTINGS, Settings


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


class ProgressInstrumentor(GuardedInstrumentor):
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
        known = {setting.name for setting in SETTINGS}
        options = self.drop_unknown(options, known, "settings of configure()")
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
