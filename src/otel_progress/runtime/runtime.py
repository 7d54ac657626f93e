"""Running configuration: queries, requests, callbacks, flush and shutdown."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument.backend import backend_slot
from otel_progress.instrument.rejections import CallSiteWarnings
from otel_progress.model import Outcome, Status
from otel_progress.operations import BatchSnapshot, Event, OperationList, OperationSnapshot
from otel_progress.otlp.instance_id import get_process_instance_id
from otel_progress.processes import current_instance
from otel_progress.records import LogRecord
from otel_progress.runtime.callbacks import Callback, Callbacks
from otel_progress.runtime.exit_hooks import ExitHooks
from otel_progress.runtime.parent_process import (
    ParentSettings,
    can_publish,
    publish_settings,
    withdraw_settings,
)
from otel_progress.runtime.reader_facade import ReaderFacade

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from otel_progress.metrics.collector import ProgressCollector
    from otel_progress.processor import ProgressSpanProcessor
    from otel_progress.runtime.components import RuntimeComponents
    from otel_progress.settings.fields import Settings


REASON_EXIT: Final = "the process ended first"
"""Message of operations that the end of the process cancels."""


REASON_SHUTDOWN: Final = "the recording was shut down"
"""Message of operations that a shutdown cancels while the process continues."""


SHUTDOWN_S: Final = 5.0
"""Time limit of a shutdown, in seconds. Sinks and exporters that take longer lose data."""


FLUSH_S: Final = 5.0
"""Time limit of a flush, in seconds. Beyond it the flush returns False."""


PREVIEWS_SHARE: Final = 0.4
"""Share of the time limit for previews in progress. Beyond it a preview is abandoned."""


SPILL_SHARE: Final = 0.2
"""Share of the time limit at an exit for storing unwritten ends in a file."""


_MIN_CLOSE_S: Final = 0.1
"""Time that each component has to close after the time limit is used up, in seconds."""


MAX_TIMEOUT_S: Final = 365 * 86_400.0
"""Longest timeout of a flush or shutdown. A longer one, such as infinity, counts as this one."""


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
        self._pid = self._built_pid = os.getpid()
        self._is_published = False
        self._exit_hooks = ExitHooks(
            shut_down=self._shut_down_at_exit,
            leave_child=self._leave_child,
            flush=self._flush_at_exit,
            finish=self._finish_at_exit,
            has_unsent=self._has_unsent,
        )
        self._is_shut_down = False
        self._is_exiting = False
        self._dropped_ends = 0
        # Why: the thread that shuts down takes it permanently. No thread waits for it, so a
        # signal handler may shut down as well.
        self._shutting_down = threading.Lock()
        on_fork(
            phase=ForkPhase.RUNTIME,
            owner=self,
            after_in_parent=Runtime._after_fork_in_parent,
            after_in_child=Runtime._after_fork,
        )
        components.on_tick = self._prepare_children

    @property
    def _callbacks(self) -> Callbacks:
        return self._components.callbacks

    @property
    def settings(self) -> Settings:
        """Settings in effect."""
        return self._settings

    @property
    def metrics_url(self) -> str | None:
        """URL of ``/metrics`` of this process, or None when it is not served.

        Another process may serve it, if several processes share the port.
        """
        port = self._components.metrics_port
        return None if port is None else port.url

    @property
    def server_url(self) -> str | None:
        """URL of the API and the page of this process, or None when they are not served."""
        return self._components.server_url

    @property
    def is_shut_down(self) -> bool:
        """True after :meth:`shutdown`."""
        return self._is_shut_down

    @property
    def reader(self) -> ReaderFacade:
        """Reader and controller of this process's live operations and of the journal.

        Its methods accept keyword arguments or a query object.
        """
        return ReaderFacade(self._components.reader)

    def metrics_collector(self) -> ProgressCollector:
        """Return a collector of this runtime's metrics for a Prometheus registry."""
        return self._components.build_metrics_collector()

    # --- queries ---------------------------------------------------------------------------------

    def get_operation(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""
        return self.reader.get(operation_id)

    def get_active_operations(self) -> list[OperationSnapshot]:
        """Return the active operations of this process with their levels, newest first."""
        return OperationList(self._store.reader.active())

    def get_history(self, operation_type: str | None = None, limit: int = 100) -> list[OperationSnapshot]:
        """Return ended operations of this process and the journal, newest end first.

        The operations have no levels. ``limit`` is the maximum number of operations.
        """
        return OperationList(self.reader.history(operation_type=operation_type, limit=limit))

    def get_events(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
    ) -> list[Event]:
        """Return the newest 1,000 matching events of the newest run, oldest first.

        ``path`` is the path of a level. Events of the levels below it are included. ``since``
        is in Unix seconds. For more events use ``reader.events`` with ``limit``.
        """
        return list(self.reader.events(operation_id, path=path, outcome=outcome, since=since))

    def get_logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        limit: int = 1000,
    ) -> list[LogRecord]:
        """Return captured log records of the newest run of an operation, oldest first.

        At most the newest ``limit`` records are returned. ``path`` is the path of a level.
        Records of the levels below it are included. ``severity`` is the lowest number of
        ``logging``. ``since`` is in Unix seconds.
        """
        return list(self.reader.logs(operation_id, path=path, severity=severity, since=since, limit=limit))

    def get_batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch, or None for an unknown id.

        Operations of other processes are included.
        """
        return self.reader.batch(batch_id)

    def request_cancel(self, operation_id: str, reason: str = "") -> bool:
        """Request that the active run of an operation stops.

        Return False when no run is active. The request reaches other processes through the
        journal. The instrumented code decides: ``Level.cancel_requested`` becomes True, and
        ``track`` stops between two elements. Raises JournalError if the request is for another
        process and cannot be written.
        """
        return self.reader.request_cancel(operation_id, reason)

    def add_callback(self, callback: Callback, interval: float = 0.1) -> None:
        """Call ``callback(event, operation)`` at starts, ends and updates of operations.

        Each callback has its own thread. Updates of an operation are at least ``interval``
        seconds apart. Adding a callback again changes its interval. An exception of the
        callback is counted and logged. Raises ConfigurationError for an invalid callback or
        interval.
        """
        self._callbacks.add(callback, interval)

    def remove_callback(self, callback: Callback) -> None:
        """Stop calling ``callback``. An unknown callback is ignored."""
        self._callbacks.remove(callback)

    def join(self, provider: TracerProvider) -> None:
        """Follow the spans of another tracer provider.

        The first provider that is joined explicitly creates the spans of levels from then on.
        """
        self._providers.add(provider, is_explicit=True)

    # --- flush and shutdown ----------------------------------------------------------------------

    def force_flush(self, timeout: float = FLUSH_S) -> bool:
        """Send all progress so far to the journal, callbacks and exporters.

        Return False if a receiver failed or took longer than ``timeout`` seconds, or if the end of
        an operation was dropped since the last flush. The application flushes the tracer providers
        that it joined. A signal handler that interrupts a change of a level gets False at once.
        """
        # Why: each receiver may wait for a thread that waits for that change.
        if self._store.is_interrupting():
            return False
        timeout = min(timeout, MAX_TIMEOUT_S)
        deadline = time.monotonic() + timeout
        is_complete = self._previews is None or self._previews.flush(timeout * PREVIEWS_SHARE)
        is_complete = self._ticker.drain(max(0.0, deadline - time.monotonic())) and is_complete
        flushes = [
            *(worker.flush for worker in self._sink_workers),
            self._providers.flush,
            *self._components.flush_callbacks,
            self._callbacks.flush,
        ]
        for flush in flushes:
            is_complete = flush(max(0.0, deadline - time.monotonic())) and is_complete
        return self._check_dropped_ends() and is_complete

    def _check_dropped_ends(self) -> bool:
        """Return False if the end of an operation was dropped since the last check."""
        dropped = self._store.dropped_ends + sum(worker.dropped_ends for worker in self._sink_workers)
        before, self._dropped_ends = self._dropped_ends, dropped
        return dropped == before

    def shutdown(self, timeout: float = SHUTDOWN_S) -> bool:
        """Cancel active operations, write and export everything, and close all components.

        Return False if a component failed or took longer than ``timeout`` seconds. Further
        calls do nothing and return True. Never raises. A signal handler that interrupts a change of
        a level gets False, and the shutdown follows that change.
        """
        if self._store.run_after_interrupted_call(self.shutdown):
            return False
        if self._pid != os.getpid() or not self._shutting_down.acquire(blocking=False):
            return True
        timeout = min(timeout, MAX_TIMEOUT_S)
        self._is_shut_down = True
        self._exit_hooks.remove()
        withdraw_settings()
        self._components.ends.is_closing = True
        if self._components.terminate_signals is not None:
            self._components.terminate_signals.remove()
        deadline = time.monotonic() + timeout
        # Why first: no level may start during the shutdown.
        if backend_slot.peek() is self._recording:
            backend_slot.current = None
        is_complete = self._finish_recording(timeout, deadline)
        is_complete = self._close_components(deadline) and is_complete
        self._callbacks.close()
        return is_complete

    def _finish_recording(self, timeout: float, deadline: float) -> bool:
        """Cancel active operations and write the last changes to callbacks and sinks."""
        is_complete = True
        try:
            # Why first: the last tick collects the finished previews.
            if self._previews is not None:
                is_complete = self._previews.close(timeout * PREVIEWS_SHARE)
            self._store.end_local_shares()
            self._cancel_operations(REASON_EXIT if self._is_exiting else REASON_SHUTDOWN)
            if self._components.contributions is not None:
                self._components.contributions.close()
            is_complete = self._ticker.stop(timeout) and is_complete
            self._store.close_shares()
            is_complete = self._callbacks.flush(_remaining_s(deadline)) and is_complete
            for worker in self._sink_workers:
                is_complete = worker.close(_remaining_s(deadline)) and is_complete
            is_complete = self._check_dropped_ends() and is_complete
        except Exception as error:
            report_internal_error("shutdown", "Progress could not be shut down completely", error=error)
            return False
        return is_complete

    def _cancel_operations(self, reason: str) -> None:
        self._store.cancel_share_levels(reason)
        for root in list(self._store.reader.get_active_roots()):
            self._store.end_level(root, Status.CANCELLED, message=reason)

    def _close_components(self, deadline: float) -> bool:
        self._components.ends.close()
        is_complete = True
        for close in (self._providers.close, *self._components.close_callbacks):
            try:
                is_complete = close(_remaining_s(deadline)) is not False and is_complete
            except Exception as error:
                report_internal_error("shutdown", "A component could not be closed", error=error)
                is_complete = False
        return is_complete

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    # --- exit ------------------------------------------------------------------------------------

    def _install_hooks(self) -> None:
        self._exit_hooks.install()
        signals = self._components.terminate_signals
        if signals is not None:
            signals.finish = self._finish
            signals.defer = self._store.run_after_interrupted_call
        self._publish_settings()

    def _prepare_children(self) -> None:
        """Publish the settings for children, and include their work. Each tick calls it."""
        self._publish_settings()
        poller = self._components.contributions
        if poller is not None and self._store.has_shared_operations:
            poller.wake()

    def _publish_settings(self) -> None:
        if not self._is_published and not self._is_shut_down and can_publish():
            settings = self._settings
            published = ParentSettings(
                settings.to_environ(has_credentials=True), settings.get_process_resources()
            )
            self._is_published = publish_settings(published)

    def _has_unsent(self) -> bool:
        """Return True if a change waits for a sink or exporter."""
        ends = self._components.ends
        # Why in this order: other threads move a change from each place to the next one.
        return not self._is_shut_down and (
            not self._store.idle
            or self._ticker.is_ticking
            or any(worker.has_backlog for worker in self._sink_workers)
            or not ends.is_idle
            or (ends.has_other_spans and self._providers.has_application_provider)
        )

    def _shut_down_at_exit(self) -> None:
        self._is_exiting = True
        self.shutdown()

    def _leave_child(self) -> None:
        # Why: a child that records nothing must not wait for a collector.
        if self._ticker.has_started:
            self._shut_down_at_exit()
            self._providers.flush_joined(FLUSH_S)

    def _flush_at_exit(self) -> None:
        if self._ticker.has_started:
            self.force_flush()
            self._providers.flush_joined(FLUSH_S)

    def _finish_at_exit(self, timeout: float) -> None:
        self._finish(REASON_EXIT, timeout)
        self._providers.flush_joined(timeout)

    def _finish(self, reason: str, timeout: float) -> None:
        """Cancel the running operations and write all changes. The recording continues."""
        ends = self._components.ends
        is_closing, ends.is_closing = ends.is_closing, True
        try:
            self._store.end_local_shares()
            self._cancel_operations(reason)
            if not self.force_flush(timeout * (1.0 - SPILL_SHARE)):
                for worker in self._sink_workers:
                    worker.store_unwritten_ends()
        finally:
            ends.is_closing = is_closing

    # --- fork ------------------------------------------------------------------------------------

    def _after_fork_in_parent(self) -> None:
        """Include the work that the child does with handles that it inherited."""
        if self._components.contributions is not None and self._pid == os.getpid():
            # Why no thread here: most forks have nothing to do with the operation.
            self._store.share_active_operations()

    def _after_fork(self) -> None:
        """Continue in a forked child as a new instance.

        The child records its own levels. It has no levels, threads or terminal of the parent.
        """
        if self._is_shut_down:
            return
        self._pid = os.getpid()
        self._shutting_down = threading.Lock()
        self._dropped_ends = 0
        self._is_published = False
        # Why: the server, the terminal and the platform belong to the parent.
        self._components.server_url = None
        self._sink_workers[:] = [
            worker for worker in self._sink_workers if worker.name not in ("console", "platforms")
        ]
        self._recording.has_live_display = False
        self._recording.warnings = CallSiteWarnings()
        instance_id = get_process_instance_id()
        self._store.restart(current_instance(self._store.instance.service, instance_id))
        errors: list[Exception] = []
        for restart in self._list_restarts(instance_id):
            # Why each one: the others may hold locks of threads that the child does not have.
            try:
                restart()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _list_restarts(self, instance_id: str) -> list[Callable[[], object]]:
        """Return the functions that restart the parts in a forked child, in order."""
        components, instance = self._components, self._store.instance
        parts = (
            *self._sink_workers,
            self._sampler,
            self._previews,
            self._totals,
            components.metrics_port,
            self._ticker,
            components.ends,
            components.contributions,
        )
        return [
            partial(self._providers.restart, instance_id),
            *(partial(restart, instance_id) for restart in components.fork_callbacks),
            *(partial(spill_file.restart, instance) for spill_file in components.spill_files),
            *(part.restart for part in parts if part is not None),
            *(partial(part.restart, instance) for part in [components.totals_publisher] if part is not None),
            self._exit_hooks.register_finalizer,
            components.restart_callbacks,
            self._providers.processor.restart,
        ]


def _remaining_s(deadline: float) -> float:
    return max(_MIN_CLOSE_S, deadline - time.monotonic())


def install_exit_hooks(runtime: Runtime) -> None:
    """Flush or shut down a runtime when the process leaves. Publish its settings.

    Children of multiprocessing can read the settings.
    """
    runtime._install_hooks()


def get_span_processor(runtime: Runtime) -> ProgressSpanProcessor:
    """Return the processor that the joined providers of a runtime have."""
    return runtime._providers.processor


def is_inherited(runtime: Runtime) -> bool:
    """Return True in a forked child of the process that built the runtime."""
    return runtime._built_pid != os.getpid()
