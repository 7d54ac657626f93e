"""The parts of a runtime that depend on each other, created in order."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument import spans
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.live.node import Node
from otel_progress.live.store import LiveStore
from otel_progress.metrics.counters import Totals
from otel_progress.processes import current_instance
from otel_progress.protocols import ChangeSet, Reader
from otel_progress.runtime.callbacks import CallbackEvent, Callbacks
from otel_progress.runtime.providers import TracerProviders
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.ticker import Ticker

if TYPE_CHECKING:
    from otel_progress.previews.service import PreviewService
    from otel_progress.runtime.resource_sampler import ResourceSampler
    from otel_progress.settings.fields import Settings


@dataclass(frozen=True, slots=True)
class ClockAndIds:
    """Sources of monotonic seconds, Unix seconds and unique ids. Tests pass their own."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    ids: Callable[[], str] = lambda: secrets.token_hex(8)


class RuntimeComponents:
    """Creates the live store with the parts around it, and is its listener.

    The store takes its listener when it is created, so the parts that come later are attributes
    here.
    """

    def __init__(
        self, settings: Settings, sources: ClockAndIds, *, has_trajectory_store: bool = False
    ) -> None:
        self.totals = Totals()
        self.journal: Reader | None = None
        self.previewer: PreviewService | None = None
        self.sampler: ResourceSampler | None = None
        self.sink_workers: list[SinkWorker] = []
        self.callbacks = self._create_callbacks()
        self.ticker = Ticker(
            lambda: self.store,
            self.sink_workers,
            interval=settings.tick,
            before=self._before_tick,
            after=self._after_tick,
            watching=lambda: self.tracing.processor.watching,
        )
        self.on_change = self.ticker.wake
        self.store = LiveStore(
            current_instance(settings.service_name or "unknown_service"),
            clock=sources.clock,
            now=sources.now,
            ids=sources.ids,
            stall_after=settings.stall_after,
            has_trajectory_store=has_trajectory_store,
            listener=self,
        )
        self.tracing = TracerProviders(self.store)
        self.backend = RecordingBackend(
            self.store, self.tracing.tracer, settings.strict, self.totals.count_rejected
        )

    def _create_callbacks(self) -> Callbacks:
        return Callbacks(lambda count: self.totals.count_dropped("callback", count))

    def restart_callbacks(self) -> None:
        """Replace the callbacks by none, as a forked child does."""
        self.callbacks = self._create_callbacks()

    # --- ticks -----------------------------------------------------------------------------------

    def _before_tick(self) -> None:
        self.tracing.processor.look()
        if self.sampler is not None:
            self.sampler.sample_if_due(self.store.reader.get_active_roots)
        if self.previewer is not None:
            self.previewer.run_due_work(
                lambda: [node.operation.run for node in self.store.reader.get_active_roots()]
            )

    def _after_tick(self, change_set: ChangeSet, seconds: float) -> None:
        self.totals.write(change_set)
        self.totals.observe_tick(seconds)
        if self.callbacks:
            for operation in self.store.reader.get_running(
                {snapshot.info.run for snapshot in change_set.snapshots}
            ):
                self.callbacks.submit("updated", operation)

    # --- notifications of the store --------------------------------------------------------------

    on_level_collected = staticmethod(spans.add_quarter_event)

    def on_rejection(self, reason: str, text: str) -> None:
        """Count and log a rejected call. Raises RejectedValueError when strict."""
        self.backend.reject_value(reason, text)

    def on_late_rejection(self, reason: str, text: str) -> None:
        """Count and log a rejected value that was found after the call returned."""
        self.backend.report_rejection(reason, text)

    def on_operation_started(self, root: Node) -> None:
        """Submit the start to the callbacks."""
        if self.callbacks:
            self._submit_to_callbacks("started", root)
        root.operation.start_delivered = True

    def on_level_ended(self, node: Node) -> None:
        """End the level's span and previews, and report an ended operation."""
        spans.finish_span(node)
        if self.previewer is not None:
            self.previewer.forget(node)
            if node.parent is None:
                self.previewer.operation_ended(node.operation.run)
        if node.parent is None and self.callbacks:
            self._submit_to_callbacks(node.status.value, node)  # type: ignore[arg-type]

    def on_event_dropped(self) -> None:
        """Count a dropped event."""
        self.totals.count_dropped("event")

    def on_previews_deleted(self, locations: Sequence[str]) -> None:
        """Delete the content of previews that no journal refers to."""
        if self.journal is None and self.previewer is not None:
            self.previewer.discard(locations)

    def _submit_to_callbacks(self, event: CallbackEvent, node: Node) -> None:
        try:
            operation = self.store.reader.get_operation(node)
            self.callbacks.submit(event, operation)
        except Exception as error:
            report_internal_error("callback", "An event could not be delivered to the callbacks", error=error)
