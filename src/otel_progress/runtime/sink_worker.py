"""Worker of a sink: a thread and a bounded queue.

A slow sink delays no other sink. Waiting change sets are merged. The newest snapshot of a level
replaces earlier ones. A change set that the sink rejected is merged into the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from otel_progress import batches
from otel_progress.batches import BatchDeclaration
from otel_progress.diagnostics import OutageLog, report_internal_error
from otel_progress.locking import CallerLock
from otel_progress.model import LevelSnapshot, Number
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet, Sink
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse, TrajectoryEntry
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.semconv import SinkName, get_sink_place

MAX_SNAPSHOTS: Final = 200_000
"""Maximum number of levels that wait for one sink. Beyond it the oldest are dropped and counted."""


MAX_EVENTS: Final = 50_000
"""Maximum number of events that wait for one sink. Beyond it the oldest are dropped and counted."""


MAX_LOGS: Final = 20_000
"""Maximum number of log records that wait for one sink. Beyond it the oldest are dropped."""


MAX_BATCHES: Final = 10_000
"""Maximum number of batch declarations that wait for one sink. Beyond it the oldest are dropped."""


MAX_TRAJECTORIES: Final = 10_000
"""Maximum number of trajectories that wait for one sink. Beyond it the oldest are dropped."""


MAX_PREVIEWS: Final = 10_000
"""Maximum number of previews that wait for one sink. Beyond it the oldest are dropped."""


RETRY_S: Final = 0.05
"""Time between two attempts of a flush after a temporary error, in seconds."""


@dataclass(frozen=True, slots=True)
class PendingLimits:
    """Maximum numbers of records that wait for one sink."""

    snapshots: int = MAX_SNAPSHOTS
    events: int = MAX_EVENTS
    logs: int = MAX_LOGS
    batches: int = MAX_BATCHES
    trajectories: int = MAX_TRAJECTORIES
    previews: int = MAX_PREVIEWS


class PendingChanges:
    """Change sets that wait for one sink, merged into one."""

    def __init__(self, limits: PendingLimits | None = None) -> None:
        self._limits = limits or PendingLimits()
        self.clear()

    def clear(self) -> None:
        """Remove everything."""
        self.latest: ChangeSet | None = None
        self._snapshots: dict[tuple[str, str], LevelSnapshot] = {}
        self._events: list[Event] = []
        self._evicted: dict[tuple[str, str], None] = {}
        self._items: dict[tuple[str, str, str], Number] = {}
        self._logs: list[LogRecord] = []
        self._sample: ResourceSample | None = None
        self._resources: dict[str, ResourceUse] = {}
        self._batches: dict[str, BatchDeclaration] = {}
        self._trajectories: list[TrajectoryEntry] = []
        self._previews: list[Preview] = []

    def add(self, change_set: ChangeSet) -> int:
        """Merge a change set. Return the number of records dropped because of the limits."""
        if self.latest is None or change_set.clock >= self.latest.clock:
            self.latest = change_set
        for key in change_set.evicted:
            self._snapshots.pop(key, None)
            self._evicted[key] = None
        for snapshot in change_set.snapshots:
            key = (snapshot.info.run, snapshot.info.path)
            known = self._snapshots.get(key)
            if known is None or known.sequence < snapshot.sequence:
                self._snapshots[key] = snapshot
                self._evicted.pop(key, None)
        self._events.extend(change_set.events)
        for label, units in change_set.items.items():
            self._items[label] = self._items.get(label, 0) + units
        self._logs.extend(change_set.logs)
        self._trajectories.extend(change_set.trajectories)
        self._previews.extend(change_set.previews)
        self._merge_resources(change_set)
        for declaration in change_set.batches:
            declared = self._batches.get(declaration.id)
            self._batches[declaration.id] = (
                declaration if declared is None else batches.merge(declared, declaration)
            )
        return self._drop_surplus()

    def _merge_resources(self, change_set: ChangeSet) -> None:
        """Store the newest sample, and the newest resource usage of each run."""
        sample = change_set.sample
        if sample is not None and (self._sample is None or sample.clock >= self._sample.clock):
            self._sample = sample
        for run, use in change_set.resources.items():
            known = self._resources.get(run)
            if known is None or known.samples <= use.samples:
                self._resources[run] = use

    def _drop_surplus(self) -> int:
        limits = self._limits
        # Evictions and resource usage are not counted: they only complete other records.
        _drop_oldest_keys(self._evicted, limits.snapshots)
        _drop_oldest_keys(self._resources, limits.snapshots)
        return (
            _drop_oldest_keys(self._snapshots, limits.snapshots)
            + _drop_oldest(self._events, limits.events)
            + _drop_oldest(self._logs, limits.logs)
            + _drop_oldest_keys(self._batches, limits.batches)
            + _drop_oldest(self._trajectories, limits.trajectories)
            + _drop_oldest(self._previews, limits.previews)
        )

    def drain(self) -> ChangeSet | None:
        """Remove and return everything as one change set, parents before children."""
        if self.latest is None:
            return None
        snapshots = sorted(self._snapshots.values(), key=lambda snapshot: snapshot.info.depth)
        change_set = replace(
            self.latest,
            snapshots=snapshots,
            events=self._events,
            evicted=tuple(self._evicted),
            items=self._items,
            logs=self._logs,
            sample=self._sample,
            resources=self._resources,
            batches=tuple(self._batches.values()),
            trajectories=self._trajectories,
            previews=self._previews,
        )
        self.clear()
        return change_set


def _drop_oldest(records: list[Any], max_number: int) -> int:
    surplus = max(0, len(records) - max_number)
    del records[:surplus]
    return surplus


def _drop_oldest_keys(records: dict[Any, Any], max_number: int) -> int:
    surplus = max(0, len(records) - max_number)
    for key in list(islice(records, surplus)):
        del records[key]
    return surplus


class SinkWorker:
    """Queue and thread of one sink. :meth:`submit` never waits for the sink.

    ``on_error(name)`` is called for each failed write, ``on_dropped(name, count)`` for dropped
    records, ``on_recovered()`` for the first successful write after failed ones, and
    ``on_written(change_set)`` for each successful write. ``on_lost()`` is called if the sink lost
    changes that it had stored before.
    """

    def __init__(
        self,
        name: SinkName,
        sink: Sink,
        *,
        every_tick: bool = False,
        on_error: Callable[[SinkName], None] = lambda name: None,
        on_dropped: Callable[[SinkName, int], None] = lambda name, count: None,
        on_recovered: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        on_written: Callable[[ChangeSet], None] = lambda change_set: None,
        limits: PendingLimits | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self.name = name
        self.sink = sink
        self.every_tick = every_tick
        self.dropped = 0
        """Number of records that the sink itself dropped, as last reported to ``on_dropped``."""
        self.seconds = 0.0
        """Processor time of the last write, without the time it waited for a disk or network."""
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._on_recovered = on_recovered
        self._on_lost = on_lost
        self._outages = OutageLog(get_sink_place(name))
        self._on_written = on_written
        self._limits = limits
        self._retry_s = retry_s
        self._is_error_temporary = False
        self.restart()

    def restart(self) -> None:
        """Discard the queue and the thread, as a forked child does."""
        self._pending = PendingChanges(self._limits)
        self._lock = CallerLock()
        self._changed = threading.Condition(self._lock.lock)
        self._thread: threading.Thread | None = None
        self._is_writing = False
        self._is_closing = False
        self._has_failed = False
        self._rejected: ChangeSet | None = None
        self._is_rejected_temporarily = False

    def submit(self, change_set: ChangeSet) -> None:
        """Add a change set to the queue."""
        dropped: list[int] = []
        self._lock.run(self._add, change_set, dropped)
        if any(dropped):
            self._on_dropped(self.name, sum(dropped))

    def _add(self, change_set: ChangeSet, dropped: list[int]) -> None:
        if self._is_closing:
            return
        dropped.append(self._requeue_rejected() + self._pending.add(change_set))
        if self._thread is None:
            self._start_thread()
        self._changed.notify_all()

    def _start_thread(self) -> None:
        """Start the thread.

        If that fails, the next submit tries again, and a flush writes without a thread.
        """
        self._thread = start_daemon_thread(
            self._run,
            self.name,
            get_sink_place(self.name),
            f"The thread of the sink {self.name} could not be started",
        )

    def _requeue_rejected(self) -> int:
        """Put a rejected change set in front of the queue.

        It is written again with the next change set instead of in a loop.
        """
        rejected, self._rejected = self._rejected, None
        if rejected is None:
            return 0
        newer = self._pending.drain()
        self._pending = PendingChanges(self._limits)
        return self._pending.add(rejected) + (0 if newer is None else self._pending.add(newer))

    @property
    def has_backlog(self) -> bool:
        """True while a change set waits, is written, or was rejected."""
        return self._is_writing or self._rejected is not None or self._pending.latest is not None

    def flush(self, timeout: float) -> bool:
        """Wait until everything submitted so far is written.

        A rejected change set is written again. Return False after an error or ``timeout``
        seconds. A temporary error is retried until then.
        """
        deadline = time.monotonic() + timeout
        while not self._flush_once(max(0.0, deadline - time.monotonic())):
            with self._changed:
                is_retried = (
                    self._is_rejected_temporarily and not self._is_closing and time.monotonic() < deadline
                )
            if not is_retried:
                return False
            time.sleep(self._retry_s)
        return True

    def _flush_once(self, timeout: float) -> bool:
        # Why: a signal handler that flushes must not wait for its own thread.
        if self._lock.is_interrupting():
            return False
        with self._changed:
            if self._rejected is not None and not self._is_closing:
                self._requeue_rejected()
                self._changed.notify_all()
            has_no_thread = self._thread is None and self._pending.latest is not None
        # Why: no thread could be started, and waiting for the sink is better than losing the end.
        if has_no_thread:
            self._write_pending()
        with self._changed:
            is_written = self._changed.wait_for(
                lambda: self._pending.latest is None and not self._is_writing, timeout
            )
            return is_written and not self._has_failed

    def close(self, timeout: float) -> bool:
        """Flush, stop the thread and close the sink. Return False if that is incomplete."""
        is_flushed = self.flush(timeout)
        with self._changed:
            self._is_closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout)
            # Why: the sink hangs in a write, so its close() may hang as well.
            if thread.is_alive():
                return False
        try:
            self.sink.close()
        except Exception as error:
            report_internal_error(
                get_sink_place(self.name), f"The sink {self.name} could not be closed", error=error
            )
        return is_flushed

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending.latest is not None or self._is_closing)
                if self._is_closing and self._pending.latest is None:
                    return
            self._write_pending()

    def _write_pending(self) -> None:
        with self._changed:
            change_set = self._pending.drain()
            self._is_writing = True
        has_failed = change_set is not None and not self._write(change_set)
        if change_set is not None and not has_failed:
            self._report_written(change_set)
        with self._changed:
            self._is_writing = False
            self._rejected = change_set if has_failed else None
            self._is_rejected_temporarily = has_failed and self._is_error_temporary
            has_recovered = self._has_failed and not has_failed
            self._has_failed = has_failed
            self._changed.notify_all()
        if has_recovered:
            self._on_recovered()

    def _report_written(self, change_set: ChangeSet) -> None:
        try:
            self._on_written(change_set)
        except Exception as error:
            report_internal_error(
                get_sink_place(self.name),
                f"Requests could not be read from the sink {self.name}",
                error=error,
            )

    def _write(self, change_set: ChangeSet) -> bool:
        started = time.thread_time()
        try:
            self.sink.write(change_set)
            self._report_drops()
        except Exception as error:
            self._is_error_temporary = getattr(error, "is_temporary", False) is True
            self._on_error(self.name)
            self._outages.report_error(
                f"The sink {self.name} could not write progress, and the work continues",
                error=error,
            )
            if getattr(error, "has_lost_changes", False) is True:
                self._on_lost()
            return False
        finally:
            self.seconds = time.thread_time() - started
        self._outages.report_success()
        return True

    def _report_drops(self) -> None:
        """Report records that the sink dropped, such as a journal at its size limit."""
        dropped = getattr(self.sink, "dropped", 0)
        if isinstance(dropped, int) and dropped > self.dropped:
            self._on_dropped(self.name, dropped - self.dropped)
            self.dropped = dropped
