"""Worker of a sink: a thread and a bounded queue.

A slow sink delays no other sink. Waiting change sets are merged. The newest snapshot of a level
replaces earlier ones. A change set that the sink rejected is merged into the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from otel_progress import batches
from otel_progress.batches import BatchDeclaration
from otel_progress.diagnostics import OutageLog, report_internal_error
from otel_progress.ends import DECODE_ERRORS, decode_end, encode_end, is_end
from otel_progress.live.ends import EndOverflow
from otel_progress.locking import CallerLock
from otel_progress.model import LevelSnapshot, Number
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet, Sink
from otel_progress.records import (
    CancelRequest,
    Contribution,
    LogRecord,
    Preview,
    ResourceSample,
    ResourceUse,
    TrajectoryEntry,
)
from otel_progress.resumption import CompletedKey
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.semconv import SinkName, get_sink_place

MAX_SNAPSHOTS: Final = 200_000
"""Maximum number of levels that wait for one sink. Beyond it the oldest are dropped and counted."""


MAX_ENDS: Final = 20_000
"""Maximum number of ended operations that wait for one sink. Beyond it the oldest are moved to a
file, or dropped and counted without one.
"""


MAX_UNSPILLED_ENDS: Final = 2 * MAX_ENDS
"""Maximum number of ended operations that wait when the file cannot be written. Beyond it the
oldest are dropped and counted.
"""


MAX_ENDS_PER_WRITE: Final = 2_000
"""Ended operations per write. Why: other records of the sink do not wait for all ends."""


SPILL_S: Final = 20e-6
"""Time to move one ended operation to the file, in seconds. A close reserves it."""


MIN_JOIN_S: Final = 0.1
"""Time that a close waits for the thread after its time limit, in seconds."""


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


MAX_CANCEL_REQUESTS: Final = 10_000
"""Maximum number of cancel requests that wait for one sink. Beyond it the oldest are dropped."""


MAX_COMPLETED_KEYS: Final = 200_000
"""Maximum number of completed keys that wait for one sink. Beyond it the oldest are dropped. Their
items run again when the operation is resumed.
"""
MAX_CONTRIBUTIONS: Final = 100_000
"""Maximum number of contributions that wait for one sink. Beyond it the oldest are dropped."""


MAX_RELAYED: Final = 20_000
"""Maximum number of relayed levels that wait for one sink. Beyond it the oldest are dropped."""


RETRY_S: Final = 0.05
"""Time between two attempts of a flush after a temporary error, in seconds."""


@dataclass(frozen=True, slots=True)
class PendingLimits:
    """Maximum numbers of records that wait for one sink."""

    snapshots: int = MAX_SNAPSHOTS
    ends: int = MAX_ENDS
    unspilled_ends: int = MAX_UNSPILLED_ENDS
    ends_per_write: int = MAX_ENDS_PER_WRITE
    events: int = MAX_EVENTS
    logs: int = MAX_LOGS
    batches: int = MAX_BATCHES
    trajectories: int = MAX_TRAJECTORIES
    previews: int = MAX_PREVIEWS
    cancel_requests: int = MAX_CANCEL_REQUESTS
    completed_keys: int = MAX_COMPLETED_KEYS
    contributions: int = MAX_CONTRIBUTIONS
    relayed: int = MAX_RELAYED


class PendingChanges:
    """Change sets that wait for one sink, merged into one.

    Ended operations wait separately from other levels, because there may be many of them.
    """

    def __init__(self, limits: PendingLimits | None = None) -> None:
        self._limits = limits or PendingLimits()
        self._ends: dict[str, LevelSnapshot] = {}
        self._clear()

    def _clear(self) -> None:
        """Remove everything except the ended operations."""
        self.latest: ChangeSet | None = None
        self._snapshots: dict[tuple[str, str], LevelSnapshot] = {}
        self._events: list[Event] = []
        self._evicted: dict[tuple[str, str], None] = {}
        self._items: dict[tuple[str, str, str], Number] = {}
        self._logs: list[LogRecord] = []
        self._sample: ResourceSample | None = None
        self._resources: dict[str, ResourceUse] = {}
        self._batches: dict[str, BatchDeclaration] = {}
        self._closed_batches: list[BatchDeclaration] = []
        """Declarations of earlier runs of batches, not merged with those of later runs."""
        self._trajectories: list[TrajectoryEntry] = []
        self._previews: list[Preview] = []
        self._cancel_requests: list[CancelRequest] = []
        self._completed_keys: list[CompletedKey] = []
        self._checkpoints: dict[str, str] = {}
        self._contributions: dict[tuple[str, str, str], Contribution] = {}
        self._relayed: dict[tuple[str, str], LevelSnapshot] = {}

    def add(self, change_set: ChangeSet) -> int:
        """Merge a change set. Return the number of records dropped because of the limits."""
        if self.latest is None or change_set.clock >= self.latest.clock:
            self.latest = change_set
        for key in change_set.evicted:
            self._snapshots.pop(key, None)
            self._evicted[key] = None
        for snapshot in change_set.snapshots:
            self._add_snapshot(snapshot)
        self._events.extend(change_set.events)
        for label, units in change_set.items.items():
            self._items[label] = self._items.get(label, 0) + units
        self._logs.extend(change_set.logs)
        self._trajectories.extend(change_set.trajectories)
        self._previews.extend(change_set.previews)
        self._cancel_requests.extend(change_set.cancel_requests)
        self._completed_keys.extend(change_set.completed_keys)
        self._checkpoints.update(change_set.checkpoints)
        for contribution in change_set.contributions:
            known = self._contributions.get(contribution.key)
            if known is None or known.level.sequence < contribution.level.sequence:
                self._contributions[contribution.key] = contribution
        for snapshot in change_set.relayed:
            stored = self._relayed.get((snapshot.info.run, snapshot.info.path))
            if stored is None or stored.sequence < snapshot.sequence:
                self._relayed[snapshot.info.run, snapshot.info.path] = snapshot
        self._merge_resources(change_set)
        for declaration in change_set.batches:
            declared = self._batches.get(declaration.id)
            if declared is not None and batches.starts_new_run(declared, declaration):
                self._closed_batches.append(declared)
                declared = None
            self._batches[declaration.id] = (
                declaration if declared is None else batches.merge(declared, declaration)
            )
        return self._drop_surplus()

    def _add_snapshot(self, snapshot: LevelSnapshot) -> None:
        key = (snapshot.info.run, snapshot.info.path)
        if not key[1]:
            end = self._ends.get(key[0])
            if end is not None and end.sequence >= snapshot.sequence:
                return
        known = self._snapshots.get(key)
        if known is not None and known.sequence >= snapshot.sequence:
            return
        if is_end(snapshot):
            self._snapshots.pop(key, None)
            self._ends[key[0]] = snapshot
        else:
            self._snapshots[key] = snapshot
        self._evicted.pop(key, None)

    @property
    def ends_count(self) -> int:
        """Number of ended operations that wait."""
        return len(self._ends)

    def take_surplus_ends(self) -> list[LevelSnapshot]:
        """Remove and return the ended operations beyond the limit, the oldest first."""
        return self._take_ends(len(self._ends) - self._limits.ends)

    def take_all_ends(self) -> list[LevelSnapshot]:
        """Remove and return all ended operations."""
        return self._take_ends(len(self._ends))

    def return_ends(self, ends: Iterable[LevelSnapshot]) -> int:
        """Put ended operations back in front. Return the number of dropped ones."""
        newer, self._ends = self._ends, {snapshot.info.run: snapshot for snapshot in ends}
        self._ends.update(newer)
        return _drop_oldest_keys(self._ends, self._limits.unspilled_ends)

    def _take_ends(self, count: int) -> list[LevelSnapshot]:
        return [self._ends.pop(run) for run in list(islice(self._ends, max(0, count)))]

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
        _drop_oldest_keys(self._checkpoints, limits.cancel_requests)
        return (
            _drop_oldest_keys(self._snapshots, limits.snapshots)
            + _drop_oldest(self._events, limits.events)
            + _drop_oldest(self._logs, limits.logs)
            + _drop_oldest_keys(self._batches, limits.batches)
            + _drop_oldest(self._closed_batches, limits.batches)
            + _drop_oldest(self._trajectories, limits.trajectories)
            + _drop_oldest(self._previews, limits.previews)
            + _drop_oldest(self._cancel_requests, limits.cancel_requests)
            + _drop_oldest(self._completed_keys, limits.completed_keys)
            + _drop_oldest_keys(self._contributions, limits.contributions)
            + _drop_oldest_keys(self._relayed, limits.relayed)
        )

    def drain(self, *, everything: bool = False) -> ChangeSet | None:
        """Remove and return everything as one change set, parents before children.

        If many operations have ended, some of them stay for the next change set, unless
        ``everything`` is returned.
        """
        latest = self.latest
        if latest is None:
            return None
        ends = self.take_all_ends() if everything else self._take_ends(self._limits.ends_per_write)
        snapshots = ends + sorted(self._snapshots.values(), key=lambda snapshot: snapshot.info.depth)
        change_set = replace(
            latest,
            snapshots=snapshots,
            events=self._events,
            evicted=tuple(self._evicted),
            items=self._items,
            logs=self._logs,
            sample=self._sample,
            resources=self._resources,
            batches=(*self._closed_batches, *self._batches.values()),
            trajectories=self._trajectories,
            previews=self._previews,
            cancel_requests=self._cancel_requests,
            completed_keys=self._completed_keys,
            checkpoints=self._checkpoints,
            contributions=sorted(self._contributions.values(), key=lambda each: each.level.info.depth),
            relayed=sorted(self._relayed.values(), key=lambda snapshot: snapshot.info.depth),
        )
        self._clear()
        if self._ends:
            self.latest = ChangeSet(latest.instance, latest.at, latest.clock)
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
    ``on_written(change_set)`` for each successful write. ``complete`` returns the change set to
    write, on the thread of the sink. Ended operations that do not fit into the memory wait in the
    file ``overflow``, or are dropped and counted without one. ``on_lost()``
    is called if the sink lost changes that it had stored before.
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
        complete: Callable[[ChangeSet], ChangeSet] = lambda change_set: change_set,
        limits: PendingLimits | None = None,
        retry_s: float = RETRY_S,
        overflow: EndOverflow | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.every_tick = every_tick
        self.dropped = 0
        """Number of records that the sink itself dropped, as last reported to ``on_dropped``."""
        self.seconds = 0.0
        """Processor time of the last write, without the time it waited for a disk or network.

        It is 0 after the first write, which imports modules and opens connections.
        """
        self._is_first_write = True
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._on_recovered = on_recovered
        self._on_lost = on_lost
        self._outages = OutageLog(get_sink_place(name))
        self._on_written = on_written
        self._complete = complete
        self._limits = limits or PendingLimits()
        self._overflow = overflow
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
        self._writing: ChangeSet | None = None
        self._is_due = False
        """True when something was submitted, or flushed after an error, since the last write."""
        self._attempts = 0
        self._latest: ChangeSet | None = None
        self.dropped_ends = 0
        """Number of ended operations that were dropped."""

    def submit(self, change_set: ChangeSet) -> None:
        """Add a change set to the queue."""
        if self._lock.is_interrupting():
            self._lock.defer(self.submit, change_set)
            return
        dropped: list[int] = []
        surplus: list[LevelSnapshot] = []
        self._lock.run(self._add, change_set, dropped, surplus)
        if surplus:
            self._spill(surplus)
        if any(dropped):
            self._on_dropped(self.name, sum(dropped))

    def _add(self, change_set: ChangeSet, dropped: list[int], surplus: list[LevelSnapshot]) -> None:
        if self._is_closing:
            surplus += [end for end in change_set.snapshots if is_end(end)]
            return
        self._latest = change_set
        dropped.append(self._requeue_rejected() + self._pending.add(change_set))
        self._is_due = True
        surplus += self._pending.take_surplus_ends()
        if self._thread is None:
            self._start_thread()
        self._changed.notify_all()

    def _spill(self, ends: list[LevelSnapshot]) -> None:
        """Move ended operations to the file. Drop and count those that do not fit."""
        stored = 0 if self._overflow is None else self._overflow.append([encode_end(end) for end in ends])
        dropped = len(ends) - stored
        if dropped and self._overflow is not None and not self._is_closing:
            with self._lock.lock:
                dropped = self._pending.return_ends(ends[stored:])
        self._count_dropped_ends(dropped)

    def store_end(self, record: bytes) -> bool:
        """Store an ended operation in the file, in addition to the queue.

        The sink may write it twice, which changes nothing. Return False without a file.
        """
        return self._overflow is not None and self._overflow.append([record]) == 1

    def store_unwritten_ends(self) -> None:
        """Move the ended operations that wait to the file, if there is one."""
        if self._overflow is None or self._lock.is_interrupting():
            return
        with self._lock.lock:
            ends = self._take_unwritten_ends()
        if ends:
            self._spill(ends)

    def _count_dropped_ends(self, count: int) -> None:
        if count:
            self.dropped_ends += count
            self._on_dropped(self.name, count)

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
        newer = self._pending.drain(everything=True)
        self._pending = PendingChanges(self._limits)
        return self._pending.add(rejected) + (0 if newer is None else self._pending.add(newer))

    @property
    def has_backlog(self) -> bool:
        """True while a change set waits, is written, or was rejected."""
        # Why in this order: the thread may take what waits, or reject it, between two checks.
        return self._has_waiting or self._is_writing or self._has_waiting

    @property
    def has_file(self) -> bool:
        """True if ended operations can wait in a file."""
        return self._overflow is not None

    @property
    def has_failed(self) -> bool:
        """True while the last write is one that the sink rejected."""
        return self._has_failed

    @property
    def _has_waiting(self) -> bool:
        return (
            self._pending.latest is not None
            or self._rejected is not None
            or (self._overflow is not None and len(self._overflow) > 0)
        )

    def flush(self, timeout: float) -> bool:
        """Wait until everything submitted so far is written.

        A rejected change set is written again. Return False after an error or ``timeout``
        seconds. A temporary error is retried until then.
        """
        deadline = time.monotonic() + timeout
        while not self._flush_once(max(0.0, deadline - time.monotonic())):
            with self._lock.lock:
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
        with self._lock.lock:
            if not self._is_closing:
                self._is_due = self._has_waiting
                self._changed.notify_all()
            attempts = self._attempts
            has_no_thread = self._thread is None
        # Why: no thread could be started, and waiting for the sink is better than losing the end.
        if has_no_thread:
            deadline = time.monotonic() + timeout
            while self._has_waiting and self._write_pending() and time.monotonic() < deadline:
                pass
        is_written = self._lock.wait_for(
            self._changed,
            lambda: (
                not self._is_writing
                and (not self._has_waiting or (self._has_failed and self._attempts > attempts))
            ),
            timeout,
        )
        return is_written and not self._has_failed

    def close(self, timeout: float) -> bool:
        """Flush, stop the thread and close the sink. Return False if that is incomplete.

        Ended operations that are not written by then wait in the file, if there is one.
        """
        deadline = time.monotonic() + timeout
        reserved_s = 0.0 if self._overflow is None else min(0.5 * timeout, self._pending.ends_count * SPILL_S)
        is_flushed = self.flush(timeout - reserved_s)
        with self._lock.lock:
            self._is_closing = True
            thread = self._thread
            rest = [] if is_flushed else self._take_unwritten_ends()
            self._changed.notify_all()
        if rest:
            self._spill(rest)
        if thread is not None:
            thread.join(max(MIN_JOIN_S, deadline - time.monotonic()))
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

    def _take_unwritten_ends(self) -> list[LevelSnapshot]:
        """Return the ended operations that wait, were rejected, or are being written.

        The current write may never end. If it succeeds, its ends are stored twice, which changes
        nothing.
        """
        if self._overflow is None:
            return []
        change_sets = [each for each in (self._writing, self._rejected) if each is not None]
        ends = [end for each in change_sets for end in each.snapshots if is_end(end)]
        return ends + self._pending.take_all_ends()

    def _run(self) -> None:
        while True:
            with self._lock.lock:
                self._changed.wait_for(self._has_work)
                if self._is_closing and (self._has_failed or self._pending.latest is None):
                    return
            self._write_pending()

    def _has_work(self) -> bool:
        # Why: after an error, the next attempt waits for a change set or a flush.
        return self._is_closing or ((self._is_due or not self._has_failed) and self._has_waiting)

    def _write_pending(self) -> bool:
        """Write what waits, and some ends of the file. Return False after an error."""
        with self._lock.lock:
            self._is_due = False
            # Why first: has_backlog reads it without the lock.
            self._is_writing = True
            dropped = self._requeue_rejected()
            has_room = self._pending.ends_count < self._limits.ends_per_write and not self._is_closing
            change_set = self._pending.drain()
            self._writing = change_set
        spilled = self._read_spilled() if has_room else []
        written = self._add_spilled(change_set, spilled)
        has_failed = written is not None and not self._write(written)
        if written is not None and not has_failed:
            self._report_written(written)
            if spilled and self._overflow is not None:
                self._overflow.remove_read()
        with self._lock.lock:
            self._attempts += 1
            self._writing = None
            # Why without the spilled ones: they are still in the file.
            self._rejected = change_set if has_failed else None
            self._is_rejected_temporarily = has_failed and self._is_error_temporary
            has_recovered = self._has_failed and not has_failed
            self._has_failed = has_failed
            # Why last: has_backlog reads it without the lock.
            self._is_writing = False
            self._changed.notify_all()
        if has_recovered:
            self._on_recovered()
        if dropped:
            self._on_dropped(self.name, dropped)
        return not has_failed

    def _read_spilled(self) -> list[LevelSnapshot]:
        overflow = self._overflow
        if overflow is None or not len(overflow):
            return []
        snapshots = []
        lost = overflow.lost
        for record in overflow.read(self._limits.ends_per_write):
            try:
                snapshots.append(decode_end(record))
            except DECODE_ERRORS as error:
                report_internal_error(
                    get_sink_place(self.name), "The record of an ended operation is invalid", error=error
                )
        self._count_dropped_ends(overflow.lost - lost)
        if not snapshots:
            overflow.remove_read()
        return snapshots

    def _add_spilled(self, change_set: ChangeSet | None, spilled: list[LevelSnapshot]) -> ChangeSet | None:
        """Return the change set with the ended operations from the file."""
        if not spilled:
            return change_set
        latest = change_set or self._latest
        if latest is None:
            return None
        if change_set is None:
            return ChangeSet(latest.instance, latest.at, latest.clock, snapshots=spilled)
        return replace(change_set, snapshots=[*spilled, *change_set.snapshots])

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
            self.sink.write(self._complete(change_set))
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
            self.seconds = 0.0 if self._is_first_write else time.thread_time() - started
            self._is_first_write = False
        self._outages.report_success()
        if getattr(self.sink, "needs_resend", False) is True:
            # Why the attribute: the write itself has succeeded.
            self.sink.needs_resend = False  # type: ignore[attr-defined]
            self._on_lost()
        return True

    def _report_drops(self) -> None:
        """Report records that the sink dropped, such as a journal at its size limit."""
        dropped = getattr(self.sink, "dropped", 0)
        if isinstance(dropped, int) and dropped > self.dropped:
            self._on_dropped(self.name, dropped - self.dropped)
            self.dropped = dropped
