"""Thread that reads the work of other processes for the operations of this one.

It runs while an operation is shared: its handle was pickled, or this process was forked while the
operation was active. The threads of callers never read the store. The end of a shared level waits
for a poll, within ``END_WAIT_S``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from otel_progress.diagnostics import OutageLog
from otel_progress.live.node import Node
from otel_progress.live.store import LiveStore
from otel_progress.model import is_below_total
from otel_progress.protocols import ContributionSource
from otel_progress.records import Contribution
from otel_progress.runtime.threads import has_event_loop, start_daemon_thread

END_WAIT_S: Final = 0.5
"""Maximum time that the end of a shared level waits for a poll, in seconds. A poll takes some
milliseconds, and longer on a busy machine.
"""


SHORT_WAIT_S: Final = 0.05
"""Maximum time of this wait in a thread that runs an event loop, and of a close, in seconds."""


INCOMPLETE_WAIT_S: Final = 0.25
"""Maximum time if other processes worked on the operation and its count is below the total."""


LATE_S: Final = 10.0
"""Time after the end of an operation in which late counts change its final state, in seconds."""


GONE_INTERVAL_S: Final = 1.0
"""Time between two searches for processes that have ended, in seconds."""


_STEP_S: Final = 0.001
"""Time between two checks during a wait, in seconds."""


_INCOMPLETE_STEP_S: Final = 0.01
"""Time between two polls while the end of an incomplete level waits, in seconds."""


class ContributionPoller:
    """Polls a journal for the shared operations, every ``interval`` seconds.

    ``on_dropped`` is called with the number of contributions that were left out. The end of a level
    waits for a poll at most ``end_wait_s`` seconds, and for late work ``incomplete_wait_s``.
    """

    def __init__(
        self,
        store: LiveStore,
        source: ContributionSource,
        interval: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_dropped: Callable[[int], object] = lambda count: None,
        end_wait_s: float = END_WAIT_S,
        incomplete_wait_s: float = INCOMPLETE_WAIT_S,
    ) -> None:
        self._end_wait_s = end_wait_s
        self._incomplete_wait_s = incomplete_wait_s
        self._store = store
        self._source = source
        self._interval = interval
        self._clock = clock
        self._on_dropped = on_dropped
        self.restart()

    def restart(self) -> None:
        """Discard the thread, as a forked child does."""
        self._thread: threading.Thread | None = None
        self._request = threading.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        self._started = 0
        self._finished = 0
        self._is_failing = False
        self._gone_checked_at = float("-inf")
        self._outages = OutageLog("journal")
        self._merged: list[Contribution] = []
        self._dropped = 0

    def wake(self) -> None:
        """Poll as long as an operation is shared. Start the thread if it does not run."""
        if self._is_closed or (self._thread is not None and self._thread.is_alive()):
            return
        # Why without waiting: a signal handler may interrupt the thread that holds the lock.
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                self._thread = start_daemon_thread(
                    self._run,
                    "contributions",
                    "journal",
                    "The thread that reads the work of other processes could not be started",
                )
        finally:
            self._lock.release()

    def close(self) -> None:
        """Stop the thread after a last poll."""
        self._is_closed = True
        self._request.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(SHORT_WAIT_S)

    def wait_for_end(self, node: Node) -> None:
        """Wait for the work of other processes on a level that is about to end."""
        if threading.current_thread() is self._thread or self._is_closed or self._is_failing:
            return
        self.wake()
        if self._thread is None:
            return
        started = time.monotonic()
        self._wait_for_poll(started + (SHORT_WAIT_S if has_event_loop() else self._end_wait_s))
        deadline = started + self._incomplete_wait_s
        while time.monotonic() < deadline and self._may_be_incomplete(node):
            time.sleep(_INCOMPLETE_STEP_S)
            self._wait_for_poll(deadline)

    def _wait_for_poll(self, deadline: float) -> None:
        number = self._started
        self._request.set()
        # Why a poll that starts now: a running one may have read the store already.
        while self._finished <= number and time.monotonic() < deadline and not self._is_failing:
            time.sleep(_STEP_S)

    def _may_be_incomplete(self, node: Node) -> bool:
        if self._is_failing or node.total is None or not self._store.has_contributors(node.operation):
            return False
        snapshot = self._store.reader.get_level(node)
        return snapshot.total is not None and is_below_total(snapshot.current, snapshot.total)

    def _run(self) -> None:
        while True:
            self._request.wait(self._interval)
            self._request.clear()
            if not self.poll() or self._is_closed:
                return

    def poll(self) -> bool:
        """Add the stored work of other processes once.

        Return False if no operation is shared. Errors are reported.
        """
        self._started += 1
        number = self._started
        runs = self._store.list_shared_runs(LATE_S)
        try:
            if runs:
                self._poll(runs)
            self._is_failing = False
            self._outages.report_success()
        except Exception as error:
            self._is_failing = True
            if getattr(error, "is_temporary", False) is True:
                return bool(runs)  # the sink of the journal reports the outage
            self._outages.report_error("The work of other processes could not be read", error=error)
        finally:
            self._finished = number
        return bool(runs)

    def _poll(self, runs: list[str]) -> None:
        found = self._source.contributions(runs)
        waiting = self._store.merge_contributions(found)
        dropped, self._dropped = (
            self._store.dropped_contributions - self._dropped,
            (self._store.dropped_contributions),
        )
        if dropped > 0:
            self._on_dropped(dropped)
        now = self._clock()
        if now - self._gone_checked_at >= GONE_INTERVAL_S:
            self._gone_checked_at = now
            contributors = self._store.list_contributors()
            gone = self._source.find_gone_instances(contributors) if contributors else ()
            if gone:
                # Why again: a process writes its last work before it ends.
                self._store.merge_contributions(self._source.contributions(runs))
                self._store.end_contributors(gone)
        # Why a poll later: the journal of this process has the levels by then.
        if self._merged:
            self._source.drop_contributions(self._merged)
        self._merged = [each for each in found if each.key not in waiting]
