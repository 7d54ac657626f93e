"""Protocols of sinks, readers and controllers, and the data that they exchange.

A Sink receives change sets, and a Reader answers queries.

The live store is a Reader, an exporter is a Sink, and a journal is both. Every view accepts any
Reader. So the same view works in the process of the work, in another process, and on another host.

A Reader method has one argument besides the operation id: a frozen query object. An omitted query
selects everything within its default limit. Query objects validate themselves: a negative limit
becomes 0, which selects nothing, and numbers are limited to what a signed 64-bit integer can hold.
Users pass keyword arguments to a ReaderFacade instead, which builds the query objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from otel_progress.batches import BatchCursor, BatchDeclaration
from otel_progress.model import Instance, LevelSnapshot, Number, Outcome
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.records import (
    MAX_TRAJECTORIES_PER_KEY,
    CancelRequest,
    Contribution,
    LogRecord,
    Preview,
    ResourceSample,
    ResourceUse,
    TotalsTable,
    TotalsUpdate,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)
from otel_progress.resumption import CompletedKey

MAX_POLLED_CONTRIBUTIONS: Final = 100_000
"""Contributions that one query returns. The others are returned when some of them are dropped."""


MAX_RECORD_NUMBER: Final = 2**63 - 1
"""Largest number and limit in a query. Higher ones are reduced to it for SQLite."""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Changes since the previous tick of one process.

    ``instance`` is the process. ``at`` (Unix seconds) and ``clock`` (monotonic seconds) are the
    time of the tick, which is also the heartbeat of the process.

    - ``snapshots``: changed levels, parents before their children.
    - ``events``: new item events.
    - ``evicted``: (run, path) of levels that were folded into their parents. Their subtrees are
      evicted too. A sink applies evictions before ``snapshots``.
    - ``items``: units of work since the previous change set, by (operation type, level type,
      outcome). It includes levels that are too short-lived for ``snapshots``.
    - ``logs``: new log records.
    - ``sample``: resource use of the process, if it was sampled.
    - ``resources``: aggregated resource use of each active operation, by run.
    - ``batches``: new and changed declarations of batches.
    - ``trajectories``: history entries of operations that completed.
    - ``previews``: previews that were stored or expired.
    - ``cancel_requests``: requests made in this process, for readers in other processes.
    - ``completed_keys``: completed levels and items of operations that can be resumed.
    - ``checkpoints``: new checkpoints of operations as JSON, by run.
    - ``contributions``: work on operations of other processes, for their owners. Parents are before
      their children. Only journals read them.
    - ``totals``: changed totals of the process, if it shares an address of ``/metrics``.
    - ``relayed``: levels of runs that other processes started or will start. Only journals read
      them.
    """

    instance: Instance
    at: float
    clock: float
    snapshots: Sequence[LevelSnapshot] = ()
    events: Sequence[Event] = ()
    evicted: Sequence[tuple[str, str]] = ()
    items: Mapping[tuple[str, str, str], Number] = field(default_factory=dict)
    logs: Sequence[LogRecord] = ()
    sample: ResourceSample | None = None
    resources: Mapping[str, ResourceUse] = field(default_factory=dict)
    batches: Sequence[BatchDeclaration] = ()
    trajectories: Sequence[TrajectoryEntry] = ()
    previews: Sequence[Preview] = ()
    cancel_requests: Sequence[CancelRequest] = ()
    completed_keys: Sequence[CompletedKey] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    contributions: Sequence[Contribution] = ()
    totals: TotalsUpdate | None = None
    relayed: Sequence[LevelSnapshot] = ()


class _Query:
    """Base of query objects. Limits numbers to the range that every Reader accepts."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name in ("limit", "severity", "after", "max_number"):
            number = getattr(self, name, None)
            if isinstance(number, int):
                object.__setattr__(self, name, max(0, min(number, MAX_RECORD_NUMBER)))


@dataclass(frozen=True, slots=True)
class HistoryQuery(_Query):
    """Selects ended operations, the last one first.

    ``operation_type`` selects one type. ``since`` is the earliest end in Unix seconds. ``before``
    continues after a page, and is the (end, run) of its last operation.
    """

    operation_type: str | None = None
    limit: int = 100
    before: tuple[float, str] | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class EventQuery(_Query):
    """Selects the newest ``limit`` matching item events of an operation.

    ``path`` selects a level with its subtree. ``since`` is the earliest time in Unix seconds, and
    ``max_number`` the highest number.
    """

    path: str | None = None
    outcome: Outcome | None = None
    since: float | None = None
    max_number: int | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class LogQuery(_Query):
    """Selects the newest ``limit`` matching log records of an operation.

    ``path`` selects a level with its subtree. ``severity`` is the lowest number of ``logging``, and
    ``since`` the earliest time in Unix seconds. ``after`` selects records with a higher number, and
    ``max_number`` is the highest number.
    """

    path: str | None = None
    severity: int = 0
    since: float | None = None
    after: int = 0
    max_number: int | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ResourceQuery(_Query):
    """Selects the newest ``limit`` matching resource samples of an operation.

    ``since`` is the earliest time in Unix seconds, and ``max_clock`` the latest ``clock``.
    """

    since: float | None = None
    max_clock: float | None = None
    limit: int = 600


@dataclass(frozen=True, slots=True)
class PreviewQuery(_Query):
    """Selects the newest ``limit`` matching previews of an operation.

    ``path`` selects a level with its subtree, and ``max_number`` is the highest number.
    """

    path: str | None = None
    max_number: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class BatchQuery(_Query):
    """Selects batches in their order of listing, behind the cursor ``after`` if given."""

    limit: int = 100
    after: BatchCursor | None = None


@runtime_checkable
class Sink(Protocol):
    """Receives change sets. Its errors are counted and logged, and the work continues.

    The changes of a failed ``write`` are part of the next change set.
    """

    def write(self, change_set: ChangeSet) -> None:
        """Store or send a change set.

        Called from one thread at a time, but never from the thread of the work.
        """

    def close(self) -> None:
        """Write pending data and release all resources. Called once."""


@runtime_checkable
class Reader(Protocol):
    """Answers queries about operations. Lists of operations start with the newest one.

    Several threads may call the methods at once. They raise JournalError if the storage cannot be
    read.
    """

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an operation with its levels, or None."""

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended, cheaper without their levels."""

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations without their levels, the last one first."""

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return the newest matching events of the newest run, oldest first."""

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return the newest matching log records of the newest run, oldest first."""

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return samples that were made during the newest run, oldest first."""

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        """Return the newest matching previews of the newest run, oldest first."""

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the current state of a batch, or None."""

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return batches: unfinished ones first, then the newest first, then by id."""

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield all active operations, then changed ones.

        It yields at most every ``interval`` seconds. An operation that ended is yielded a last
        time. An empty sequence without a change lets the caller check the time. Close the iterator
        to stop the watch.
        """


@runtime_checkable
class Controller(Protocol):
    """Receives requests about operations from outside of their process.

    Several threads may call the methods at once. They raise JournalError if the storage cannot be
    written.
    """

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Request that the active run of an operation stops.

        Return False if no run is active.
        """

    def delete(self, operation_id: str) -> int:
        """Delete the finished runs of an operation, and return their number.

        All their records are deleted too. Abandoned runs are deleted if their process has
        certainly ended. It has if it does not exist any more on this host, or if a process of
        another host sent no heartbeat for ten minutes. Runs that may be active are never deleted.
        """

    def fail_abandoned(self, operation_id: str, reason: str) -> bool:
        """Mark the active run of an operation as failed.

        Its process must have certainly ended. Return False if no run is active or if its process
        may still run. See :meth:`delete`.
        """


@runtime_checkable
class BatchController(Protocol):
    """Receives requests about batches. Like :class:`Controller`."""

    def close_batch(self, batch_id: str) -> bool:
        """Declare that a batch gets no more operations.

        Return False if it is unknown or was closed before.
        """

    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request that all active operations of a batch stop. Return their number."""

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations.

        Return False, and delete nothing, if the batch is unknown or may have a running operation.
        Processes of abandoned operations must have certainly ended, see :meth:`Controller.delete`.
        """


@runtime_checkable
class CancelRequestSource(Protocol):
    """Source of the cancel requests to a process."""

    def cancel_requests(self, instance_id: str) -> Sequence[CancelRequest]:
        """Return the requests to cancel active operations of a process.

        Requests that were returned before are returned again.
        """


@runtime_checkable
class ContributionSource(Protocol):
    """Store of the work that several processes do for one operation.

    Several threads may call the methods at once. They raise JournalError.
    """

    def contributions(self, runs: Sequence[str]) -> Sequence[Contribution]:
        """Return the stored contributions to runs, parents before their children.

        At most ``MAX_POLLED_CONTRIBUTIONS`` are returned. Those that were not dropped are returned
        again.
        """

    def drop_contributions(self, included: Sequence[Contribution]) -> None:
        """Delete contributions that their owner has included.

        Newer ones that replaced them stay.
        """

    def find_gone_instances(self, instances: Sequence[str]) -> Sequence[str]:
        """Return the processes among ``instances`` that have certainly ended."""

    def find_cancel_requests(self, runs: Sequence[str]) -> Sequence[CancelRequest]:
        """Return the requests to cancel active runs of any process."""


class RenameRun(Protocol):
    """Function that renames an active run of this process."""

    def __call__(self, run: str, used_ids: Collection[str]) -> str | None:
        """Give the run an operation id that is not in ``used_ids``, and return it.

        Return None if the run is not active any more. Never waits.
        """


@dataclass(frozen=True, slots=True)
class RenamedRun:
    """Run of this process that was renamed from ``before`` to ``operation_id``.

    ``owner`` is the live process that has an active run with the id ``before``.
    """

    run: str
    before: str
    operation_id: str
    owner: Instance


@runtime_checkable
class RenamedRunSource(Protocol):
    """Source of the runs that were renamed because another live process uses their id."""

    def take_renamed_runs(self) -> Sequence[RenamedRun]:
        """Return the runs of this process that were renamed since the last call."""


@runtime_checkable
class SizedStorage(Protocol):
    """Storage in files."""

    def size_bytes(self) -> int | None:
        """Return the size of all files in bytes, or None without a file. Never raises."""


@runtime_checkable
class TrajectorySource(Protocol):
    """Source of the trajectories of past runs."""

    def trajectories(self, key: TrajectoryKey, limit: int = MAX_TRAJECTORIES_PER_KEY) -> Sequence[Trajectory]:
        """Return the newest ``limit`` trajectories with this key, oldest first.

        If fewer than three are from this class of host, trajectories of other classes come first.
        """


@runtime_checkable
class TotalsStorage(Protocol):
    """Storage of the totals of processes that share an address of ``/metrics``.

    Several threads may call the methods at once. They raise JournalError.
    """

    def read_totals(self, group: str) -> TotalsTable:
        """Return the totals of all processes of a group."""

    def merge_totals(
        self, group: str, processes: Sequence[str], merged: Mapping[str, str], version: str
    ) -> bool:
        """Replace processes that have ended by the new sums ``merged``.

        Return False, and change nothing, if the stored version of the sums is not ``version`` or if
        a process is missing. Without processes, the group only expires later.
        """
