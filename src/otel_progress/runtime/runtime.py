"""A running configuration: the live store, the ticker with its lanes, what reads and what serves, and how all of it ends."""

from __future__ import annotations

import atexit
import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument.backend import CallSiteWarnings, backend_slot
from otel_progress.model import Outcome, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.processes import current_instance
from otel_progress.records import LogRecord
from otel_progress.runtime.callbacks import Callback, Callbacks

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.metrics.collector import ProgressCollector
    from otel_progress.runtime.components import RuntimeComponents
    from otel_progress.runtime.composite_reader import CompositeReader
    from otel_progress.settings.fields import Settings


REASON_EXIT: Final = "the process ended first"


SHUTDOWN_S: Final = 5.0
"""How long a shutdown waits for sinks and exporters, in seconds."""


PREVIEWS_SHARE: Final = 0.4
"""Share of that time that previews which are being made may take: a function that hangs is left behind."""


class Runtime:
    """Running configuration, as :func:`otel_progress.configure` returns it.

    A context manager that shuts down at its end. Otherwise it shuts down at interpreter exit.
    All methods may be called from any thread.
    """

    def __init__(self, components: RuntimeComponents) -> None:
        self._components = components
        self._settings = components.settings
        self._store = components.store
        self._totals = components.totals
        self._ticker = components.ticker
        self._providers = components.providers
        self._recording = components.recording
        self._previews = components.previews
        self._sampler = components.sampler
        self._sink_workers = components.sink_workers
        self._pid = os.getpid()
        self._is_shut_down = False
        # Why: the thread that shuts down takes it permanently. No thread waits for it, so a
        # signal handler may shut down as well.
        self._shutting_down = threading.Lock()
        on_fork(phase=ForkPhase.RUNTIME, owner=self, after_in_child=Runtime._after_fork)

    @property
    def _callbacks(self) -> Callbacks:
        return self._components.callbacks

    @property
    def settings(self) -> Settings:
        """Settings in effect."""
        return self._settings

    @property
    def metrics_url(self) -> str | None:
        """URL of ``/metrics`` of this process, or None when it is not served."""
        return self._components.metrics_url

    @property
    def server_url(self) -> str | None:
        """URL of the API and the page of this process, or None when they are not served."""
        return self._components.server_url

    @property
    def is_shut_down(self) -> bool:
        """True after :meth:`shutdown`."""
        return self._is_shut_down

    @property
    def reader(self) -> CompositeReader:
        """Reader of the live operations of this process and of the journal."""
        return self._components.reader

    def metrics_collector(self) -> ProgressCollector:
        """Return a collector of this runtime's metrics, to register with a Prometheus registry."""
        from otel_progress.metrics.collector import ProgressCollector

        return ProgressCollector(
            self._store,
            totals=self._totals,
            retention_s=self._settings.metrics_retention,
            public_url=self._components.read_public_url,
            journal_size=self.reader.size_bytes,
        )

    # --- queries -----------------------------------------------------------------------------------------------

    def get_operation(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels: live ones as of now, else from the journal; None when unknown."""
        return self.reader.get(operation_id)

    def get_active_operations(self) -> list[OperationSnapshot]:
        """Return the operations of this process that have not ended, with their levels, newest first."""
        return list(self._store.active())

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

    def add_callback(self, callback: Callback, interval: float = 0.1) -> None:
        """Call ``callback(event, operation)`` from a thread of its own at starts, ends, and at most every ``interval`` seconds."""
        self._callbacks.add(callback, interval)

    def remove_callback(self, callback: Callback) -> None:
        """Do not call ``callback`` any more."""
        self._callbacks.remove(callback)

    def join(self, provider: TracerProvider) -> None:
        """Follow the spans of another tracer provider.

        The first provider that is joined explicitly creates the spans of levels from then on.
        """
        self._providers.add(provider, is_explicit=True)

    # --- the end -----------------------------------------------------------------------------------------------

    def force_flush(self, timeout: float = 5.0) -> bool:
        """Bring everything up to now to the journal, callbacks and exporters; False when not all was taken within ``timeout`` s."""
        deadline = time.monotonic() + timeout
        previewed = self._previews is None or self._previews.flush(timeout * PREVIEWS_SHARE)
        self._ticker.tick()
        flushes = [
            *(lane.flush for lane in self._sink_workers),
            self._providers.flush,
            *self._components.flush_callbacks,
            self._callbacks.flush,
        ]
        return all([previewed, *[flush(max(0.0, deadline - time.monotonic())) for flush in flushes]])

    def shutdown(self, timeout: float = SHUTDOWN_S) -> bool:
        """End what still runs as cancelled, write and export everything, close every part. Idempotent; never raises."""
        if self._pid != os.getpid() or not self._shutting_down.acquire(blocking=False):
            return True
        self._is_shut_down = True
        atexit.unregister(self.shutdown)
        deadline = time.monotonic() + timeout
        done = True
        if backend_slot.current is self._recording:  # first, so that nothing begins any more
            backend_slot.current = None
        try:
            if self._previews is not None:  # before the last tick, which tells of them
                done = self._previews.close(timeout * PREVIEWS_SHARE)
            for operation in list(self._store.active_roots()):
                self._store.close(operation, Status.CANCELLED, message=REASON_EXIT)
            self._ticker.stop(timeout)
            done = self._callbacks.flush(max(0.1, deadline - time.monotonic())) and done
            for lane in self._sink_workers:
                done = lane.close(max(0.1, deadline - time.monotonic())) and done
        except Exception as error:
            report_internal_error("shutdown", "progress could not be shut down completely", error=error)
            done = False
        for end in (self._providers.close, *self._components.close_callbacks):
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

    # --- fork --------------------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In a forked child: a new instance without the parent's levels, threads or terminal; its own levels are recorded."""
        if self._is_shut_down:
            return
        self._pid = os.getpid()
        self._shutting_down = threading.Lock()
        self._store.restart(current_instance(self._store.instance.service))
        self._sink_workers[:] = [lane for lane in self._sink_workers if lane.name != "console"]
        for lane in self._sink_workers:
            lane.restart()
        if self._sampler is not None:
            self._sampler.restart()
        if self._previews is not None:
            self._previews.restart()
        # Why: the server runs in the parent only.
        self._components.server_url = None
        self._recording.warnings = CallSiteWarnings()
        self._ticker.restart()
        self._components.restart_callbacks()
        self._providers.processor.restart()
