"""From settings to a running configuration: the one place where the parts are put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otel_progress import redaction
from otel_progress.errors import MissingExtraError
from otel_progress.instrument.backend import backend_slot
from otel_progress.journal import Journal, open_journal
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.environment import wanted_signals
from otel_progress.otlp.exporters import build_resource
from otel_progress.protocols import CancelRequestSource, ChangeSet, Sink, TrajectorySource
from otel_progress.runtime.components import ClockAndIds, RuntimeComponents
from otel_progress.runtime.runtime import Runtime
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.settings.fields import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider


class _RuntimeBuilder:
    """Builds a runtime; what can be refused comes first, and whatever was begun by then is ended."""

    def __init__(self, settings: Settings, provider: TracerProvider | None, sources: ClockAndIds) -> None:
        self.settings = settings
        self.signals = wanted_signals(os.environ, otlp=settings.otlp)
        self.budget = ShutdownBudget()
        token = None if settings.server_port is None else settings.read_token()
        sampling = _samples(settings)
        journal = _journal(settings, self._discard)
        components = self.components = RuntimeComponents(
            settings, sources, has_trajectory_store=isinstance(journal, TrajectorySource)
        )
        self.totals, self.store, self.tracing = components.totals, components.store, components.tracing
        recording = self.recording = components.backend
        self.runtime = Runtime(settings, components)
        try:
            self._metrics()
            self._trace(provider)
            self._export()
            components.journal = journal
            self._preview(journal)
            self._serve(token)
        except BaseException:
            self.runtime.shutdown(1.0)
            if journal is not None:
                journal.close()
            raise
        if journal is not None:
            self._lane("journal", journal, on_written=self._on_journal_written)
        self._console()
        if sampling:
            self._sample()
        redaction.redactor_slot.current = _rules(settings)
        if settings.capture_logs is not False:
            self._capture(settings.capture_logs)
        backend_slot.current = recording

    def _on_journal_written(self, written: ChangeSet) -> None:
        """Take what others asked of this process, and what past runs left, after each successful write of the journal."""
        journal = self.runtime.journal
        if isinstance(journal, TrajectorySource):
            self.store.load_trajectories(journal.trajectories, written.trajectories)
        if isinstance(journal, CancelRequestSource):
            self.runtime._apply_cancel_requests(journal.cancel_requests(self.store.instance.id))

    def _preview(self, journal: Journal | None) -> None:
        """Make and keep previews, unless none are wanted: it costs nothing before the first one."""
        settings = self.settings
        if settings.previews is False:
            return
        from otel_progress.instrument import previews as previewing  # noqa: F401 - now, and not in the first call of a level's preview()
        from otel_progress.previews.media import FORMATS
        from otel_progress.previews.retention import Bounds
        from otel_progress.previews.service import PreviewService, PreviewSettings
        from otel_progress.previews.stores import open_store

        bounds = Bounds(settings.preview_count, settings.preview_size, settings.retention)
        style = PreviewSettings(
            settings.preview_at, settings.preview_edge, FORMATS[settings.preview_format], bounds
        )
        previewer = PreviewService(
            open_store(settings.previews, journal_path(journal)),
            style,
            count=self.totals.count_preview,
            base=self._public_url,
            now=self.store.now,
            clock=self.store.clock,
        )
        self.components.previewer = self.recording.previewer = previewer

    def _discard(self, locations: Sequence[str]) -> None:
        """Delete the content of previews that the journal no longer tells of."""
        if self.runtime.previewer is not None:
            self.runtime.previewer.discard(locations)

    def _sample(self) -> None:
        from otel_progress.runtime.resource_sampler import ResourceSampler

        sampler = self.components.sampler = ResourceSampler(
            self.store.clock, self.store.now, self.store.add_sample
        )
        self.runtime._close_callbacks.append(lambda timeout: sampler.close())

    def _capture(self, level: int) -> None:
        from otel_progress.integrations.stdlib_logging import LogHandler

        handler = LogHandler(self.store, level)
        handler.install()
        self.runtime._close_callbacks.append(lambda timeout: handler.close())

    def _serve(self, token: str | None) -> None:
        """Serve the API and the page from this process; its parts are an extra, and heavy to import."""
        port = self.settings.server_port
        if port is None:
            return
        try:
            from otel_progress.server.uvicorn_server import Server
        except MissingExtraError:
            raise
        except ImportError as error:
            raise MissingExtraError("Serving progress", "server") from error
        reader = self.runtime.reader
        host = self.settings.server_host
        url, store = (
            self._public_url(),
            None if self.runtime.previewer is None else self.runtime.previewer.store,
        )
        server = Server(
            reader,
            host=host,
            port=port,
            token=token,
            controller=reader,
            totals=self.totals,
            public_url=url,
            previews=store,
        )
        server.start()
        self.runtime.server_url = server.url
        self.runtime._close_callbacks.append(server.close)

    def _lane(
        self,
        name: str,
        sink: Sink,
        *,
        every_tick: bool = False,
        on_written: Callable[[ChangeSet], None] = lambda batch: None,
    ) -> None:
        lane = SinkWorker(
            name,
            sink,
            every_tick=every_tick,
            on_error=self.totals.count_sink_error,
            on_dropped=self.totals.count_dropped,
            on_recovered=self.store.resend,
            on_written=on_written,
        )
        self.runtime._sink_workers.append(lane)

    def _metrics(self) -> None:
        if self.settings.prometheus_port is None:
            return
        from otel_progress.metrics.collector import ProgressCollector
        from otel_progress.metrics.http_server import serve_metrics

        collector = ProgressCollector(
            self.store.reader,
            totals=self.totals,
            retention_s=self.settings.metrics_retention,
            public_url=self._public_url,
            journal_size=self.runtime.journal_size,
        )
        server = serve_metrics(collector, self.settings.prometheus_port, self.settings.prometheus_host)
        self.runtime.metrics_url = server.url
        self.runtime._close_callbacks.append(lambda timeout: server.close())

    def _trace(self, provider: TracerProvider | None) -> None:
        if provider is not None:
            self.runtime.join(provider)
            return
        self.tracing.add_global(
            self.settings.service_name,
            self.store.instance.id,
            export="traces" in self.signals,
            budget=self.budget,
            on_error=lambda: self.totals.count_sink_error("otlp.traces"),
        )

    def _export(self) -> None:
        """Send events and metrics over OTLP where that is wanted; their parts are heavy to import, so only then."""
        if "logs" in self.signals:
            from otel_progress.otlp.events import OtlpEvents
            from otel_progress.otlp.logs import OtlpLogs
            from otel_progress.otlp.sdk_compat import build_event_log

            log = build_event_log(
                self._resource(),
                budget=self.budget,
                on_error=lambda: self.totals.count_sink_error("otlp.logs"),
            )
            if (
                self.settings.capture_logs is not False
            ):  # ahead of the events, whose sink closes what both go out through
                self._lane("logs", OtlpLogs(log))
            self._lane("events", OtlpEvents(log, address=self._preview_address))
            self.runtime._flush_callbacks.append(log.force_flush)
        if "metrics" in self.signals:
            from otel_progress.otlp.metrics import build_otlp_metrics

            metrics = build_otlp_metrics(
                self.store.reader,
                self.totals,
                self._resource(),
                budget=self.budget,
                on_error=lambda: self.totals.count_sink_error("otlp.metrics"),
                public_url=self._public_url,
                journal_size=self.runtime.journal_size,
            )
            self.runtime._flush_callbacks.append(metrics.force_flush)
            self.runtime._close_callbacks.append(
                lambda timeout: metrics.close()
            )  # the ShutdownBudget bounds it

    def _public_url(self) -> str | None:
        """Return where people find the previews: as it was set, else at this process's own server."""
        return self.settings.public_url or self.runtime.server_url

    def _preview_address(self, operation_id: str, number: int) -> str:
        return "" if self.runtime.previewer is None else self.runtime.previewer.address(operation_id, number)

    def _resource(self) -> Resource:
        return build_resource(self.settings.service_name, self.store.instance.id)

    def _console(self) -> None:
        from otel_progress.console.terminal import make_console

        console = make_console(self.store.reader, mode=self.settings.console)
        if console is not None:
            self._lane("console", console, every_tick=True)


def _journal(settings: Settings, on_deleted: Callable[[Sequence[str]], None]) -> Journal | None:
    if settings.store == "memory:":
        return None
    return open_journal(settings.store, retention_s=settings.retention, on_deleted=on_deleted)


def journal_path(journal: object) -> Path | None:
    """Return the file of a journal, None for one that has none."""
    path = getattr(journal, "path", None)
    return path if isinstance(path, Path) else None


def _samples(settings: Settings) -> bool:
    """Tell whether to sample resources. Raises MissingExtraError when that was asked for and cannot be done."""
    if settings.resources is False:
        return False
    from otel_progress.runtime import resource_sampler as usage

    found = usage.available()
    if settings.resources is True and not found:
        raise MissingExtraError("Sampling what the process uses", "resources")
    return found


def _rules(settings: Settings) -> redaction.Redactor | None:
    if settings.redact is False:
        return None
    return redaction.Redactor(None if settings.redact is True else settings.redact)
