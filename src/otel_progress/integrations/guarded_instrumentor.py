"""Base class of the instrumentors: it may be disabled, and never raises.

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
from typing import Any, ClassVar, Final

from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_progress.diagnostics import log_warning, logger, report_internal_error
from otel_progress.errors import ConfigurationError
from otel_progress.integrations.switches import find_switch

_HELPER_PROCESS: Final = "resource_tracker import main"
"""Part of the command of the process that multiprocessing, and joblib, start for clean-ups."""


def is_helper_process() -> bool:
    """Return True in a process of multiprocessing that never runs code of the program."""
    return any(_HELPER_PROCESS in argument for argument in sys.orig_argv)


class GuardedInstrumentor(BaseInstrumentor):  # type: ignore[misc]
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

    def drop_unknown(
        self, options: Mapping[str, Any], known: Collection[str], expected: str
    ) -> dict[str, Any]:
        """Return the options with a known name. Log the others.

        ``expected`` describes the known ones in the message.

        Why not an error: programs pass ``tracer_provider`` to all instrumentors.
        """
        unknown = ", ".join(sorted(set(options).difference(known)))
        if unknown:
            log_warning(
                "Invalid options of %s: %s. Expected %s. They are ignored.",
                self._entry_point,
                unknown,
                expected,
            )
        return {name: value for name, value in options.items() if name in known}

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
