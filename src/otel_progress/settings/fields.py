"""Every setting: its name, environment variable, default and meaning; arguments come before the environment, which comes before defaults.

Reading them changes nothing; a value that cannot be used is a ConfigurationError that names where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.settings.parsing import (
    MAX_TOKEN,
    ConsoleMode,
    RedactRule,
    parse_base_url,
    parse_bool,
    parse_capture,
    parse_console,
    parse_count,
    parse_duration,
    parse_edge,
    parse_path,
    parse_picture_format,
    parse_port,
    parse_preview_at,
    parse_previews,
    parse_redact,
    parse_size,
    parse_text,
    parse_tick,
    parse_token,
)
from otel_progress.text import escape_controls, truncate

__all__ = ["PREFIX", "SETTINGS", "Setting", "Settings", "parse_duration"]


PREFIX: Final = "OTEL_PROGRESS_"
"""What the project's own variables begin with."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: argument of ``configure`` and field here, variables (the first that is set counts), default, meaning.

    The value of a ``secret`` one is shown nowhere.
    """

    name: str
    variables: tuple[str, ...]
    default: Any
    parse: Callable[[object], Any]
    meaning: str
    secret: bool = False


def _setting(
    name: str, default: object, parse: Callable[[object], Any], meaning: str, *also: str, secret: bool = False
) -> Setting:
    return Setting(name, (PREFIX + name.upper(), *also), default, parse, meaning, secret)


SETTINGS: Final[tuple[Setting, ...]] = (
    _setting("service_name", None, parse_text, "Name of the service that works.", "OTEL_SERVICE_NAME"),
    _setting(
        "store",
        "sqlite:",
        parse_text,
        "Where progress is kept: `memory:`, `sqlite:` (one file in the user's state directory) or `sqlite:///path`.",
    ),
    _setting(
        "prometheus_port",
        None,
        parse_port,
        "Port on which to serve /metrics; 0 for any free one. Off when not set.",
    ),
    _setting("prometheus_host", "127.0.0.1", parse_text, "Address on which to serve /metrics."),
    _setting(
        "otlp",
        None,
        parse_bool,
        "Whether to export over OTLP. When not set: if an `OTEL_EXPORTER_OTLP_*` endpoint is.",
    ),
    _setting(
        "console",
        "auto",
        parse_console,
        "Progress on stderr: `auto` (bars on a terminal, else lines), `true` (bars) or `false`.",
    ),
    _setting("strict", False, parse_bool, "Whether bad values raise instead of being counted; for tests."),
    _setting("tick", 0.1, parse_tick, "How often progress is collected while something runs."),
    _setting("retention", 86_400.0, parse_duration, "How long the journal keeps ended operations."),
    _setting(
        "metrics_retention",
        300.0,
        parse_duration,
        "How long the series of an ended operation stay on /metrics.",
    ),
    _setting(
        "stall_after",
        60.0,
        parse_duration,
        "Shortest time without an advance after which an operation counts as stalled.",
    ),
    _setting(
        "capture_logs",
        False,
        parse_capture,
        "Which records of `logging` to tie to the level they are made in: `true` (from INFO), a level's name or number, or `false`. "
        "What the root logger's own level holds back is not seen.",
    ),
    _setting(
        "redact",
        True,
        parse_redact,
        "Whether secrets in metadata, messages, errors and logs are replaced by `[redacted]`; as an argument also a function of a key "
        "and a text, called after that, that returns the text to show.",
    ),
    _setting(
        "resources",
        "auto",
        parse_console,
        "Whether to sample processor, memory and GPU use of the process: `auto` (when psutil is installed), `true` or `false`.",
    ),
    _setting(
        "previews",
        "auto",
        parse_previews,
        "Where previews are kept: `auto` (a folder beside the journal; in memory with `memory:`), a folder, or a URL that fsspec knows, "
        "such as `s3://bucket/previews`; `false` takes none.",
    ),
    _setting(
        "preview_at",
        (0.25, 0.5, 0.75),
        parse_preview_at,
        "When previews are taken: at fractions of the level (`25%,50%,75%`), every so many seconds (`30s`), or `always`.",
    ),
    _setting("preview_edge", 512, parse_edge, "Longer side of previews, in pixels."),
    _setting(
        "preview_format",
        "png",
        parse_picture_format,
        "What pictures are encoded as: `png`, `webp` or `jpeg`.",
    ),
    _setting(
        "preview_count",
        50,
        parse_count,
        "Previews kept of an operation; beyond, they are thinned out so that they still span the run.",
    ),
    _setting("preview_size", 16 * 1024 * 1024, parse_size, "Bytes of the previews kept of an operation."),
    _setting(
        "public_url",
        None,
        parse_base_url,
        "Address under which people reach the server, for links in metrics and events. When not set: that of the worker's own server.",
    ),
    _setting(
        "server_port",
        None,
        parse_port,
        "Port on which to serve the API and the page from the worker; 0 for any free one. Off when not set.",
    ),
    _setting(
        "server_host",
        "127.0.0.1",
        parse_text,
        "Address on which to serve them; any but loopback needs a token.",
    ),
    _setting(
        "token",
        None,
        parse_token,
        "Secret that the server asks for: at least 16 characters of A-Z a-z 0-9 and . _ ~ + / = -.",
        secret=True,
    ),
    _setting("token_file", None, parse_path, "File with that secret instead, read when it is needed."),
    _setting(
        "enabled", True, parse_bool, "Whether anything is recorded at all; false leaves every helper inert."
    ),
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
    capture_logs: int | Literal[False] = False
    redact: RedactRule = True
    resources: ConsoleMode = "auto"
    previews: str | Literal[False] = "auto"
    preview_at: tuple[float, ...] | float | Literal["always"] = (0.25, 0.5, 0.75)
    preview_edge: int = 512
    preview_format: Literal["png", "webp", "jpeg"] = "png"
    preview_count: int = 50
    preview_size: int = 16 * 1024 * 1024
    public_url: str | None = None
    server_port: int | None = None
    server_host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    enabled: bool = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Return defaults overlaid with the environment; an empty variable counts as not set. Raises ConfigurationError."""
        found: dict[str, Any] = {}
        for setting in SETTINGS:
            variable = next((name for name in setting.variables if environ.get(name, "").strip()), None)
            if variable is not None:
                found[setting.name] = _parsed(
                    setting, environ[variable], f"the environment variable {variable}"
                )
        if "service_name" not in found and (service := _service_of_resource(environ)):
            found["service_name"] = service
        return cls(
            **_one_token(found, "the environment variables OTEL_PROGRESS_TOKEN and OTEL_PROGRESS_TOKEN_FILE")
        )

    def with_arguments(self, **arguments: object) -> Settings:
        """Return these settings overlaid with arguments; None counts as not given. Raises ConfigurationError."""
        given = {name: value for name, value in arguments.items() if value is not None}
        by_name = {setting.name: setting for setting in SETTINGS}
        clean = {name: _parsed(by_name[name], value, f"the argument {name}") for name, value in given.items()}
        _one_token(clean, "the arguments token and token_file")
        if "token" in clean:  # it takes the place of whichever the environment has
            clean["token_file"] = None
        elif "token_file" in clean:
            clean["token"] = None
        return replace(self, **clean)

    def differences(self, other: Settings, names: Mapping[str, object]) -> list[str]:
        """Return "name: this value and that value" for each of ``names`` in which two settings differ; no secret is shown."""
        pairs = [
            (f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name in names
        ]
        return [
            f"{name}: another one" if name in _SECRET else f"{name}: {_quoted(mine)} and {_quoted(theirs)}"
            for name, mine, theirs in pairs
            if mine != theirs
        ]

    def read_token(self) -> str | None:
        """Return the token, from its file when that is what was given; None when there is none. Raises ConfigurationError."""
        if self.token_file is None:
            return self.token
        named = f"the token file {escape_controls(truncate(self.token_file, 200))}"
        try:
            with Path(self.token_file).open("rb") as file:
                raw = file.read(MAX_TOKEN * 2)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            msg = f"{named} cannot be read ({reason}); expected a file with one token that this user may read"
            raise ConfigurationError(msg) from None
        try:
            return parse_token(raw.decode("ascii", "replace"))
        except ValueError as error:
            what = f"holds {len(raw.strip())} bytes that are no token" if raw.strip() else "is empty"
            msg = f"{named} {what}; expected {error}"
            raise ConfigurationError(msg) from None


_SECRET: Final = frozenset(setting.name for setting in SETTINGS if setting.secret)


def _one_token(found: dict[str, Any], source: str) -> dict[str, Any]:
    if "token" in found and "token_file" in found:
        msg = f"{source} are both set; expected one of them"
        raise ConfigurationError(msg)
    return found


def _service_of_resource(environ: Mapping[str, str]) -> str:
    """Return ``service.name`` of OTEL_RESOURCE_ATTRIBUTES, a list of percent-encoded ``key=value``; empty when it is not there."""
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == semconv.SERVICE_NAME:
            return truncate(unquote(value.strip()))
    return ""


def _quoted(value: object) -> str:
    try:
        return truncate(repr(value), 100)
    except Exception:  # an int of thousands of digits has no repr
        return f"a {type(value).__name__}"


def _parsed(setting: Setting, value: object, source: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as error:
        found = "no token that can be used" if setting.secret else _quoted(value)
        msg = f"{source} is {found}; expected {error}"
        raise ConfigurationError(msg) from None
