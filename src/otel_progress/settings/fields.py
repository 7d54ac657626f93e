"""Declarations and values of all settings.

Each setting is declared once, as a field of :class:`Settings`. Arguments take precedence over
environment variables, and those over defaults.
"""

# ruff: noqa: RUF009 - all defaults are immutable
from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.settings.defaults import (
    DEFAULT_HOST,
    DEFAULT_METRICS_RETENTION_S,
    DEFAULT_PREVIEW_BYTES,
    DEFAULT_PREVIEW_COUNT,
    DEFAULT_PREVIEW_EDGE_PIXELS,
    DEFAULT_PREVIEW_RATIOS,
    DEFAULT_RETENTION_S,
    DEFAULT_SEGMENT_AFTER_S,
    DEFAULT_STALL_AFTER_S,
    DEFAULT_TICK_S,
)
from otel_progress.settings.parsing import (
    MAX_TOKEN,
    AutoMode,
    ConsoleMode,
    RedactRule,
    parse_auto,
    parse_base_url,
    parse_bool,
    parse_capture,
    parse_console,
    parse_count,
    parse_duration,
    parse_edge,
    parse_image_format,
    parse_path,
    parse_port,
    parse_preview_at,
    parse_previews,
    parse_redact,
    parse_report_to,
    parse_size,
    parse_text,
    parse_tick,
    parse_token,
)
from otel_progress.text import escape_controls, remove_credentials, truncate

__all__ = ["PREFIX", "SETTINGS", "Setting", "Settings"]


PREFIX: Final = "OTEL_PROGRESS_"
"""Prefix of the environment variables of this package."""


NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})
"""Empty environment."""


_RESOURCES: Final = ("prometheus_port", "server_port", "console", "report_to")
"""Settings of the resources that exist once per process."""


_RELATIVE_STORE: Final = "sqlite:///"
"""Start of the URL of a journal. An absolute path has a further slash."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Declaration of a setting.

    ``name`` is the argument of ``configure`` and the field of :class:`Settings`. The first of
    ``variables`` that is set provides the value. ``parse`` returns the value or raises
    ValueError with what it expects. The value of a ``secret`` setting is never shown. A
    ``per_process`` setting belongs to a resource that exists once, such as a port. Children do not
    inherit it.
    """

    name: str
    variables: tuple[str, ...]
    default: Any
    parse: Callable[[object], Any]
    meaning: str
    secret: bool = False
    per_process: bool = False


def _setting(
    default: object,
    parse: Callable[[object], Any],
    meaning: str,
    *,
    standard_variable: str | None = None,
    secret: bool = False,
    per_process: bool = False,
) -> Any:
    """Declare a setting as a field of :class:`Settings`."""
    declaration = {
        "parse": parse,
        "meaning": meaning,
        "standard_variable": standard_variable,
        "secret": secret,
        "per_process": per_process,
    }
    return field(default=default, repr=not secret, metadata=declaration)


@dataclass(frozen=True, slots=True)
class Settings:
    """Values of all settings, declared in the order of the documentation."""

    service_name: str | None = _setting(
        None, parse_text, "Name of the service.", standard_variable="OTEL_SERVICE_NAME"
    )
    store: str = _setting(
        "sqlite:",
        parse_text,
        "Where progress is stored: `memory:`, `sqlite:` (one file in the user's state directory), "
        "`sqlite:///path`, or `redis://host:6379/0` for several machines.",
    )
    prometheus_port: int | None = _setting(
        None, parse_port, "Port of /metrics. 0 selects a free port. Off when not set.", per_process=True
    )
    prometheus_host: str = _setting(DEFAULT_HOST, parse_text, "Address of /metrics.", per_process=True)
    otlp: bool | None = _setting(
        None,
        parse_bool,
        "Whether to export over OTLP. When not set: the signals that the standard variables enable.",
    )
    console: ConsoleMode = _setting(
        "auto",
        parse_console,
        "Display of progress: `auto` (bars on a terminal, a table in a notebook, otherwise lines on "
        "stderr), `true` (bars on stderr), `log` (records of `logging`), `json` (JSON lines on stderr), "
        "`json:3` (JSON lines on that file descriptor), or `false`.",
        per_process=True,
    )
    strict: bool = _setting(
        False,
        parse_bool,
        "Whether invalid values raise an exception instead of being counted, and `configure` instead of "
        "leaving out a part that the environment does not permit, such as a port in use. For tests.",
    )
    tick: float = _setting(
        DEFAULT_TICK_S, parse_tick, "Interval of collecting progress while an operation is running."
    )
    retention: float = _setting(
        DEFAULT_RETENTION_S, parse_duration, "How long the journal stores operations after their end."
    )
    metrics_retention: float = _setting(
        DEFAULT_METRICS_RETENTION_S,
        parse_duration,
        "How long the series of an operation stay on /metrics after its end.",
    )
    stall_after: float = _setting(
        DEFAULT_STALL_AFTER_S,
        parse_duration,
        "Shortest time without an advance after which an operation counts as stalled.",
    )
    segment_after: float = _setting(
        DEFAULT_SEGMENT_AFTER_S,
        parse_duration,
        "Time after which the span of a running level is exported and continued in a linked segment span.",
    )
    capture_logs: int | Literal[False] = _setting(
        False,
        parse_capture,
        "Which records of `logging` to add to the current level: `true` (from INFO), the name or number of a "
        "severity, or `false`. Records below the level of their logger are not captured.",
    )
    redact: RedactRule = _setting(
        True,
        parse_redact,
        "Whether to replace secrets in names, ids, metadata, messages, errors and logs by `[redacted]`. As "
        "an argument also a function of a key and a text, which is called afterwards and returns the text to "
        "show.",
    )
    resources: AutoMode = _setting(
        "auto",
        parse_auto,
        "Whether to sample processor, memory and GPU use of the process: `auto` (when psutil is installed), "
        "`true` or `false`.",
    )
    previews: str | Literal[False] = _setting(
        "auto",
        parse_previews,
        "Where previews are stored: `auto` (a folder next to the journal; in memory with `memory:`), "
        "a folder, or a URL that fsspec supports, such as `s3://bucket/previews`. `false` disables previews.",
    )
    preview_at: tuple[float, ...] | float | Literal["always"] = _setting(
        DEFAULT_PREVIEW_RATIOS,
        parse_preview_at,
        "When previews are captured: at fractions of the level (`25%,50%,75%`), at an interval (`30s`), or "
        "`always`.",
    )
    preview_edge: int = _setting(
        DEFAULT_PREVIEW_EDGE_PIXELS, parse_edge, "Longer side of previews, in pixels."
    )
    preview_format: Literal["png", "webp", "jpeg"] = _setting(
        "png", parse_image_format, "Image format of previews: `png`, `webp` or `jpeg`."
    )
    preview_count: int = _setting(
        DEFAULT_PREVIEW_COUNT,
        parse_count,
        "Maximum number of stored previews per operation. Beyond it previews are thinned out evenly over "
        "the run.",
    )
    preview_size: int = _setting(
        DEFAULT_PREVIEW_BYTES, parse_size, "Maximum size of the stored previews per operation, in bytes."
    )
    public_url: str | None = _setting(
        None,
        parse_base_url,
        "Public URL of the server, for links in metrics and events. When not set: the URL of this process's "
        "own server.",
    )
    server_port: int | None = _setting(
        None,
        parse_port,
        "Port on which this process serves the API and the page. 0 selects a free port. Off when not set.",
        per_process=True,
    )
    server_host: str = _setting(
        DEFAULT_HOST,
        parse_text,
        "Address of the API and the page. Any address but loopback requires a token.",
        per_process=True,
    )
    token: str | None = _setting(
        None,
        parse_token,
        "Secret that clients of the server have to send: at least 16 characters of A-Z a-z 0-9 and "
        ". _ ~ + / = -.",
        secret=True,
    )
    token_file: str | None = _setting(
        None,
        parse_path,
        "File that contains the token. It is read when the token is needed.",
        per_process=True,
    )
    report_to: tuple[str, ...] = _setting(
        (),
        parse_report_to,
        "Platforms that receive progress: `auto` (those whose environment is present), or a list of `argo`, "
        "`github`, `kubeflow`, `systemd`, `taskbar` and URLs of health checks. Off when not set.",
        secret=True,
        per_process=True,
    )
    terminate_signals: bool = _setting(
        False,
        parse_bool,
        "Whether SIGTERM and SIGHUP cancel the running operations and write everything before they have "
        "their previous effect.",
    )
    enabled: bool = _setting(
        True, parse_bool, "Whether to record at all. With `false`, instrumentation has no effect."
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Return the settings of an environment.

        Settings without a variable, or with an empty one, have their defaults. Raises
        ConfigurationError for an invalid value.
        """
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            variable = next((name for name in setting.variables if environ.get(name, "").strip()), None)
            if variable is not None:
                source = f"environment variable {variable}"
                values[setting.name] = _parse_value(setting, environ[variable], source)
        if "service_name" not in values and (service := _find_resource_service(environ)):
            values["service_name"] = service
        _check_single_token(values, "environment variables OTEL_PROGRESS_TOKEN and OTEL_PROGRESS_TOKEN_FILE")
        return cls(**values)

    def with_arguments(self, **arguments: object) -> Settings:
        """Return these settings with the arguments that are not None replaced.

        Raises ConfigurationError for an invalid value.
        """
        by_name = {setting.name: setting for setting in SETTINGS}
        values = {
            name: _parse_value(by_name[name], value, f"argument {name}")
            for name, value in arguments.items()
            if value is not None
        }
        _check_single_token(values, "arguments token and token_file")
        # Why: an argument of either kind replaces the environment's token of the other kind.
        if "token" in values:
            values["token_file"] = None
        elif "token_file" in values:
            values["token"] = None
        return replace(self, **values)

    def list_differences(self, other: Settings, names: Mapping[str, object]) -> list[str]:
        """Return ``name: this value and that value`` for each of ``names`` that differs.

        Secrets are not shown.
        """
        found = []
        for setting in SETTINGS:
            own_value, other_value = getattr(self, setting.name), getattr(other, setting.name)
            if setting.name not in names or own_value == other_value:
                continue
            values = "another value" if setting.secret else f"{_quote(own_value)} and {_quote(other_value)}"
            found.append(f"{setting.name}: {values}")
        return found

    def to_environ(
        self,
        names: Container[str] | None = None,
        *,
        has_credentials: bool = False,
        location: Path | None = None,
        environ: Mapping[str, str] = NO_VARIABLES,
    ) -> dict[str, str]:
        """Return environment variables from which another process gets these settings.

        With ``names``, only these settings are included. Settings of resources that exist once per
        process, tokens and functions are left out. ``location`` is the file of the journal. Without
        it, a relative path of the store becomes an absolute one.

        Without ``has_credentials``, the user and password of URLs are left out. A process that
        inherits ``environ`` has them from there, so a store that it names there is left out.
        """
        variables = {}
        for setting in SETTINGS:
            value = getattr(self, setting.name)
            if names is not None and setting.name not in names:
                continue
            if value is None or callable(value) or setting.secret or setting.per_process:
                continue
            if setting.name == "store" and location is not None:
                value = _build_file_store(location)
            elif setting.name == "store" and environ.get(setting.variables[0], "").strip() == value:
                continue
            text = _format_value(_make_absolute(value) if setting.name == "store" else value)
            variables[setting.variables[0]] = text if has_credentials else remove_credentials(text)
        return variables

    def name_store(self, location: Path | None) -> str:
        """Return the name of the store without credentials, empty for ``memory:``.

        Processes with the same name share the store. ``location`` is the file of the journal.
        """
        if location is not None:
            return _build_file_store(location)
        return "" if self.store == "memory:" else remove_credentials(self.store)

    def get_process_resources(self) -> dict[str, object]:
        """Return the values of the settings of resources that exist once per process.

        Resources that are off are left out.
        """
        values = {name: getattr(self, name) for name in _RESOURCES}
        # Why the identity: 0 is a port, and equal to False.
        return {
            name: value
            for name, value in values.items()
            if value is not None and value is not False and value != ()
        }

    def read_token(self) -> str | None:
        """Return the token, from its file if there is one, or None without a token.

        Raises ConfigurationError when the file cannot be read or has no valid token.
        """
        if self.token_file is None:
            return self.token
        file_name = escape_controls(truncate(self.token_file, 200))
        try:
            with Path(self.token_file).open("rb") as file:
                content = file.read(MAX_TOKEN * 2)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            msg = (
                f"Invalid token file {file_name}: it cannot be read ({reason}), "
                "expected a file with one token. Check the path and its permissions."
            )
            raise ConfigurationError(msg) from None
        try:
            return parse_token(content.decode("ascii", "replace"))
        except ValueError as error:
            size = len(content.strip())
            found = f"its {size} bytes are not a token" if size else "it is empty"
            msg = f"Invalid token file {file_name}: {found}, expected {error}"
            raise ConfigurationError(msg) from None


def _build_declaration(setting: Field[Any]) -> Setting:
    """Return the declaration of a field of :class:`Settings`."""
    metadata = setting.metadata
    variables = (PREFIX + setting.name.upper(), metadata["standard_variable"])
    return Setting(
        setting.name,
        tuple(variable for variable in variables if variable is not None),
        setting.default,
        metadata["parse"],
        metadata["meaning"],
        metadata["secret"],
        metadata["per_process"],
    )


SETTINGS: Final = tuple(_build_declaration(setting) for setting in fields(Settings))
"""Declarations of all settings, in the order of the documentation."""


def _check_single_token(values: Mapping[str, Any], source: str) -> None:
    if "token" in values and "token_file" in values:
        msg = f"Invalid {source}: both are set, expected one of them. Remove the other one."
        raise ConfigurationError(msg)


def _find_resource_service(environ: Mapping[str, str]) -> str:
    """Return ``service.name`` of OTEL_RESOURCE_ATTRIBUTES, or an empty text.

    The variable is a list of ``key=value`` with percent-encoded values.
    """
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        if key.strip() == semconv.SERVICE_NAME:
            return truncate(unquote(value.strip()))
    return ""


def _format_value(value: object) -> str:
    """Return a value as the text of an environment variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # Why twice: a single number would be an interval in seconds.
        return ",".join(_format_value(ratio) for ratio in (value * 2 if len(value) == 1 else value))
    text = str(value)
    # Why: the parsers accept no exponent.
    return f"{value:.30f}" if isinstance(value, float) and "e" in text else text


def _build_file_store(location: Path) -> str:
    return f"{_RELATIVE_STORE}{quote(str(location.absolute()))}"


def _make_absolute(store: str) -> str:
    """Return the URL of a journal with an absolute path, if the current folder exists."""
    path = store.removeprefix(_RELATIVE_STORE)
    if path == store or path.startswith("/"):
        return store
    try:
        return f"{_RELATIVE_STORE}{quote(str(Path.cwd()))}/{path}"
    except OSError:
        return store


def _quote(value: object) -> str:
    try:
        return truncate(remove_credentials(repr(value)), 100)
    except Exception:  # an int of thousands of digits has no repr
        return f"<{type(value).__name__}>"


def _parse_value(setting: Setting, value: object, source: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as error:
        shown = "" if setting.secret else f" {_quote(value)}"
        msg = f"Invalid {source}{shown}: expected {error}"
        raise ConfigurationError(msg) from None
