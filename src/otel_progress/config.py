"""configure(): what counts when, what is refused, and the one configuration that runs."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import ConfigurationError
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.live.store import LiveStore
from otel_progress.metrics.counters import Totals
from otel_progress.processes import current_instance
from otel_progress.runtime.builder import ClockAndIds, _RuntimeBuilder
from otel_progress.runtime.providers import TracerProviders
from otel_progress.runtime.runtime import Runtime
from otel_progress.settings.fields import Settings
from otel_progress.settings.parsing import CaptureLevel, ConsoleMode, PreviewAt, RedactRule

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


_lock: Final = threading.Lock()


_current: list[Runtime] = []


def configure(
    *,
    service_name: str | None = None,
    store: str | None = None,
    prometheus_port: int | None = None,
    prometheus_host: str | None = None,
    otlp: bool | None = None,
    console: ConsoleMode | None = None,
    tracer_provider: TracerProvider | None = None,
    strict: bool | None = None,
    tick: float | None = None,
    retention: float | str | None = None,
    metrics_retention: float | str | None = None,
    stall_after: float | str | None = None,
    capture_logs: CaptureLevel | None = None,
    redact: RedactRule | None = None,
    resources: ConsoleMode | None = None,
    previews: str | bool | os.PathLike[str] | None = None,
    preview_at: PreviewAt | None = None,
    preview_edge: int | None = None,
    preview_format: str | None = None,
    preview_count: int | None = None,
    preview_size: int | str | None = None,
    public_url: str | None = None,
    server_port: int | None = None,
    server_host: str | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    enabled: bool | None = None,
) -> Runtime:
    """Record progress from now on; return the runtime, which also is a context manager and shuts down at exit.

    Every argument has an environment variable, ``OTEL_PROGRESS_`` and its name in capitals; arguments come before the
    environment, and None means not given. ``store`` is ``memory:``, ``sqlite:`` or ``sqlite:///path``; durations are seconds or texts
    such as ``"24h"``. ``tracer_provider`` joins an existing provider, also a further one later on; without it the global
    provider is joined, or one is made.

    ``capture_logs`` ties records of ``logging`` to the level they are made in: True (from INFO), or a level's name or number. The root
    logger's own level decides, too. ``redact`` keeps secrets out of what is shown and stored; a function of a key (of metadata, or
    ``message``, ``error``, ``details``, ``log``) and a text is called after that and returns the text to show, from whatever thread tells
    the text, so it has to be quick. ``resources`` samples what the process uses, ``server_port`` serves the API and the page from here
    (``runtime.server_url``), with ``token`` or the content of ``token_file`` as its secret.

    ``previews`` is where previews are kept (a folder, or a URL that fsspec knows), False for none; ``preview_at`` when they are taken:
    fractions ``(0.25, 0.5, 0.75)``, seconds ``30`` or ``"30s"``, or ``"always"``. Pictures have ``preview_edge`` pixels on their longer
    side, and of an operation at most ``preview_count`` are kept, of ``preview_size`` bytes in all. ``public_url`` is where people reach
    the server.

    Calling it again with the same arguments returns the same runtime. Raises ConfigurationError for a value that cannot be
    used, and for one that contradicts the running configuration, and MissingExtraError for what needs packages that are not installed;
    nothing is changed then.
    """
    arguments = {
        "service_name": service_name,
        "store": store,
        "prometheus_port": prometheus_port,
        "prometheus_host": prometheus_host,
        "otlp": otlp,
        "console": console,
        "strict": strict,
        "tick": tick,
        "retention": retention,
        "metrics_retention": metrics_retention,
        "stall_after": stall_after,
        "capture_logs": capture_logs,
        "redact": redact,
        "resources": resources,
        "previews": previews,
        "preview_at": preview_at,
        "preview_edge": preview_edge,
        "preview_format": preview_format,
        "preview_count": preview_count,
        "preview_size": preview_size,
        "public_url": public_url,
        "server_port": server_port,
        "server_host": server_host,
        "token": token,
        "token_file": token_file,
        "enabled": enabled,
    }
    return start(arguments, tracer_provider)


def start(
    arguments: Mapping[str, Any],
    provider: TracerProvider | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    sources: ClockAndIds | None = None,
    fresh: bool = False,
) -> Runtime:
    """Do what :func:`configure` does with its arguments by name. ``fresh`` refuses to go on with a running configuration."""
    if provider is not None and not callable(getattr(provider, "get_tracer", None)):
        msg = f"tracer_provider has to be an OpenTelemetry TracerProvider, not a {type(provider).__name__}"
        raise ConfigurationError(msg)
    with _lock:
        running = current_runtime()
        if running is not None and fresh:
            msg = "progress is being recorded already: call shutdown() on the running configuration first"
            raise ConfigurationError(msg)
        if running is not None:
            return _again(running, arguments, provider)
        settings = Settings.from_environ(os.environ if environ is None else environ).with_arguments(
            **arguments
        )
        runtime = (
            _RuntimeBuilder(settings, provider, sources or ClockAndIds()).runtime
            if settings.enabled
            else _disabled(settings)
        )
        _current[:] = [runtime]
        atexit.register(runtime.shutdown)
        return runtime


def current_runtime() -> Runtime | None:
    """Return the running configuration, None before configure and after shutdown."""
    return _current[0] if _current and not _current[0].is_shut_down else None


def _again(runtime: Runtime, arguments: Mapping[str, object], provider: TracerProvider | None) -> Runtime:
    given = {name: value for name, value in arguments.items() if value is not None}
    differences = runtime.settings.differences(runtime.settings.with_arguments(**given), given)
    if differences:
        msg = (
            f"configure() was called before with other values: {'; '.join(differences)}. "
            "Configure once, or call shutdown() on the runtime first"
        )
        raise ConfigurationError(msg)
    if provider is not None and runtime.settings.enabled:
        runtime.join(provider)
    return runtime


def _disabled(settings: Settings) -> Runtime:
    """Return a runtime that records nothing: every helper stays inert."""
    store = LiveStore(current_instance(settings.service_name or "unknown_service"))
    tracing = TracerProviders(store)
    return Runtime(settings, store, RecordingBackend(store, tracing.tracer), Totals(), tracing)
