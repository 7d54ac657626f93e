"""Builder of a runtime: opens the journal, starts servers, connects exporters."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_progress import redaction
from otel_progress.diagnostics import report_unavailable
from otel_progress.ends import is_end
from otel_progress.errors import (
    JournalError,
    MissingExtraError,
    UnavailableError,
    to_unavailable_error,
)
from otel_progress.instrument.backend import backend_slot
from otel_progress.instrument.pollers import has_active_poller
from otel_progress.journal import Journal, open_journal
from otel_progress.journal.spill import SpillFile
from otel_progress.live.ends import EndOverflow
from otel_progress.live.store import LiveStore
from otel_progress.metrics.shared_totals import TotalsPublisher
from otel_progress.otlp.bounded import ShutdownBudget
from otel_progress.otlp.environment import select_signals
from otel_progress.otlp.exporters import build_resource
from otel_progress.propagation.environment import read_remote_parent
from otel_progress.protocols import (
    CancelRequestSource,
    ChangeSet,
    ContributionSource,
    RenamedRunSource,
    RenameRun,
    Sink,
    TrajectorySource,
)
from otel_progress.records import CancelRequest
from otel_progress.resumption import ResumableStorage
from otel_progress.runtime.components import ClockAndIds, RuntimeComponents
from otel_progress.runtime.contribution_poller import ContributionPoller
from otel_progress.runtime.export_trigger import ExportTrigger
from otel_progress.runtime.metrics_port import MetricsPort, find_group
from otel_progress.runtime.resumption import JournalResumer
from otel_progress.runtime.runtime import Runtime
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.semconv import InternalErrorPlace, SinkName
from otel_progress.settings.fields import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.log_capture import LogCapture
    from otel_progress.otlp.sdk_compat import EventLog


_FAILED_BUILD_SHUTDOWN_S: Final = 1.0
"""Time limit for closing the finished components when another one cannot be built, in seconds."""


def build_runtime(
    settings: Settings,
    provider: TracerProvider | None = None,
    sources: ClockAndIds | None = None,
    *,
    withheld: Container[str] = (),
    configure_child: Callable[[Mapping[str, str]], object] | None = None,
) -> Runtime:
    """Build a runtime and make it the active recording.

    The runtime joins ``provider``, or the global provider when that is None. A runtime of
    settings with ``enabled=False`` records nothing. Resources of the settings named by ``withheld``
    are not created, because the parent process has them. ``configure_child`` starts the recording
    in a process that loads a pickled handle. A part that the environment does not
    permit is reported and left out, or raises UnavailableError with ``strict``. Raises
    ConfigurationError or MissingExtraError after it has closed what it had built.
    """
    sources = sources or ClockAndIds()
    if settings.enabled:
        return _RuntimeBuilder(settings, sources, withheld, configure_child).build(provider)
    return Runtime(RuntimeComponents(settings, sources))


class _RuntimeBuilder:
    """Builds the components of one runtime.

    Everything that may be rejected comes first. A failure closes the components built so far.
    """

    def __init__(
        self,
        settings: Settings,
        sources: ClockAndIds,
        withheld: Container[str],
        configure_child: Callable[[Mapping[str, str]], object] | None,
    ) -> None:
        self._settings = settings
        self._configure_child = configure_child
        self._withheld = withheld
        self._signals = select_signals(os.environ, otlp=settings.otlp)
        self._budget = ShutdownBudget()
        is_server_off = settings.server_port is None or "server_port" in withheld
        self._token = None if is_server_off else settings.read_token()
        self._is_sampling = _is_sampling(settings)
        self._capture: LogCapture | None = None
        self._event_log: EventLog | None = None
        journal_error: JournalError | None = None
        self._journal: Journal | None = None
        try:
            self._journal = _open_journal(settings, self._discard_previews, self._rename_run)
        except JournalError as error:
            journal_error = error
            if settings.strict:
                raise UnavailableError(str(error)) from None
        self._components = RuntimeComponents(settings, sources, self._journal)
        # Why here: the totals of the components count it.
        if journal_error is not None:
            report_unavailable(
                "journal", "Progress is recorded only in memory, and the work continues", journal_error
            )
        self._store = self._components.store
        self._totals = self._components.totals
        self._group = find_group(settings, self._journal)
        if self._group is not None:
            self._components.totals_publisher = TotalsPublisher(
                self._totals, self._group, self._store.instance
            )

    def build(self, provider: TracerProvider | None) -> Runtime:
        """Build all components and the runtime, and start to record."""
        # Why: loads the instrumentation now instead of in the first call of a helper.
        from otel_progress.instrument import tracer as _tracer  # noqa: F401

        journal = self._journal
        try:
            redactor = _build_redactor(self._settings)
            self._try("metrics", "The metrics are not served", self._serve_metrics)
            self._join_provider(provider)
            self._try("otlp.logs", "Log records and events are not exported", self._export_logs)
            self._try("otlp.metrics", "The metrics are not exported", self._export_metrics)
            self._try("previews", "Previews are not stored", self._build_previews)
            self._try("server", "The API and the page are not served", self._serve_api)
            if journal is not None:
                self._add_journal(journal)
            self._try("console", "Progress is not displayed", self._add_console)
            self._add_platforms()
            self._connect_exports()
            if self._is_sampling:
                self._try("resources", "Resource use is not sampled", self._build_sampler)
            self._try("logs", "Log records are not captured", self._build_capture)
            self._try("signals", "SIGTERM and SIGHUP have their previous effect", self._handle_signals)
        except BaseException:
            Runtime(self._components).shutdown(_FAILED_BUILD_SHUTDOWN_S)
            if journal is not None:
                journal.close()
            raise
        runtime = Runtime(self._components)
        redaction.redactor_slot.current = redactor
        # Why here: captured records are redacted.
        if self._capture is not None:
            self._capture.install()
        self._connect_processes()
        self._connect_sessions()
        backend_slot.current = self._components.recording
        if has_active_poller():
            self._store.notify_change()
        return runtime

    def _try(self, place: InternalErrorPlace, text: str, build: Callable[[], object]) -> bool:
        """Build a part.

        If the environment does not permit it, report that and return False. Raises
        UnavailableError with the setting ``strict``.
        """
        try:
            build()
        except Exception as error:
            unavailable = to_unavailable_error(error)
            if unavailable is None:
                raise
            if self._settings.strict:
                raise unavailable from None
            report_unavailable(place, f"{text}, and the work continues", unavailable)
            return False
        return True

    # --- journal ---------------------------------------------------------------------------------

    def _add_journal(self, journal: Journal) -> None:
        """Add the sink of the journal, and the files of ended operations next to it."""
        overflow = self._create_spill_file(journal, "journal")
        self._add_sink(
            "journal",
            journal,
            on_written=self._read_journal_requests,
            overflow=overflow,
            publisher=self._components.totals_publisher,
        )
        worker = self._components.sink_workers[-1]
        self._components.ends.store_end = lambda root: worker.store_end(self._store.encode_end(root))
        waiting = self._create_spill_file(journal, "tick")
        if waiting is not None:
            self._store.set_end_overflow(waiting)

    def _create_spill_file(self, journal: Journal, kind: str) -> SpillFile | None:
        """Return a queue in files, which are created at the first use."""
        base = journal.spill_base
        if base is None:
            return None
        spill_file = SpillFile(base, self._store.instance, kind)
        self._components.spill_files.append(spill_file)
        self._components.close_callbacks.append(lambda timeout: spill_file.close())
        return spill_file

    def _read_journal_requests(self, written: ChangeSet) -> None:
        """Read cancel requests and trajectories from the journal.

        Called after each successful write.
        """
        publisher, journal = self._components.totals_publisher, self._journal
        if publisher is not None:
            publisher.confirm()
        if isinstance(journal, TrajectorySource):
            self._store.load_trajectories(journal.trajectories, written.trajectories)
        if isinstance(journal, ResumableStorage):
            for run, successor in journal.take_superseded_runs().items():
                self._store.supersede(run, successor)
        if isinstance(journal, RenamedRunSource):
            for renamed in journal.take_renamed_runs():
                self._store.report_renamed(renamed)
        if isinstance(journal, CancelRequestSource):
            apply_cancel_requests(self._store, journal.cancel_requests(self._store.instance.id))
        if isinstance(journal, ContributionSource) and (runs := self._store.list_share_runs()):
            self._store.cancel_shares(journal.find_cancel_requests(runs))

    def _discard_previews(self, locations: Sequence[str]) -> None:
        """Delete the content of previews whose journal entries were deleted."""
        self._components.discard_previews(locations)

    def _rename_run(self, run: str, used_ids: Collection[str]) -> str | None:
        """Rename a run whose id another live process uses.

        The journal calls it in its write.
        """
        return self._store.rename_run(run, used_ids)

    def _connect_sessions(self) -> None:
        """Let operations continue the runs of earlier sessions."""
        components, journal = self._components, self._journal
        worker = next((each for each in components.sink_workers if each.name == "journal"), None)
        components.recording.resumer = JournalResumer(
            self._store,
            components.ticker,
            journal if isinstance(journal, ResumableStorage) else None,
            lambda: worker,
            is_strict=self._settings.strict,
        )

    # --- sinks and exporters ---------------------------------------------------------------------

    def _add_sink(
        self,
        name: SinkName,
        sink: Sink,
        *,
        every_tick: bool = False,
        on_written: Callable[[ChangeSet], None] = lambda change_set: None,
        overflow: EndOverflow | None = None,
        publisher: TotalsPublisher | None = None,
    ) -> None:
        def resend(*, ended: bool = False) -> None:
            if publisher is not None:
                publisher.resend()
            self._store.resend(ended=ended)

        worker = SinkWorker(
            name,
            sink,
            every_tick=every_tick,
            on_error=self._totals.count_sink_error,
            on_dropped=self._totals.count_dropped,
            on_recovered=resend,
            on_lost=lambda: resend(ended=True),
            on_written=on_written,
            complete=(lambda change_set: change_set) if publisher is None else publisher.add_totals,
            overflow=overflow,
        )
        self._components.sink_workers.append(worker)

    def _connect_exports(self) -> None:
        """Export ended operations without the delay of the SDK."""
        providers, ends = self._components.providers, self._components.ends
        if "traces" in self._signals:
            ends.span_export = ExportTrigger(
                "export-spans", "otlp.traces", providers.export_now, is_failing=lambda: providers.is_failing
            )
        log = self._event_log
        if log is not None:
            ends.event_export = ExportTrigger(
                "export-events", "otlp.logs", log.export_now, is_failing=lambda: log.is_failing
            )

    def _export_ended_operations(self, written: ChangeSet) -> None:
        if any(is_end(snapshot) for snapshot in written.snapshots):
            self._components.ends.request_event_export()

    def _add_console(self) -> None:
        if "console" in self._withheld:
            return
        from otel_progress.console.factory import build_console

        console = build_console(self._store.reader, self._settings.console)
        self._components.recording.has_live_display = getattr(console, "is_live_display", False)
        if console is not None:
            self._add_sink("console", console, every_tick=True)

    def _add_platforms(self) -> None:
        """Report to the platforms of the settings."""
        names = self._settings.report_to
        if not names or "report_to" in self._withheld:
            return
        # Why here: only few programs report to a platform.
        from otel_progress.platforms.selection import build_platform, select_platforms
        from otel_progress.platforms.sink import PlatformsSink

        sink = PlatformsSink(self._store.reader, self._totals.count_sink_error)
        for name in select_platforms(names, os.environ):

            def add(name: str = name) -> None:
                sink.add(build_platform(name, os.environ))

            self._try("platforms", "A platform does not receive progress", add)
        if sink.is_used:
            self._add_sink("platforms", sink)
            self._components.flush_callbacks.append(sink.flush)
            self._components.close_callbacks.append(sink.finish)

    def _join_provider(self, provider: TracerProvider | None) -> None:
        if provider is not None:
            self._components.providers.add(provider, is_explicit=True)
        elif not self._try(
            "otlp.traces",
            "Spans are not exported",
            lambda: self._join_global(export="traces" in self._signals),
        ):
            self._join_global(export=False)

    def _join_global(self, *, export: bool) -> None:
        self._components.providers.add_global(
            self._settings.service_name,
            self._store.instance.id,
            export=export,
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
            on_dropped=lambda count: self._totals.count_dropped("otlp.logs", count),
        )
        # Why logs first: sinks close in this order, and the events close the exporter of both.
        if self._settings.capture_logs is not False:
            self._add_sink("logs", OtlpLogs(log))
        self._event_log = log
        self._add_sink(
            "events",
            OtlpEvents(log, address=self._get_preview_url),
            on_written=self._export_ended_operations,
        )
        self._components.fork_callbacks.append(log.restart)
        self._components.flush_callbacks.append(log.force_flush)
        self._components.close_callbacks.append(lambda timeout: not log.is_failing)

    def _export_metrics(self) -> None:
        """Export metrics over OTLP."""
        if "metrics" not in self._signals:
            return
        from otel_progress.otlp.metrics import build_otlp_metrics

        metrics = build_otlp_metrics(
            self._store.reader,
            self._totals,
            self._build_resource(),
            budget=self._budget,
            on_error=lambda: self._totals.count_sink_error("otlp.metrics"),
            public_url=self._components.read_public_url,
            journal_size=self._components.reader.size_bytes,
        )
        self._components.fork_callbacks.append(metrics.restart)
        self._components.flush_callbacks.append(metrics.force_flush)
        # The shutdown budget limits how long this takes.
        self._components.close_callbacks.append(lambda timeout: metrics.close())

    def _build_resource(self) -> Resource:
        """Return the resource of events and metrics.

        Its instance is that of the provider that creates the spans, if this process created it.
        """
        own, joined = self._store.instance.id, self._components.providers.read_instance_id()
        is_chosen = joined is not None or self._components.providers.is_inherited
        return build_resource(self._settings.service_name, joined or own, overrides_environment=is_chosen)

    def _connect_processes(self) -> None:
        """Read the parent of this process, and prepare the settings of children."""
        recording, settings = self._components.recording, self._settings
        recording.remote_parent = read_remote_parent(os.environ)
        if recording.remote_parent is not None:
            self._components.providers.processor.parent_link = recording.remote_parent.link
        location = None if self._journal is None else self._journal.location
        recording.child_settings = settings.to_environ(
            ("store", "otlp"), location=location, environ=os.environ
        )
        recording.handle_settings = settings.to_environ(location=location)
        self._share_operations(location)

    def _share_operations(self, location: Path | None) -> None:
        """Let other processes work on the operations of this one, and this one on theirs."""
        recording, journal = self._components.recording, self._journal
        recording.configure = self._configure_child
        recording.deliver_shares = self._components.ends.deliver_shares
        if isinstance(journal, ContributionSource):
            recording.store_name = self._settings.name_store(location)
            poller = ContributionPoller(
                self._store,
                journal,
                self._settings.tick,
                clock=self._store.clock,
                on_dropped=lambda count: self._totals.count_dropped("journal", count),
            )
            self._components.contributions = poller
            recording.on_shared = poller.wake

    # --- servers ---------------------------------------------------------------------------------

    def _serve_metrics(self) -> None:
        port, host, group = self._settings.prometheus_port, self._settings.prometheus_host, self._group
        if port is None or "prometheus_port" in self._withheld:
            return
        from otel_progress.metrics import http_server

        collector = self._components.build_metrics_collector()
        metrics_port = MetricsPort(
            lambda: http_server.serve_metrics(collector, port, host, group=group or ""),
            http_server.build_url(host, port),
            None
            if group is None
            else lambda timeout_s: http_server.is_served_by_group(port, host, group, timeout_s),
            is_strict=self._settings.strict,
        )
        metrics_port.start()
        self._components.metrics_port = metrics_port
        self._components.close_callbacks.append(lambda timeout: metrics_port.close())

    def _serve_api(self) -> None:
        """Serve the API and the page from this process. Raises MissingExtraError."""
        port = self._settings.server_port
        if port is None or "server_port" in self._withheld:
            return
        # Why here: these modules are an extra, and slow to import.
        try:
            from otel_progress.server.uvicorn_server import Server
        except MissingExtraError:
            raise
        except ImportError as error:
            raise MissingExtraError("Serving progress", "server") from error
        previews = self._components.previews
        server = Server(
            self._components.reader,
            host=self._settings.server_host,
            port=port,
            token=self._token,
            controller=self._components.reader,
            totals=self._totals,
            public_url=self._components.read_public_url(),
            previews=None if previews is None else previews.store,
        )
        server.start()
        self._components.server_url = server.url
        self._components.close_callbacks.append(server.close)

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
        journal = self._journal
        store = open_store(settings.previews, None if journal is None else journal.location, self._store.now)
        self._components.previews = self._components.recording.previewer = PreviewService(
            store,
            style,
            notice=None if journal is None else _build_preview_notice(journal, store.base),
            count=self._totals.count_preview,
            base=self._components.read_public_url,
            now=self._store.now,
            clock=self._store.clock,
        )

    def _get_preview_url(self, operation_id: str, number: int) -> str:
        previews = self._components.previews
        return "" if previews is None else previews.address(operation_id, number)

    def _build_sampler(self) -> None:
        from otel_progress.runtime.resource_sampler import ResourceSampler

        sampler = ResourceSampler(self._store.clock, self._store.now, self._store.add_sample)
        self._components.sampler = sampler
        self._components.close_callbacks.append(lambda timeout: sampler.close())

    def _handle_signals(self) -> None:
        """Handle SIGTERM and SIGHUP. Raises UnavailableError outside of the main thread."""
        if not self._settings.terminate_signals:
            return
        # Why here: only few processes handle signals, and this import takes time.
        from otel_progress.runtime.terminate_signals import TerminateSignals

        signals = TerminateSignals()
        signals.install()
        self._components.terminate_signals = signals

    def _build_capture(self) -> None:
        severity = self._settings.capture_logs
        if severity is False:
            return
        from otel_progress.log_capture import LogCapture

        capture = LogCapture(self._store, severity)
        self._capture = capture
        self._components.close_callbacks.append(lambda timeout: capture.close())


def apply_cancel_requests(store: LiveStore, requests: Sequence[CancelRequest]) -> None:
    """Apply cancel requests from the journal.

    Requests for runs that have ended are ignored.
    """
    for request in requests:
        store.request_cancel(request.operation_id, request.reason, run=request.run)


def _open_journal(
    settings: Settings, on_deleted: Callable[[Sequence[str]], None], rename_run: RenameRun
) -> Journal | None:
    """Return the journal, or None if progress is recorded only in memory.

    Raises JournalError if there is no place for it, and with ``strict`` if it cannot be written.
    """
    if settings.store == "memory:":
        return None
    journal = open_journal(
        settings.store, retention_s=settings.retention, on_deleted=on_deleted, rename_run=rename_run
    )
    if settings.strict:
        # Why only then: by default the first write opens the file, on its own thread.
        try:
            journal.prepare()
        except JournalError as error:
            if not error.is_temporary:
                journal.close()
                raise
    return journal


def _build_preview_notice(journal: Journal, base: str) -> str | None:
    """Return a warning if other machines cannot read the content of previews."""
    if journal.location is not None or not base.lower().startswith(("file:", "memory:")):
        return None
    place = "in the memory of this process" if base.startswith("memory:") else f"in a folder, {base}"
    return (
        f"Previews are stored {place}, but the journal is shared by several machines. Set previews to a URL "
        "that all of them reach, such as s3://bucket/previews, unless all of them mount this folder."
    )


def _is_sampling(settings: Settings) -> bool:
    """True when resources are sampled.

    Raises MissingExtraError if that is required and psutil is not installed.
    """
    if settings.resources is False:
        return False
    from otel_progress.runtime import resource_sampler

    is_available = resource_sampler.is_psutil_installed()
    if settings.resources is True and not is_available:
        raise MissingExtraError("Sampling what the process uses", "resources")
    return is_available


def _build_redactor(settings: Settings) -> redaction.Redactor | None:
    if settings.redact is False:
        return None
    return redaction.Redactor(None if settings.redact is True else settings.redact)
