"""Delivery of ended operations to sinks and exporters before the process leaves.

The end of an operation wakes the ticker and the exporters. Children of multiprocessing may be
killed as soon as their task has returned, so there the caller waits for the delivery, up to
``MAX_WAIT_S``. After that time, the end is stored in a file next to the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import Node
from otel_progress.runtime.export_trigger import ExportTrigger
from otel_progress.runtime.parent_process import is_pool_child
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.threads import has_event_loop
from otel_progress.runtime.ticker import Ticker

MAX_WAIT_S: Final = 0.05
"""Maximum time that the end of an operation waits in a child of multiprocessing, in seconds."""


MAX_SHARE_WAIT_S: Final = 0.25
"""Maximum time that a call waits which worked on an operation of another process, in seconds. It
usually takes some milliseconds. Why longer than the end of an operation: what is not written by
then is lost if a pool ends the process, because it is not stored in a file.
"""


MAX_FIRST_SHARE_WAIT_S: Final = 2.0
"""Maximum time of the first such wait of a process, in seconds. Why longer: the process imports
modules and opens a connection, which takes seconds on a busy machine.
"""


MAX_WAIT_SHARE: Final = 0.1
"""Maximum share of the time for such waits. Beyond it, ends only wake the sinks."""


MAX_WAIT_CREDIT_S: Final = 1.0
"""Time that such waits may use before their share limits them, in seconds."""


_POLL_S: Final = 0.001
"""Time between two checks during a wait, in seconds."""


class EndDelivery:
    """Wakes the ticker and the exporters when an operation ends.

    ``exports_spans`` returns True if the spans of levels are exported by this package.
    """

    def __init__(
        self, ticker: Ticker, sink_workers: Sequence[SinkWorker], exports_spans: Callable[[], bool]
    ) -> None:
        self.span_export: ExportTrigger | None = None
        self.event_export: ExportTrigger | None = None
        self.is_closing = False
        """True while all operations end, so that no end waits for itself."""
        self.has_other_spans: bool
        """True after the end of an operation whose span this package does not export."""
        self.store_end: Callable[[Node], object] = lambda root: None
        """Stores an ended operation that could not be delivered within the wait."""
        self._ticker = ticker
        self._sink_workers = sink_workers
        self._exports_spans = exports_spans
        self.restart()

    def restart(self) -> None:
        """Discard all requests, as a forked child does."""
        self._credit_s = MAX_WAIT_CREDIT_S
        self._credited_at = time.monotonic()
        self._share_credit_s = MAX_WAIT_CREDIT_S
        self._share_credited_at = self._credited_at
        self._is_first_share = True
        self._is_storing = False
        self._waiting: set[int] = set()
        """Identifiers of the threads that wait."""
        self.has_other_spans = False
        for export in self._list_exports():
            export.restart()

    def _list_exports(self) -> list[ExportTrigger]:
        return [export for export in (self.span_export, self.event_export) if export is not None]

    @property
    def is_idle(self) -> bool:
        """True if no export of an ended operation waits or runs."""
        return all(export.is_idle for export in self._list_exports())

    def deliver_end(self, root: Node) -> None:
        """Wake the sinks, and wait for them in a child of multiprocessing.

        Never raises, except an exception that interrupts it.
        """
        try:
            self._deliver_end(root)
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("tick", "The end of an operation could not be delivered", error=error)

    def _deliver_end(self, root: Node) -> None:
        is_awaited = is_pool_child() and self._can_wait()
        span_number = 0
        if self.span_export is not None and self._exports_spans():
            span_number = self.span_export.request(is_awaited=is_awaited)
        else:
            self.has_other_spans = True
        if is_awaited:
            self._wait(root, span_number)
        else:
            self._ticker.wake_at_end()

    def deliver_shares(self) -> None:
        """Deliver the work on operations of other processes, and wait for the sinks.

        The caller waits at most ``MAX_SHARE_WAIT_S``, and at most ``MAX_WAIT_SHARE`` of the time.
        Beyond it the sinks are only woken. The first wait of a process may be longer. Never raises,
        except an exception that interrupts it.
        """
        try:
            started = time.monotonic()
            if not self._can_wait_for_shares(started):
                self._ticker.wake_at_end()
                return
            tick = self._ticker.request_tick()
            is_first, self._is_first_share = self._is_first_share, False
            limit_s = MAX_FIRST_SHARE_WAIT_S if is_first else MAX_SHARE_WAIT_S
            while time.monotonic() - started < limit_s and not self._is_written(tick):
                time.sleep(_POLL_S)
            if not is_first:
                self._share_credit_s -= time.monotonic() - started
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("tick", "The progress of a call could not be delivered", error=error)

    def _can_wait_for_shares(self, now: float) -> bool:
        if self.is_closing or not self._ticker.can_wait() or has_event_loop():
            return False
        earned_s = (now - self._share_credited_at) * MAX_WAIT_SHARE
        self._share_credited_at = now
        self._share_credit_s = min(MAX_WAIT_CREDIT_S, self._share_credit_s + earned_s)
        return self._share_credit_s > 0.0

    def request_event_export(self) -> None:
        """Export the events of an ended operation, which the sink of events has emitted."""
        if self.event_export is not None:
            self.event_export.request(is_awaited=bool(self._waiting))

    def close(self) -> None:
        """Stop the threads of the exports."""
        for export in self._list_exports():
            export.close()

    def _can_wait(self) -> bool:
        if self.is_closing or not self._ticker.can_wait() or has_event_loop():
            return False
        now = time.monotonic()
        earned_s = (now - self._credited_at) * MAX_WAIT_SHARE
        self._credited_at = now
        self._credit_s = min(MAX_WAIT_CREDIT_S, self._credit_s + earned_s)
        return self._credit_s > 0.0

    def _wait(self, root: Node, span_number: int) -> None:
        # Why no condition: a signal handler may end an operation while its thread holds a lock.
        started, thread = time.monotonic(), threading.get_ident()
        self._waiting.add(thread)
        try:
            tick = self._ticker.request_tick()
            while time.monotonic() - started < MAX_WAIT_S and not self._is_delivered(tick, span_number):
                time.sleep(_POLL_S)
        finally:
            self._waiting.discard(thread)
        if not self._is_stored(tick) and not self._is_storing:
            # Why a flag: a signal handler may end another operation while this one is stored.
            self._is_storing = True
            try:
                self.store_end(root)
            finally:
                self._is_storing = False
        self._credit_s -= time.monotonic() - started

    def _is_delivered(self, tick: int, span_number: int) -> bool:
        if not self._is_written(tick):
            return False
        if span_number and self.span_export is not None and not self.span_export.is_done(span_number):
            return False
        return self.event_export is None or self.event_export.is_idle or self.event_export.is_failing

    def _is_stored(self, tick: int) -> bool:
        """Return True if no sink with a file has an end that it did not write."""
        return self._ticker.has_ticked(tick) and not any(
            worker.has_backlog for worker in self._sink_workers if worker.has_file
        )

    def _is_written(self, tick: int) -> bool:
        """Return True if waiting for the sinks is useless. A sink that fails writes later."""
        return self._ticker.has_ticked(tick) and not any(
            worker.has_backlog and not worker.has_failed for worker in self._sink_workers
        )
