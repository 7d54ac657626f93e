"""Operations and batches for the tests of metrics, and a Reader that returns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import BatchQuery, EventQuery, HistoryQuery, LogQuery, ResourceQuery
from otel_progress.records import LogRecord, ResourceSample, ResourceUse
from tests.support import factories
from tests.support.factories import CLOCK
from tests.support.factories import WALL as START

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
"""A valid trace id."""


def operation(id: str = "op", type: str = "render", elapsed: float = 10.0, **state: Any) -> OperationSnapshot:
    """Return an operation read ``elapsed`` seconds after its start.

    ``state`` are fields of its root or of the root's info.
    """
    levels = tuple(state.pop("levels", ()))
    resources = state.pop("resources", None)
    names = {
        "operation_id": id,
        "operation_type": type,
        "run": f"run of {id}",
        "type": type,
        "name": "An operation",
    }
    root = factories.snapshot("", **{**names, **_at(elapsed, state)})
    return OperationSnapshot(
        root, levels, START + elapsed, CLOCK + elapsed, factories.instance(), resources=resources
    )


def use(
    cpu: float = 0.5, memory: int = 100_000_000, gpu: float | None = None, gpu_memory: int | None = None
) -> ResourceUse:
    """Return the resource use of a process with one sample."""
    last = ResourceSample(START, CLOCK, cpu, memory, gpu, gpu_memory)
    return ResourceUse(last, 1, cpu, cpu, memory, memory, gpu, gpu, gpu_memory)


def a_batch(
    id: str = "thumbnails", type: str = "images", elapsed: float = 10.0, **fields: Any
) -> BatchSnapshot:
    """Return a batch. Counts of statuses are given by name, as ``failed=3``."""
    counts = MappingProxyType({status: fields.pop(status.value, 0) for status in Status})
    known: dict[str, Any] = {
        "name": "A batch",
        "total": None,
        "started_at": START,
        "ended_at": None,
        "read_at": START + elapsed,
    }
    unknown: dict[str, Any] = {
        "ratio": None,
        "throughput": None,
        "remaining_s": None,
        "active": (),
        "failed": (),
    }
    return BatchSnapshot(id=id, type=type, counts=counts, **{**known, **unknown, **fields})


def level(path: str, elapsed: float = 10.0, **state: Any) -> LevelSnapshot:
    """Return a level at ``path`` of any operation."""
    return factories.snapshot(path, **_at(elapsed, state))


def _at(elapsed: float, state: dict[str, Any]) -> dict[str, Any]:
    """Return ``state`` with the times of a snapshot after ``elapsed`` seconds."""
    times = {"observed_at": START + elapsed, "observed_clock": CLOCK + elapsed}
    if state.get("status", Status.RUNNING).finished:
        times.update(ended_at=START + elapsed, duration_s=elapsed)
    return {**times, **state}


def eta(
    remaining: float | None, low: float | None, high: float | None, elapsed: float = 10.0, **fields: Any
) -> Eta:
    """Return an estimate made ``elapsed`` seconds after the start."""
    known = {"state": "estimated", "basis": "rate", "runs": 0}
    return Eta(remaining, low, high, clock=CLOCK + elapsed, **{**known, **fields})


@dataclass
class Shelf:
    """A Reader over two lists.

    Set ``elapsed`` to advance time, ``error`` to make every method fail.
    """

    running: list[OperationSnapshot] = field(default_factory=list)
    ended: list[OperationSnapshot] = field(default_factory=list)
    elapsed: float = 10.0
    wall_step: float = 0.0
    error: Exception | None = None
    reads: int = 0
    groups: list[BatchSnapshot] = field(default_factory=list)

    def _now(self, operations: Sequence[OperationSnapshot]) -> list[OperationSnapshot]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        read_at, clock = START + self.elapsed + self.wall_step, CLOCK + self.elapsed
        return [replace(one, read_at=read_at, clock=clock) for one in operations]

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the operation of that id."""
        return next(
            (one for one in self._now([*self.running, *self.ended]) if one.operation_id == operation_id), None
        )

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return the running operations."""
        found = self._now(self.running)
        return found if levels else [replace(one, levels=()) for one in found]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return ended operations. Metrics request no pages."""
        assert query.before is query.since is None
        found = [one for one in self._now(self.ended) if query.operation_type in (None, one.operation_type)]
        return [replace(one, levels=()) for one in found[: query.limit]]

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        """Return nothing: metrics ask for no events."""
        del operation_id, query
        return ()

    def logs(self, operation_id: str, query: LogQuery = LogQuery()) -> Sequence[LogRecord]:
        """Return nothing: metrics ask for no logs."""
        del operation_id, query
        return ()

    def resources(
        self, operation_id: str, query: ResourceQuery = ResourceQuery()
    ) -> Sequence[ResourceSample]:
        """Return nothing: metrics show what an operation's snapshot has."""
        del operation_id, query
        return ()

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the batch of that id."""
        return next((one for one in self.groups if one.id == batch_id), None)

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches, as they are now."""
        if self.error is not None:
            raise self.error
        return [
            replace(one, read_at=START + self.elapsed + self.wall_step) for one in self.groups[: query.limit]
        ]

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield the running operations once."""
        del interval
        yield self.active(levels=levels)
