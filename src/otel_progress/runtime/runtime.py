"""A running configuration: the live store, the ticker with its lanes, what reads and what serves, and how all of it ends."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument import spans
from otel_progress.instrument.backend import CallSiteWarnings, RecordingBackend, backend_slot
from otel_progress.live.node import Node
from otel_progress.live.store import LiveStore
from otel_progress.metrics.counters import Totals
from otel_progress.model import Outcome, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.processes import current_instance
from otel_progress.protocols import ChangeSet, Reader
from otel_progress.records import CancelRequest, LogRecord
from otel_progress.runtime.callbacks import Callback, CallbackEvent, Callbacks
from otel_progress.runtime.composite_reader import CompositeReader
from otel_progress.runtime.ticker import Ticker

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.previews.service import PreviewService
    from otel_progress.runtime.providers import TracerProviders
    from otel_progress.runtime.resource_sampler import ResourceSampler
    from otel_progress.runtime.sink_worker import SinkWorker
    from otel_progress.settings.fields import Settings


REASON_EXIT: Final = "the process ended first"


SHUTDOWN_S: Final = 5.0
"""How long a shutdown waits for sinks and exporters, in seconds."""


PREVIEWS_SHARE: Final = 0.4
"""Share of that time that previews which are being made may take: a function that hangs is left behind."""


class CloseCallback(Protocol):
    """Something to be closed at the end, within a time."""

    def __call__(self, timeout: float) -> object:
        """Close within ``timeout`` seconds."""


class Runtime:
    """What :func:`otel_progress.configure` returns. Usable in ``with``; shut down at exit by itself.

    ``store`` is the live store of this process: a Reader that has read-your-own-writes.
    """

    def __init__(
        self,
        settings: Settings,
        store: LiveStore,
        recording: RecordingBackend,
        totals: Totals,
        tracing: TracerProviders,
    ) -> None:
        self.settings = settings
        self.store = store
        self.totals = totals
        self.journal: Reader | None = None
        self.metrics_url: str | None = None
        self.server_url: str | None = None
        """Where the API and the page are served from this process, when they are."""
        self.sampler: ResourceSampler | None = None
        self.previewer: PreviewService | None = None
        self._sink_workers: list[SinkWorker] = []
        self._flush_callbacks: list[Callable[[float], bool]] = []
        self._close_callbacks: list[CloseCallback] = []
        self._tracing = tracing
        self._recording = recording
        self._callbacks = Callbacks(lambda count: totals.count_dropped("callback", count))
        self.ticker = Ticker(
            store,
            self._sink_workers,
            interval=settings.tick,
            before=self._before_tick,
            after=self._after_tick,
            watching=lambda: tracing.processor.watching,
        )
        self._pid = os.getpid()
        self._ended = False
        self._ending = threading.Lock()
        """Taken by the one thread that shuts down, for good; never waited for, so a signal handler may shut down as well."""
        store.on_wake = self.ticker.wake
        store.on_begin = self._on_operation_started
        store.on_end = self._on_level_ended
        store.on_advance = spans.add_quarter_event
        store.on_event_dropped = lambda: totals.count_dropped("event")
        on_fork(phase=ForkPhase.RUNTIME, owner=self, after_in_child=Runtime._after_fork)

    @property
    def is_shut_down(self) -> bool:
        """True after shutdown."""
        return self._ended

    # --- queries -----------------------------------------------------------------------------------------------

    @property
    def reader(self) -> CompositeReader:
        """Everything that is known here: what this process does as of now, and what the journal keeps."""
        return CompositeReader(self.store, self.journal)

    def journal_size(self) -> int | None:
        """Return the size of the journal's files in bytes; None without one."""
        return self.reader.size_bytes()

    def get_operation(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels: live ones as of now, else from the journal; None when unknown."""
        return self.reader.get(operation_id)

    def get_active_operations(self) -> list[OperationSnapshot]:
        """Return the operations of this process that have not ended, with their levels, newest first."""
        return list(self.store.active())

    def get_history(self, operation_type: str | None = None, limit: int = 100) -> list[OperationSnapshot]:
        """Return ended operations, the last one first: those of this process, and those the journal keeps."""
        return list(self.reader.history(operation_type, limit))

    def get_events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
    ) -> list[Event]:
        """Return the kept events of the newest run of this id, oldest first; ``level`` is a path and takes in what is below."""
        return list(self.reader.events(operation_id, level=level, outcome=outcome, since=since))

    def get_logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        limit: int = 1000,
    ) -> list[LogRecord]:
        """Return the newest ``limit`` captured log records of the newest run of this id, oldest first.

        ``path`` is a level's and takes in what is below; ``severity`` the least number of ``logging``; ``since`` in Unix seconds.
        """
        return list(self.reader.logs(operation_id, path=path, severity=severity, since=since, limit=limit))

    def get_batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch of operations as it is now, those of other processes included; None when it is unknown."""
        return self.reader.batch(batch_id)

    def request_cancel(self, operation_id: str, reason: str = "") -> bool:
        """Ask the active run of this id to stop, in this process or, through the journal, another; False when there is none.

        Its worker decides: ``Level.cancel_requested`` becomes true, and ``track`` stops between two elements.
        Raises JournalError when another process would have to be asked and the journal cannot be written.
        """
        return self.reader.request_cancel(operation_id, reason)

    def _apply_cancel_requests(self, requests: Sequence[CancelRequest]) -> None:
        """Take requests that came through the journal; those for runs that have ended meanwhile are none of the next one."""
        if requests:
            running = {node.operation.run for node in self.store.active_roots()}
            for request in requests:
                if request.run in running:
                    self.store.request_cancel(request.operation_id, request.reason)

    def add_callback(self, callback: Callback, interval: float = 0.1) -> None:
        """Call ``callback(event, operation)`` from a thread of its own at starts, ends, and at most every ``interval`` seconds."""
        self._callbacks.add(callback, interval)

    def remove_callback(self, callback: Callback) -> None:
        """Do not call ``callback`` any more."""
        self._callbacks.remove(callback)

    def join(self, provider: TracerProvider) -> None:
        """Follow the spans of one more tracer provider; the first one joined so makes the helpers' spans from then on."""
        self._tracing.add(provider, given=True)

    # --- the end -----------------------------------------------------------------------------------------------

    def force_flush(self, timeout: float = 5.0) -> bool:
        """Bring everything up to now to the journal, callbacks and exporters; False when not all was taken within ``timeout`` s."""
        deadline = time.monotonic() + timeout
        previewed = self.previewer is None or self.previewer.flush(timeout * PREVIEWS_SHARE)
        self.ticker.tick()
        flushes = [
            *(lane.flush for lane in self._sink_workers),
            self._tracing.flush,
            *self._flush_callbacks,
            self._callbacks.flush,
        ]
        return all([previewed, *[flush(max(0.0, deadline - time.monotonic())) for flush in flushes]])

    def shutdown(self, timeout: float = SHUTDOWN_S) -> bool:
        """End what still runs as cancelled, write and export everything, close every part. Idempotent; never raises."""
        if self._pid != os.getpid() or not self._ending.acquire(blocking=False):
            return True
        self._ended = True
        atexit.unregister(self.shutdown)
        deadline = time.monotonic() + timeout
        done = True
        if backend_slot.current is self._recording:  # first, so that nothing begins any more
            backend_slot.current = None
        try:
            if self.previewer is not None:  # before the last tick, which tells of them
                done = self.previewer.close(timeout * PREVIEWS_SHARE)
            for operation in list(self.store.active_roots()):
                self.store.close(operation, Status.CANCELLED, message=REASON_EXIT)
            self.ticker.stop(timeout)
            done = self._callbacks.flush(max(0.1, deadline - time.monotonic())) and done
            for lane in self._sink_workers:
                done = lane.close(max(0.1, deadline - time.monotonic())) and done
        except Exception as error:
            report_internal_error("shutdown", "progress could not be shut down completely", error=error)
            done = False
        for end in (self._tracing.close, *self._close_callbacks):
            try:
                end(max(0.1, deadline - time.monotonic()))
            except Exception as error:
                report_internal_error("shutdown", "a part could not be shut down", error=error)
                done = False
        self._callbacks.close()
        return done

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _before_tick(self) -> None:
        self._tracing.processor.look()
        if self.sampler is not None:
            self.sampler.sample_if_due(self.store.active_roots)
        if self.previewer is not None:
            self.previewer.run_due_work(lambda: [node.operation.run for node in self.store.active_roots()])

    # --- what the store tells ----------------------------------------------------------------------------------

    def _on_operation_started(self, node: Node) -> None:
        if self._callbacks:
            self._post("started", node)
        node.operation.start_delivered = True

    def _on_level_ended(self, node: Node) -> None:
        spans.finish_span(node)
        if self.previewer is not None:
            self.previewer.drop_level(node)
            if node.parent is None:
                self.previewer.operation_ended(node.operation.run)
        if node.parent is None and self._callbacks:
            self._post(node.status.value, node)  # type: ignore[arg-type]

    def _post(self, event: CallbackEvent, node: Node) -> None:
        try:
            operation = self.store.view(node)
            self._callbacks.submit(event, operation)
        except Exception as error:
            report_internal_error("callback", "a callback could not be told", error=error)

    def _after_tick(self, batch: ChangeSet, seconds: float) -> None:
        self.totals.write(batch)
        self.totals.observe_tick(seconds)
        if self._callbacks:
            for operation in self.store.running({snapshot.info.run for snapshot in batch.snapshots}):
                self._callbacks.submit("updated", operation)

    # --- fork --------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In a forked child: a new instance without the parent's levels, threads or terminal; its own levels are recorded."""
        if self._ended:
            return
        self._pid = os.getpid()
        self._ending = threading.Lock()
        self.store.restart(current_instance(self.store.instance.service))
        self._sink_workers[:] = [lane for lane in self._sink_workers if lane.name != "console"]
        for lane in self._sink_workers:
            lane.restart()
        if self.sampler is not None:
            self.sampler.restart()
        if self.previewer is not None:
            self.previewer.restart()
        self.server_url = None  # the parent serves; a child that did as well would answer for another process
        self._recording.warnings = CallSiteWarnings()
        self.ticker.restart()
        self._callbacks = Callbacks(lambda count: self.totals.count_dropped("callback", count))
        self._tracing.processor.restart()
