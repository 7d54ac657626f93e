"""Every setting: its name, environment variable, default and meaning; arguments come before the environment, which comes before defaults.

Reading them changes nothing; a value that cannot be used is a ConfigurationError that names where it came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.text import cut

PREFIX: Final = "OTEL_PROGRESS_"
"""What the project's own variables begin with."""
ConsoleMode: TypeAlias = Literal["auto"] | bool
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_text(value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value.strip()


def parse_bool(value: object) -> bool:
    """Return a truth value, also from the words environment variables use."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def parse_console(value: object) -> ConsoleMode:
    """Return "auto" or a truth value."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError("auto, true or false") from None


def parse_port(value: object) -> int:
    """Return a port; 0 stands for any free one."""
    expected = "a port from 0 (any free one) to 65535"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(expected)
    if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]{1,5}\s*", value):
        raise ValueError(expected)
    port = int(value)
    if not 0 <= port <= 65535:
        raise ValueError(expected)
    return port


def parse_duration(value: object) -> float:
    """Return seconds from a number or a text such as ``90``, ``500ms``, ``15m``, ``24h`` or ``7d``."""
    expected = "a duration above 0 in seconds, or with a unit: 500ms, 90s, 15m, 24h, 7d"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if value < 2**63 else math.inf
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(expected)
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0.0 < seconds < math.inf:
        raise ValueError(expected)
    return seconds


def parse_tick(value: object) -> float:
    """Return the length of a tick in seconds, at least a millisecond."""
    seconds = parse_duration(value)
    if not 0.001 <= seconds <= 60.0:
        raise ValueError("a duration from 1ms to 60s")
    return seconds


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: argument of ``configure`` and field here, variables (the first that is set counts), default, meaning."""

    name: str
    variables: tuple[str, ...]
    default: Any
    parse: Callable[[object], Any]
    meaning: str


def _setting(name: str, default: object, parse: Callable[[object], Any], meaning: str, *also: str) -> Setting:
    return Setting(name, (PREFIX + name.upper(), *also), default, parse, meaning)


SETTINGS: Final[tuple[Setting, ...]] = (
    _setting("service_name", None, parse_text, "Name of the service that works.", "OTEL_SERVICE_NAME"),
    _setting(
        "store",
        "sqlite:",
        parse_text,
        "Where progress is kept: `memory:`, `sqlite:` (one file in the user's state directory) or `sqlite:///path`.",
    ),
    _setting("prometheus_port", None, parse_port, "Port on which to serve /metrics; 0 for any free one. Off when not set."),
    _setting("prometheus_host", "127.0.0.1", parse_text, "Address on which to serve /metrics."),
    _setting("otlp", None, parse_bool, "Whether to export over OTLP. When not set: if an `OTEL_EXPORTER_OTLP_*` endpoint is."),
    _setting(
        "console", "auto", parse_console, "Progress on stderr: `auto` (bars on a terminal, else lines), `true` (bars) or `false`."
    ),
    _setting("strict", False, parse_bool, "Whether bad values raise instead of being counted; for tests."),
    _setting("tick", 0.1, parse_tick, "How often progress is collected while something runs."),
    _setting("retention", 86_400.0, parse_duration, "How long the journal keeps ended operations."),
    _setting("metrics_retention", 300.0, parse_duration, "How long the series of an ended operation stay on /metrics."),
    _setting("stall_after", 60.0, parse_duration, "Shortest time without an advance after which an operation counts as stalled."),
    _setting("enabled", True, parse_bool, "Whether anything is recorded at all; false leaves every helper inert."),
)
"""All settings, in the order of their documentation."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force; fields and defaults are those of :data:`SETTINGS`."""

    service_name: str | None = None
    store: str = "sqlite:"
    prometheus_port: int | None = None
    prometheus_host: str = "127.0.0.1"
    otlp: bool | None = None
    console: ConsoleMode = "auto"
    strict: bool = False
    tick: float = 0.1
    retention: float = 86_400.0
    metrics_retention: float = 300.0
    stall_after: float = 60.0
    enabled: bool = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Return defaults overlaid with the environment; an empty variable counts as not set. Raises ConfigurationError."""
        found: dict[str, Any] = {}
        for setting in SETTINGS:
            variable = next((name for name in setting.variables if environ.get(name, "").strip()), None)
            if variable is not None:
                found[setting.name] = _parsed(setting, environ[variable], f"the environment variable {variable}")
        if "service_name" not in found and (service := _service_of_resource(environ)):
            found["service_name"] = service
        return cls(**found)

    def with_arguments(self, **arguments: object) -> Settings:
        """Return these settings overlaid with arguments; None counts as not given. Raises ConfigurationError."""
        given = {name: value for name, value in arguments.items() if value is not None}
        by_name = {setting.name: setting for setting in SETTINGS}
        return replace(self, **{name: _parsed(by_name[name], value, f"the argument {name}") for name, value in given.items()})

    def differences(self, other: Settings, names: Mapping[str, object]) -> list[str]:
        """Return "name: this value and that value" for each of ``names`` in which two settings differ."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name in names]
        return [f"{name}: {mine!r} and {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


def _service_of_resource(environ: Mapping[str, str]) -> str:
    """Return ``service.name`` of OTEL_RESOURCE_ATTRIBUTES, a list of percent-encoded ``key=value``; empty when it is not there."""
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == semconv.SERVICE_NAME:
            return cut(unquote(value.strip()))
    return ""


def _shown(value: object) -> str:
    try:
        return cut(repr(value), 100)
    except Exception:  # an int of thousands of digits has no repr
        return f"a {type(value).__name__}"


def _parsed(setting: Setting, value: object, source: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as error:
        msg = f"{source} is {_shown(value)}; expected {error}"
        raise ConfigurationError(msg) from None
