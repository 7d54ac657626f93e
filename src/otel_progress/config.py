"""configure(): the one place where the parts are put together."""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import ConfigurationError
from otel_progress.exporters.otlp import build_resource
from otel_progress.exporters.otlp_sender import Patience
from otel_progress.exporters.otlp_settings import wanted_signals
from otel_progress.exporters.totals import Totals
from otel_progress.instances import current_instance
from otel_progress.journal import Journal, open_journal
from otel_progress.live.store import LiveStore
from otel_progress.protocols import Sink
from otel_progress.recording import Recording, slot
from otel_progress.runtime.lane import Lane
from otel_progress.runtime.running import Runtime
from otel_progress.runtime.tracing import Tracing
from otel_progress.settings import ConsoleMode, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_lock: Final = threading.Lock()
_current: list[Runtime] = []


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a runtime takes its time (monotonic and Unix seconds) and unique ids from; tests give their own."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    ids: Callable[[], str] = lambda: secrets.token_hex(8)


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
    enabled: bool | None = None,
) -> Runtime:
    """Record progress from now on; return the runtime, which also is a context manager and shuts down at exit.

    Every argument has an environment variable, ``OTEL_PROGRESS_`` and its name in capitals; arguments come before the
    environment, and None means not given. ``store`` is ``memory:``, ``sqlite:`` or ``sqlite:///path``; durations are seconds or texts
    such as ``"24h"``. ``tracer_provider`` joins an existing provider, also a further one later on; without it the global
    provider is joined, or one is made.

    Calling it again with the same arguments returns the same runtime. Raises ConfigurationError for a value that cannot be
    used, and for one that contradicts the running configuration; nothing is changed then.
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
        "enabled": enabled,
    }
    return start(arguments, tracer_provider)


def start(
    arguments: Mapping[str, Any],
    provider: TracerProvider | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    sources: Sources | None = None,
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
        settings = Settings.from_environ(os.environ if environ is None else environ).with_arguments(**arguments)
        runtime = _Assembly(settings, provider, sources or Sources()).runtime if settings.enabled else _disabled(settings)
        _current[:] = [runtime]
        atexit.register(runtime.shutdown)
        return runtime


def current_runtime() -> Runtime | None:
    """Return the running configuration, None before configure and after shutdown."""
    return _current[0] if _current and not _current[0].ended else None


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
    tracing = Tracing(store)
    return Runtime(settings, store, Recording(store, tracing.tracer), Totals(), tracing)


class _Assembly:
    """Builds a runtime; what can be refused comes first, and whatever was begun by then is ended."""

    def __init__(self, settings: Settings, provider: TracerProvider | None, sources: Sources) -> None:
        self.settings = settings
        self.signals = wanted_signals(os.environ, otlp=settings.otlp)
        self.patience = Patience()
        journal = _journal(settings)
        self.totals = Totals()
        self.store = LiveStore(
            current_instance(settings.service_name or "unknown_service"),
            clock=sources.clock,
            now=sources.now,
            ids=sources.ids,
            stall_after=settings.stall_after,
        )
        self.tracing = Tracing(self.store)
        recording = Recording(self.store, self.tracing.tracer, settings.strict, self.totals.rejected)
        self.store.on_reject, self.store.on_note = recording.reject, recording.note
        self.runtime = Runtime(settings, self.store, recording, self.totals, self.tracing)
        try:
            self._metrics()
            self._trace(provider)
            self._export()
        except BaseException:
            self.runtime.shutdown(1.0)
            raise
        if journal is not None:
            self.runtime.journal = journal
            self._lane("journal", journal)
        self._console()
        slot.active = recording

    def _lane(self, name: str, sink: Sink, *, every_tick: bool = False) -> None:
        lane = Lane(
            name,
            sink,
            every_tick=every_tick,
            on_error=self.totals.sink_error,
            on_dropped=self.totals.dropped,
            on_recovered=self.store.resend,
        )
        self.runtime.lanes.append(lane)

    def _metrics(self) -> None:
        if self.settings.prometheus_port is None:
            return
        from otel_progress.exporters.prometheus import ProgressCollector
        from otel_progress.exporters.prometheus_server import serve_metrics

        collector = ProgressCollector(self.store, totals=self.totals, retention_s=self.settings.metrics_retention)
        server = serve_metrics(collector, self.settings.prometheus_port, self.settings.prometheus_host)
        self.runtime.metrics_url = server.url
        self.runtime.ending.append(lambda timeout: server.close())

    def _trace(self, provider: TracerProvider | None) -> None:
        if provider is not None:
            self.runtime.join(provider)
            return
        self.tracing.join_global(
            self.settings.service_name,
            self.store.instance.id,
            export="traces" in self.signals,
            patience=self.patience,
            on_error=lambda: self.totals.sink_error("otlp.traces"),
        )

    def _export(self) -> None:
        """Send events and metrics over OTLP where that is wanted; their parts are heavy to import, so only then."""
        if "logs" in self.signals:
            from otel_progress.exporters.otel_logs_shim import build_event_log
            from otel_progress.exporters.otlp_events import OtlpEvents

            log = build_event_log(self._resource(), patience=self.patience, on_error=lambda: self.totals.sink_error("otlp.logs"))
            self._lane("events", OtlpEvents(log, stall_after=self.settings.stall_after))
        if "metrics" in self.signals:
            from otel_progress.exporters.otlp_metrics import build_otlp_metrics

            metrics = build_otlp_metrics(
                self.store,
                self.totals,
                self._resource(),
                patience=self.patience,
                on_error=lambda: self.totals.sink_error("otlp.metrics"),
            )
            self.runtime.flushing.append(metrics.force_flush)
            self.runtime.ending.append(lambda timeout: metrics.close())  # Patience bounds it

    def _resource(self) -> Resource:
        return build_resource(self.settings.service_name, self.store.instance.id)

    def _console(self) -> None:
        from otel_progress.exporters.console import make_console

        console = make_console(self.store, mode=self.settings.console)
        if console is not None:
            self._lane("console", console, every_tick=True)


def _journal(settings: Settings) -> Journal | None:
    return None if settings.store == "memory:" else open_journal(settings.store, retention_s=settings.retention)
