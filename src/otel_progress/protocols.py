"""The two small protocols that hold everything together: a Sink takes what changed, a Reader answers what is.

The live store is a Reader, a journal is both, an exporter is a Sink, and every view takes any Reader: so each view works in
the worker's own process, in another process of the machine, and on another machine, with the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from otel_progress.batches import BatchCursor, BatchDeclaration
from otel_progress.model import Instance, LevelSnapshot, Number, Outcome
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.records import (
    CancelRequest,
    LogRecord,
    Preview,
    ResourceSample,
    ResourceUse,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What changed since the last tick: snapshots (parents before their children), events, and levels no longer kept.

    ``evicted`` holds (run, path) of levels that were folded into their parent; their subtree goes with them, and they go before
    ``snapshots`` come. ``at`` and ``clock`` are the moment of the tick, wall and monotonic: the sign of life of ``instance``.
    ``items`` counts the units of work done since the last batch by (operation type, level type, outcome), those of levels too
    short-lived to be in ``snapshots`` included. ``sample`` is what the process uses, when it was looked at; ``resources`` by run what
    that makes of each active operation's use. ``batches`` are declarations that are new or have changed. ``lessons`` are what operations
    that completed since leave for later runs, ``previews`` the previews that were stored.
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


@runtime_checkable
class Sink(Protocol):
    """Takes batches. May raise: the error is counted and logged, and the work goes on."""

    def write(self, batch: ChangeSet) -> None:
        """Keep or send one batch. Called from one thread at a time, never from the caller's."""

    def close(self) -> None:
        """Finish what is pending and let go of every resource. Called once."""


@runtime_checkable
class Reader(Protocol):
    """Answers about operations. Newest first wherever a list comes back."""

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of this id with its levels, or None."""

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return all operations that have not ended; without their levels when ``levels`` is False (cheap for lists)."""

    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return ended operations, the last one first, without their levels.

        ``before`` is the (end, run) of the last one of an earlier page: those after it in this order come. ``since`` is the earliest
        end, in Unix seconds.
        """

    def events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest ``limit`` events of the newest run, oldest first; ``level`` is a path and takes in what is below it.

        ``upto`` is the highest number, for those before the ones that are known.
        """

    def logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[LogRecord]:
        """Return log records of the newest run, oldest first: the newest ``limit`` of those whose number is above ``after``.

        ``path`` takes in what is below it; ``severity`` is the least number of ``logging``; ``since`` in Unix seconds; ``upto`` is the
        highest number.
        """

    def resources(
        self, operation_id: str, *, since: float | None = None, upto: float | None = None, limit: int = 600
    ) -> Sequence[ResourceSample]:
        """Return samples of the newest run's process taken while the run lasted, oldest first, the newest ``limit``.

        ``since`` in Unix seconds; ``upto`` is the latest ``clock``.
        """

    def previews(
        self, operation_id: str, *, path: str | None = None, upto: int | None = None, limit: int = 100
    ) -> Sequence[Preview]:
        """Return the stored previews of the newest run, oldest first, the newest ``limit``; ``path`` takes in what is below it.

        ``upto`` is the highest number.
        """

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch as it is now, or None."""

    def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> Sequence[BatchSnapshot]:
        """Return the batches, those that are not over first, then the newest first, then by id; only those that come ``after`` a place."""

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield operations, at most every ``interval`` seconds: first all active ones, then whatever changed.

        Without their levels when ``levels`` is False. An operation that ended comes once more.

        An empty sequence comes when nothing changed for a while, so that a caller can look at the time. Close to end it.
        """


@runtime_checkable
class Controller(Protocol):
    """Takes requests about operations, from outside of the process that works."""

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Ask the worker of the active run of this id to stop; False when there is none."""

    def delete(self, operation_id: str) -> int:
        """Forget the runs of this id that are over, with their events and logs; return how many there were.

        Over are runs that have ended, and abandoned ones whose process is gone for certain: it is not there any more on this host, or
        gave no sign of life for ten minutes where it cannot be looked at. Work that is or may be under way stays.
        """


@runtime_checkable
class CancelRequestSource(Protocol):
    """Where a worker hears what was asked of it."""

    def cancel_requests(self, instance_id: str) -> Sequence[CancelRequest]:
        """Return the requests to cancel operations of a process that are still active. The same ones may come again."""


@runtime_checkable
class SizedStorage(Protocol):
    """What is kept in files."""

    def size_bytes(self) -> int | None:
        """Return the size of the files in bytes, what is not yet in its place included; None when there is none. Never raises."""


@runtime_checkable
class TrajectorySource(Protocol):
    """Where past runs are remembered."""

    def trajectories(self, key: TrajectoryKey, limit: int = 20) -> Sequence[Trajectory]:
        """Return what the newest ``limit`` runs under this key left, oldest first.

        Where fewer than three are from this class of host, those of others come before them: a foreign curve is better than none.
        """
