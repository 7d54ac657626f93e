"""Switches that disable instrumentors: variables, and the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from otel_progress.diagnostics import logger
from otel_progress.settings.fields import PREFIX
from otel_progress.settings.parsing import parse_bool

ALL: Final = "progress"
"""Name of the entry point of the core. If it is disabled, all instrumentors are."""


CONFIG_FILE: Final = "OTEL_CONFIG_FILE"
"""Variable with the path of the configuration file of OpenTelemetry."""


_DISABLED: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


_ENABLED: Final = PREFIX + "ENABLED"


def find_switch(name: str, environ: Mapping[str, str]) -> str:
    """Return the switch that disables an instrumentor, or an empty text.

    ``name`` is the name of its entry point.
    """
    listed = {part.strip() for part in environ.get(_DISABLED, "").split(",")}
    for word in (name, ALL, "*"):
        if word in listed:
            return f"{_DISABLED} contains {word}"
    if not _is_enabled(environ):
        return f"{_ENABLED} is false"
    path = environ.get(CONFIG_FILE, "").strip()
    for word in (name, ALL) if path else ():
        if word in _read_disabled_names(path):
            return f"the file of {CONFIG_FILE} has enabled: false for {word}"
    return ""


def _is_enabled(environ: Mapping[str, str]) -> bool:
    try:
        return parse_bool(environ.get(_ENABLED, "").strip() or True)
    except ValueError:
        # Why: the start of the recording reports an invalid value.
        return True


@lru_cache(maxsize=1)
def _read_disabled_names(path: str) -> frozenset[str]:
    """Return the names with ``enabled: false`` in a configuration file.

    Why: the distribution activates all instrumentors after it has read the file.
    """
    try:
        from opentelemetry.configuration import load_config_file

        section = getattr(load_config_file(path), "instrumentation_development", None)
        python = getattr(section, "python", None) or {}
        return frozenset(name for name, options in python.items() if not dict(options).get("enabled", True))
    except Exception:
        # The distribution reports an invalid file.
        logger.debug("The configuration file could not be read for disabled instrumentations", exc_info=True)
        return frozenset()
