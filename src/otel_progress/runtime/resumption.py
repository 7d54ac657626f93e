"""Starts of operations that continue an earlier run, and waits for the journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otel_progress.diagnostics import log_warning, report_internal_error, report_unavailable
from otel_progress.errors import JournalError, OperationRunningError, UnavailableError
from otel_progress.journal.claims import ClaimBusyError
from otel_progress.resumption import ResumableStorage, ResumedWork

if TYPE_CHECKING:
    from otel_progress.live.node import Node
    from otel_progress.live.store import LiveStore
    from otel_progress.runtime.sink_worker import SinkWorker
    from otel_progress.runtime.ticker import Ticker


COMMIT_BEFORE_S: Final = 5.0
"""Time that a start waits until the ends of this process are in the journal, in seconds."""


MAX_JOURNAL_WAIT_S: Final = 5.0
"""Time that a start waits for a journal that fails temporarily, in seconds."""


MAX_OWNER_WAIT_S: Final = 20.0
"""Time that a start waits until a process of another host counts as dead, in seconds. Beyond it the
start is rejected. A start that another process makes at the same time is awaited as long.
"""


HEARTBEAT_JITTER_S: Final = 0.5
"""Difference of two readings of one heartbeat, in seconds, because clocks are converted. A larger
one is a new heartbeat.
"""


RETRY_S: Final = 0.1
"""Time between two attempts to claim a run, in seconds."""


class JournalResumer:
    """Continues runs that are in the journal, and waits for the sink of the journal.

    Without a journal, ``storage`` is None. ``is_strict`` is the setting ``strict``.
    """

    def __init__(
        self,
        store: LiveStore,
        ticker: Ticker,
        storage: ResumableStorage | None,
        get_worker: Callable[[], SinkWorker | None],
        *,
        is_strict: bool,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ticker = ticker
        self._storage = storage
        self._get_worker = get_worker
        self._is_strict = is_strict
        self._sleep = sleep
        self._clock = clock
        self._has_warned = False

    def resume(self, node: Node) -> str | None:
        """Continue the newest run of an operation as the pending ``node``.

        Return another id if the journal cannot be read. Raises OperationRunningError if a live
        process runs the operation, and UnavailableError in strict mode if the journal fails.
        """
        operation_id = node.operation.id
        if self._store.is_running(operation_id):
            msg = (
                f"Invalid start of operation {operation_id!r} with resume=True: expected an operation that "
                "does not run, but this process runs it. Wait for its end, or use another id."
            )
            raise OperationRunningError(msg)
        if self._storage is None:
            if self._is_first_warning():
                log_warning(
                    "Operation %r with resume=True starts from the beginning, because there is no journal. "
                    "Set the store, such as sqlite:",
                    operation_id,
                )
            self._store.continue_run(node, None)
            return None
        # Why first: the end of the newest run may be one of this process.
        self.commit(COMMIT_BEFORE_S)
        try:
            work = self._claim(self._storage, node)
        except JournalError as error:
            if self._is_strict:
                msg = f"Operation {operation_id!r} cannot be resumed: {error}"
                raise UnavailableError(msg) from error
            other_id = f"{operation_id}~{node.operation.run[:8]}"
            text = f"Operation {operation_id!r} cannot be resumed, and starts again as {other_id!r}"
            if self._is_first_warning():
                report_unavailable("journal", text, error)
            else:
                report_internal_error("journal", text, error=error)
            # Why another id: the next session has to find the run with the earlier work.
            return other_id
        self._store.continue_run(node, work)
        return None

    def _is_first_warning(self) -> bool:
        """Return True at the first call, because one warning is enough."""
        is_first, self._has_warned = not self._has_warned, True
        return is_first

    def _claim(self, storage: ResumableStorage, node: Node) -> ResumedWork | None:
        """Claim the run.

        Wait for a process that cannot be checked, and for a busy journal.
        """
        started = self._clock()
        busy_since: float | None = None
        first: OperationRunningError | None = None
        while True:
            try:
                return storage.claim_run(self._store.build_claim(node))
            except OperationRunningError as error:
                # Why: a process of another host is dead only after it sent no heartbeat for long.
                first, busy_since = first or error, None
                is_alive = error.heartbeat_at - first.heartbeat_at > HEARTBEAT_JITTER_S
                retry_after_s = error.retry_after_s
                is_late = self._clock() - started > MAX_OWNER_WAIT_S
                if retry_after_s is None or retry_after_s > MAX_OWNER_WAIT_S or is_alive or is_late:
                    raise
                self._sleep(min(retry_after_s, 5 * RETRY_S) + RETRY_S)
            except JournalError as error:
                # Why not since the start: several processes may have waited for the same dead one.
                busy_since = self._clock() if busy_since is None else busy_since
                # Why longer: the lease of a process that was killed has to expire.
                limit_s = MAX_OWNER_WAIT_S if isinstance(error, ClaimBusyError) else MAX_JOURNAL_WAIT_S
                if not error.is_temporary or self._clock() - busy_since > limit_s:
                    raise
                self._sleep(RETRY_S)

    def commit(self, timeout_s: float) -> bool:
        """Wait until all changes so far are in the journal. Return False if they are not."""
        worker = self._get_worker()
        if worker is None:
            return False
        deadline = time.monotonic() + timeout_s
        try:
            is_complete = self._ticker.drain(timeout_s)
            return worker.flush(max(0.0, deadline - time.monotonic())) and is_complete
        except Exception as error:
            report_internal_error("journal", "A change could not be written at once", error=error)
            return False
