"""Builds a runtime from settings: opens the journal, starts servers and connects exporters."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_progress import redaction
from otel_progress.errors import MissingExtraError
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.journal import Journal, open_journal
from otel_progress.live.store import LiveStore
from otel_progress.metrics.counters import Totals
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.environment import wanted_signals
from otel_progress.otlp.exporters import build_resource
from otel_progress.processes import current_instance
from otel_progress.protocols import CancelRequestSource, ChangeSet, Sink, TrajectorySource
from otel_progress.records import CancelRequest
from otel_progress.runtime.components import ClockAndIds, CloseCallback, RuntimeComponents, ServerUrls
from otel_progress.runtime.composite_reader import CompositeReader
from otel_progress.runtime.providers import TracerProviders
from otel_progress.runtime.runtime import Runtime
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.settings.fields import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.integrations.stdlib_logging import LogHandler
    from otel_progress.previews.service import PreviewService
    from otel_progress.runtime.resource_sampler import ResourceSampler


_UNKNOWN_SERVICE: Final = "unknown_service"


_FAILED_BUILD_SHUTDOWN_S: Final = 1.0
"""Time limit for closing the finished components when another one cannot be built, in seconds."""


def build_runtime(
    settings: Settings,
    provider: TracerProvider | None = None,
    sources: ClockAndIds | None = None,
    *,
    has_ticker: bool = True,
) -> Runtime:
    """Build a runtime and make it the active recording.

    The runtime joins ``provider``, or the global provider when that is None. Without
    ``has_ticker`` no background thread collects changes. A runtime of settings with
    ``enabled=False`` records nothing. Raises ConfigurationError or MissingExtraError
    after it has closed what it had built.
    """
    sources = sources or ClockAndIds()
    if settings.enabled:
        return _RuntimeBuilder(settings, sources, has_ticker=has_ticker).build(provider)
    store = LiveStore(current_instance(settings.service_name or _UNKNOWN_SERVICE))
    providers = TracerProviders(store)
    recording = RecordingBackend(store, providers.tracer)
    reader = CompositeReader(store, None)
    return Runtime(RuntimeComponents(settings, store, recording, Totals(), providers, reader, ServerUrls()))


class _RuntimeBuilder:
    """Builds the components of one runtime.

    Everything that may be rejected comes first. A failure closes the components built so far.
    """

    def __init__(self, settings: Settings, sources: ClockAndIds, *, has_ticker: bool) -> None:
        self._settings = settings
        self._has_ticker = has_ticker
        self._signals = wanted_signals(os.environ, otlp=settings.otlp)
        self._budget = ShutdownBudget()
        self._token = None if settings.server_port is None else settings.read_token()
        self._is_sampling = _is_sampling(settings)
        self._previews: PreviewService | None = None
        self._journal = _open_journal(settings, self._discard_previews)
        self._totals = Totals()
        self._store = LiveStore(
            current_instance(settings.service_name or _UNKNOWN_SERVICE),
            clock=sources.clock,
            now=sources.now,
            ids=sources.ids,
            stall_after=settings.stall_after,
            has_trajectory_store=isinstance(self._journal, TrajectorySource),
        )
        self._providers = TracerProviders(self._store)
        self._recording = RecordingBackend(
            self._store, self._providers.tracer, settings.strict, self._totals.count_rejected
        )
        self._reader = CompositeReader(self._store, self._journal)
        self._urls = ServerUrls(configured=settings.public_url)
        self._metrics_url: str | None = None
        self._sampler: ResourceSampler | None = None
        self._sink_workers: list[SinkWorker] = []
        self._flush_callbacks: list[Callable[[float], bool]] = []
        self._close_callbacks: list[CloseCallback] = []

    def build(self, provider: TracerProvider | None) -> Runtime:
        """Build all components and the runtime, and start to record."""
        journal = self._journal
        try:
            self._serve_metrics()
            self._join_provider(provider)
            self._export_logs()
            self._export_metrics()
            self._build_previews()
            self._serve_api()
        except BaseException:
            Runtime(self._components()).shutdown(_FAILED_BUILD_SHUTDOWN_S)
            if journal is not None:
                journal.close()
            raise
        if journal is not None:
            self._add_sink("journal", journal, on_written=self._read_journal_requests)
        self._add_console()
        if self._is_sampling:
            self._build_sampler()
        handler = self._build_log_handler()
        runtime = Runtime(self._components())
        redaction.redactor_slot.current = _build_redactor(self._settings)
        if handler is not None:
            handler.install()
        backend_slot.current = self._recording
        return runtime

    def _components(self) -> RuntimeComponents:
        return RuntimeComponents(
            self._settings,
            self._store,
            self._recording,
            self._totals,
            self._providers,
            self._reader,
            self._urls,
            sink_workers=tuple(self._sink_workers),
            flush_callbacks=tuple(self._flush_callbacks),
            close_callbacks=tuple(self._close_callbacks),
            previews=self._previews,
            sampler=self._sampler,
            metrics_url=self._metrics_url,
            has_ticker=self._has_ticker,
        )

    # --- journal ---------------------------------------------------------------------------------

    def _read_journal_requests(self, written: ChangeSet) -> None:
        """Read cancel requests and trajectories from the journal. Runs after each successful write."""
        journal = self._journal
        if isinstance(journal, TrajectorySource):
            self._store.estimates.load_trajectories(journal.trajectories, written.trajectories)
        if isinstance(journal, CancelRequestSource):
            apply_cancel_requests(self._store, journal.cancel_requests(self._store.instance.id))

    def _discard_previews(self, locations: Sequence[str]) -> None:
        """Delete the content of previews whose journal entries were deleted."""
        if self._previews is not None:
            self._previews.discard(locations)

    # --- sinks and exporters ---------------------------------------------------------------------

    def _add_sink(
        self,
        name: str,
        sink: Sink,
        *,
        every_tick: bool = False,
        on_written: Callable[[ChangeSet], None] = lambda change_set: None,
    ) -> None:
        worker = SinkWorker(
            name,
            sink,
            every_tick=every_tick,
            on_error=self._totals.count_sink_error,
            on_dropped=self._totals.count_dropped,
            on_recovered=self._store.resend,
            on_written=on_written,
        )
        self._sink_workers.append(worker)

    def _add_console(self) -> None:
        from otel_progress.console.terminal import make_console

        console = make_console(self._store, mode=self._settings.console)
        if console is not None:
            self._add_sink("console", console, every_tick=True)

    def _join_provider(self, provider: TracerProvider | None) -> None:
        if provider is not None:
            self._providers.add(provider, given=True)
            return
        self._providers.add_global(
            self._settings.service_name,
            self._store.instance.id,
            export="traces" in self._signals,
            budget=self._budget,
            on_error=lambda: self._totals.count_sink_error("otlp.traces"),
        )

    def _export_logs(self) -> None:
        """Export item events and captured log records over OTLP."""
        if "logs" not in self._signals:
            return
        # Why here: these modules are slow to import.
        from otel_progress.otlp.events import OtlpEvents
        from otel_progress.otlp.logs import OtlpLogs
        from otel_progress.otlp.sdk_compat import build_event_log

        log = build_event_log(
            self._build_resource(),
            budget=self._budget,
            on_error=lambda: self._totals.count_sink_error("otlp.logs"),
        )
        # Why logs first: sinks close in this order, and the events close the exporter of both.
        if self._settings.capture_logs is not False:
            self._add_sink("logs", OtlpLogs(log))
        self._add_sink("events", OtlpEvents(log, address=self._get_preview_url))
        self._flush_callbacks.append(log.force_flush)

    def _export_metrics(self) -> None:
        """Export metrics over OTLP."""
        if "metrics" not in self._signals:
            return
        from otel_progress.otlp.metrics import build_otlp_metrics

        metrics = build_otlp_metrics(
            self._store,
            self._totals,
            self._build_resource(),
            budget=self._budget,
            on_error=lambda: self._totals.count_sink_error("otlp.metrics"),
            public_url=self._urls.read_public_url,
            journal_size=self._reader.size_bytes,
        )
        self._flush_callbacks.append(metrics.force_flush)
        # The shutdown budget limits how long this takes.
        self._close_callbacks.append(lambda timeout: metrics.close())

    def _build_resource(self) -> Resource:
        return build_resource(self._settings.service_name, self._store.instance.id)

    # --- servers ---------------------------------------------------------------------------------

    def _serve_metrics(self) -> None:
        if self._settings.prometheus_port is None:
            return
        from otel_progress.metrics.collector import ProgressCollector
        from otel_progress.metrics.http_server import serve_metrics

        collector = ProgressCollector(
            self._store,
            totals=self._totals,
            retention_s=self._settings.metrics_retention,
            public_url=self._urls.read_public_url,
            journal_size=self._reader.size_bytes,
        )
        server = serve_metrics(collector, self._settings.prometheus_port, self._settings.prometheus_host)
        self._metrics_url = server.url
        self._close_callbacks.append(lambda timeout: server.close())

    def _serve_api(self) -> None:
        """Serve the API and the page from this process. Raises MissingExtraError."""
        port = self._settings.server_port
        if port is None:
            return
        # Why here: these modules are an extra, and slow to import.
        try:
            from otel_progress.server.uvicorn_server import Server
        except MissingExtraError:
            raise
        except ImportError as error:
            raise MissingExtraError("Serving progress", "server") from error
        server = Server(
            self._reader,
            host=self._settings.server_host,
            port=port,
            token=self._token,
            controller=self._reader,
            totals=self._totals,
            public_url=self._urls.read_public_url(),
            previews=None if self._previews is None else self._previews.store,
        )
        server.start()
        self._urls.own = server.url
        self._close_callbacks.append(server.close)

    # --- previews, resources, logs ---------------------------------------------------------------

    def _build_previews(self) -> None:
        """Build the preview service. It does no work before the first preview."""
        settings = self._settings
        if settings.previews is False:
            return
        # Why: loads the module now instead of in the first call of a level's preview().
        from otel_progress.instrument import previews as _previews  # noqa: F401
        from otel_progress.previews.media import FORMATS
        from otel_progress.previews.retention import Bounds
        from otel_progress.previews.service import PreviewService, PreviewSettings
        from otel_progress.previews.stores import open_store

        bounds = Bounds(settings.preview_count, settings.preview_size, settings.retention)
        style = PreviewSettings(
            settings.preview_at, settings.preview_edge, FORMATS[settings.preview_format], bounds
        )
        self._previews = self._recording.previewer = PreviewService(
            open_store(settings.previews, _journal_path(self._journal)),
            style,
            count=self._totals.count_preview,
            base=self._urls.read_public_url,
            now=self._store.now,
            clock=self._store.clock,
        )
        if self._journal is None:
            self._store.on_previews_gone = self._previews.discard

    def _get_preview_url(self, operation_id: str, number: int) -> str:
        return "" if self._previews is None else self._previews.address(operation_id, number)

    def _build_sampler(self) -> None:
        from otel_progress.runtime.resource_sampler import ResourceSampler

        sampler = ResourceSampler(self._store.clock, self._store.now, self._store.add_sample)
        self._sampler = sampler
        self._close_callbacks.append(lambda timeout: sampler.close())

    def _build_log_handler(self) -> LogHandler | None:
        if self._settings.capture_logs is False:
            return None
        from otel_progress.integrations.stdlib_logging import LogHandler

        handler = LogHandler(self._store, self._settings.capture_logs)
        self._close_callbacks.append(lambda timeout: handler.close())
        return handler


def apply_cancel_requests(store: LiveStore, requests: Sequence[CancelRequest]) -> None:
    """Apply cancel requests from the journal. Requests for runs that have ended are ignored."""
    for request in requests:
        store.request_cancel(request.operation_id, request.reason, run=request.run)


def _journal_path(journal: object) -> Path | None:
    """Return the file of a journal, or None when it has no file."""
    path = getattr(journal, "path", None)
    return path if isinstance(path, Path) else None


def _open_journal(settings: Settings, on_deleted: Callable[[Sequence[str]], None]) -> Journal | None:
    if settings.store == "memory:":
        return None
    return open_journal(settings.store, retention_s=settings.retention, on_deleted=on_deleted)


def _is_sampling(settings: Settings) -> bool:
    """True when resources are sampled. Raises MissingExtraError if psutil is required but missing."""
    if settings.resources is False:
        return False
    from otel_progress.runtime import resource_sampler

    is_available = resource_sampler.available()
    if settings.resources is True and not is_available:
        raise MissingExtraError("Sampling what the process uses", "resources")
    return is_available


def _build_redactor(settings: Settings) -> redaction.Redactor | None:
    if settings.redact is False:
        return None
    return redaction.Redactor(None if settings.redact is True else settings.redact)
