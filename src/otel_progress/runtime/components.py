"""Components of a runtime, and the listener of its live store."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument import spans
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.instrument.pollers import has_active_poller, run_pollers
from otel_progress.instrument.segments import SpanSegmenter
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import CallSite, Node
from otel_progress.live.store import LiveStore
from otel_progress.metrics.counters import Totals
from otel_progress.metrics.shared_totals import ProcessGroup
from otel_progress.otlp.instance_id import get_process_instance_id
from otel_progress.processes import current_instance, get_program_name
from otel_progress.protocols import ChangeSet, TrajectorySource
from otel_progress.resumption import MAX_COMPLETED_KEYS
from otel_progress.runtime.callbacks import CallbackEvent, Callbacks
from otel_progress.runtime.composite_reader import CompositeReader
from otel_progress.runtime.end_delivery import EndDelivery
from otel_progress.runtime.providers import TracerProviders
from otel_progress.runtime.ticker import Ticker
from otel_progress.semconv import RejectionReason

if TYPE_CHECKING:
    from otel_progress.journal import Journal
    from otel_progress.journal.spill import SpillFile
    from otel_progress.metrics.collector import ProgressCollector
    from otel_progress.metrics.shared_totals import TotalsPublisher
    from otel_progress.previews.service import PreviewService
    from otel_progress.runtime.contribution_poller import ContributionPoller
    from otel_progress.runtime.metrics_port import MetricsPort
    from otel_progress.runtime.resource_sampler import ResourceSampler
    from otel_progress.runtime.sink_worker import SinkWorker
    from otel_progress.runtime.terminate_signals import TerminateSignals
    from otel_progress.settings.fields import Settings


_UNKNOWN_SERVICE: Final = "unknown_service"


@dataclass(frozen=True, slots=True)
class ClockAndIds:
    """Sources of monotonic seconds, Unix seconds and unique ids. Tests replace them."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    ids: Callable[[], str] = lambda: secrets.token_hex(8)


class CloseCallback(Protocol):
    """Function that closes a component within a time limit."""

    def __call__(self, timeout: float) -> object:
        """Close the component within ``timeout`` seconds."""


class RuntimeComponents:
    """Live store, its listener, and the components that write and read the store.

    The builder adds optional components before it creates the :class:`Runtime`, which closes
    them. ``fork_callbacks`` are called in a forked child with its id. ``flush_callbacks`` return
    False after their timeout. ``close_callbacks`` are called in their order.
    """

    def __init__(self, settings: Settings, sources: ClockAndIds, journal: Journal | None = None) -> None:
        self.settings = settings
        self.journal = journal
        self.totals = Totals()
        self.previews: PreviewService | None = None
        self.sampler: ResourceSampler | None = None
        self.sink_workers: list[SinkWorker] = []
        self.spill_files: list[SpillFile] = []
        self.terminate_signals: TerminateSignals | None = None
        self.contributions: ContributionPoller | None = None
        self.flush_callbacks: list[Callable[[float], bool]] = []
        self.close_callbacks: list[CloseCallback] = []
        self.on_tick: Callable[[], object] = lambda: None
        self.metrics_port: MetricsPort | None = None
        self.fork_callbacks: list[Callable[[str], object]] = []
        self.totals_publisher: TotalsPublisher | None = None
        self.server_url: str | None = None
        self._history_scope: str | None = None
        self.callbacks = self._build_callbacks()
        self.ticker = Ticker(
            lambda: self.store,
            self.sink_workers,
            interval=settings.tick,
            before=self._before_tick,
            # Why before the sinks: the journal stores these totals with the change set.
            collected=self.totals.write,
            after=self._after_tick,
            watching=lambda: self.providers.processor.is_watching or has_active_poller(),
        )
        self.ends = EndDelivery(self.ticker, self.sink_workers, lambda: self.providers.exports_spans)
        # Why: bound once, because the store calls it whenever a level starts.
        self.on_change = self.ticker.wake
        self.store = LiveStore(
            current_instance(settings.service_name or _UNKNOWN_SERVICE, get_process_instance_id()),
            clock=sources.clock,
            now=sources.now,
            ids=sources.ids,
            stall_after=settings.stall_after,
            has_trajectory_store=isinstance(journal, TrajectorySource),
            get_history_scope=self._get_history_scope,
            listener=self,
        )
        self.reader = CompositeReader(self.store, journal)
        self.providers = TracerProviders(self.store)
        self.recording = RecordingBackend(
            self.store, self.providers.get_tracer, settings.strict, self.totals.count_rejected
        )
        self._segmenter = SpanSegmenter(self.store, self.providers.get_tracer, settings.segment_after)

    def _get_history_scope(self) -> str:
        """Return the group of runs whose history the estimates of this process use.

        It is the service of the settings or of the provider's resource, else the program. Why only
        once: a provider that is set later must not split the history of a run.
        """
        if self._history_scope is None:
            service = self.settings.service_name or self.providers.read_service_name()
            self._history_scope = f"service={service}" if service else f"program={get_program_name()}"
        return self._history_scope

    def read_public_url(self) -> str | None:
        """Return the configured public URL, else the URL of the own server."""
        return self.settings.public_url or self.server_url

    def build_metrics_collector(self) -> ProgressCollector:
        """Return a Prometheus collector of the live operations and totals.

        If other processes share the address of ``/metrics``, theirs are included.
        """
        options: dict[str, Any] = {
            "totals": self.totals,
            "retention_s": self.settings.metrics_retention,
            "public_url": self.read_public_url,
            "journal_size": self.reader.size_bytes,
        }
        # Why here: the modules are slow to import.
        if self.totals_publisher is not None and self.journal is not None:
            from otel_progress.metrics.shared_collector import SharedCollector

            group = ProcessGroup(self.totals_publisher, self.journal, self._stores_totals)
            return SharedCollector(self.store.reader, group, self.journal, **options)
        from otel_progress.metrics.collector import ProgressCollector

        return ProgressCollector(self.store.reader, **options)

    def _stores_totals(self) -> bool:
        """Return False while the journal rejects changes."""
        return not any(worker.has_failed for worker in self.sink_workers if worker.name == "journal")

    def restart_callbacks(self) -> None:
        """Remove all callbacks, as a forked child does."""
        self.callbacks = self._build_callbacks()

    def _build_callbacks(self) -> Callbacks:
        totals = self.totals
        return Callbacks(lambda count: totals.count_dropped("callback", count))

    # --- ticks -----------------------------------------------------------------------------------

    def _before_tick(self) -> None:
        self.on_tick()
        if self.metrics_port is not None:
            self.metrics_port.continue_inherited()
        self.providers.processor.read_spans()
        run_pollers()
        self._segmenter.continue_due()
        if self.sampler is not None:
            self.sampler.sample_if_due(self.store.reader.get_active_roots)
        if self.previews is not None:
            self.previews.run_due_work(self._list_active_runs)

    def _list_active_runs(self) -> list[str]:
        return [root.operation.run for root in self.store.reader.get_active_roots()]

    def _after_tick(self, change_set: ChangeSet, seconds: float) -> None:
        self.totals.observe_tick(seconds)
        if self.callbacks:
            for operation in self.store.reader.get_running(
                {snapshot.info.run for snapshot in change_set.snapshots}
            ):
                self.callbacks.submit("updated", operation)

    # --- notifications of the store --------------------------------------------------------------

    on_level_collected = staticmethod(spans.add_quarter_event)

    def on_rejection(self, reason: RejectionReason, text: str) -> None:
        """Count and log a rejected call. Raises RejectedValueError when strict."""
        self.recording.reject_value(reason, text)

    def on_late_rejection(self, reason: RejectionReason, text: str, call_site: CallSite | None) -> None:
        """Count and log a rejected value that was found after the call had returned."""
        self.recording.report_late_rejection(reason, text, call_site)

    def on_operation_started(self, root: Node) -> None:
        """Submit the start of an operation to the callbacks."""
        if self.callbacks:
            self._submit_to_callbacks("started", root)
        root.operation.start_delivered = True

    def on_shared_level_ending(self, node: Node) -> None:
        """Read the work of other processes before a level ends. Never raises."""
        try:
            if self.contributions is not None:
                self.contributions.wait_for_end(node)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("journal", "The work of other processes could not be read", error=error)

    def on_parent_ending(self, node: Node) -> None:  # noqa: ARG002 - all bars are read
        """Read open bars, whose last figures decide how they end. Never raises."""
        run_pollers()

    def on_level_ended(self, node: Node) -> None:
        """Finish the span and the previews of a level, and submit the end of an operation."""
        spans.finish_span(node)
        if self.previews is not None:
            self.previews.drop_level(node)
            if node.parent is None:
                self.previews.operation_ended(node.operation.run)
        if node.parent is None:
            if self.callbacks:
                self._submit_to_callbacks(node.status.value, node)  # type: ignore[arg-type]
            self.ends.deliver_end(node)
        elif node.operation.share is not None and node.parent.parent is None:
            self.ticker.wake_at_end()

    def on_event_dropped(self) -> None:
        """Count a dropped event."""
        self.totals.count_dropped("event")

    def on_completed_key_dropped(self) -> None:
        """Count a completed key that was not recorded, and log the first one."""
        self.totals.count_dropped("completed_key")
        text = (
            f"Invalid key: expected at most {MAX_COMPLETED_KEYS} keys per operation. Further items run again "
            "when the operation is resumed. Use fewer, larger items."
        )
        self.recording.report_late_rejection("resume", text, None)

    def on_previews_deleted(self, locations: Sequence[str]) -> None:
        """Delete the content of previews that no journal refers to."""
        if self.journal is None:
            self.discard_previews(locations)

    def discard_previews(self, locations: Sequence[str]) -> None:
        """Delete the content of previews."""
        if self.previews is not None:
            self.previews.discard(locations)

    def _submit_to_callbacks(self, event: CallbackEvent, node: Node) -> None:
        try:
            operation = self.store.reader.get_operation(node)
            self.callbacks.submit(event, operation)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("callback", "An event could not be submitted to the callbacks", error=error)
