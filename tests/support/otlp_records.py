"""Snapshots and change sets for the OTLP tests, with a clock that tests advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from otel_progress.model import NO_METADATA, Instance, LevelInfo, LevelSnapshot, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import BatchQuery, ChangeSet, HistoryQuery

WALL = 1_800_000_000.0
"""Wall time at clock 0."""
INSTANCE = Instance("worker-1", 4711, "host", "nightly", WALL)
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def level(
    path: str = "", *, run: str = "run-1", clock: float = 0.0, started: float | None = 0.0, **values: Any
) -> LevelSnapshot:
    """Return a running level at ``clock`` that started at ``started``.

    ``values`` are fields of LevelSnapshot or LevelInfo.
    """
    segment = path.rpartition("/")[2] or "setlist:friday-42"
    type_, _, id_ = segment.partition(":")
    info = LevelInfo(
        operation_id="friday-42",
        operation_type="setlist",
        run=run,
        path=path,
        type=type_,
        id=id_,
        name=f"the {id_}",
        unit=None,
        weight=1.0,
        declared=False,
        attempt=1,
        order=0,
        started_at=None if started is None else WALL + started,
        started_clock=started,
        deadline_at=None,
        trace_id=TRACE,
        span_id=SPAN,
        instance=INSTANCE.id,
    )
    of_info = {name: values.pop(name) for name in list(values) if name in LevelInfo.__dataclass_fields__}
    snapshot = LevelSnapshot(
        info=replace(info, **of_info),
        sequence=1,
        status=Status.RUNNING,
        current=0,
        total=10,
        ratio=0.0,
        failed=0,
        skipped=0,
        message=None,
        metadata=NO_METADATA,
        error=None,
        stage=None,
        eta=None,
        observed_at=WALL + clock,
        observed_clock=clock,
        advanced_at=None,
        advanced_clock=None,
        stall_after_s=60.0,
        ended_at=None,
        duration_s=None,
    )
    return replace(snapshot, **values)


def ended(
    snapshot: LevelSnapshot, clock: float, status: Status = Status.COMPLETED, **values: Any
) -> LevelSnapshot:
    """Return ``snapshot`` ended at ``clock``."""
    started = snapshot.info.started_clock or 0.0
    at = WALL + clock
    end = {"ended_at": at, "duration_s": clock - started, "observed_at": at, "observed_clock": clock}
    return replace(snapshot, status=status, **{"sequence": snapshot.sequence + 1, **end, **values})


def make_change_set(
    clock: float,
    *snapshots: LevelSnapshot,
    events: Sequence[Event] = (),
    evicted: Sequence[tuple[str, str]] = (),
) -> ChangeSet:
    """Return the change set of a tick at ``clock``."""
    return ChangeSet(INSTANCE, WALL + clock, clock, snapshots, events, evicted)


@dataclass
class RecordedEvents:
    """Stores emitted events in order."""

    events: list[LogEvent] = field(default_factory=list)
    closed: bool = False

    def emit(self, event: LogEvent) -> None:
        """Store an event."""
        self.events.append(event)

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True

    def names(self) -> list[str]:
        """Names of the events, in order."""
        return [event.name for event in self.events]


@dataclass
class ListedReader:
    """A Reader over lists with only the methods that metrics need."""

    running: list[OperationSnapshot] = field(default_factory=list)
    done: list[OperationSnapshot] = field(default_factory=list)
    broken: bool = False
    groups: list[BatchSnapshot] = field(default_factory=list)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return the running operations."""
        if self.broken:
            msg = "the store is gone"
            raise OSError(msg)
        return [operation if levels else replace(operation, levels=()) for operation in self.running]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        """Return the ended operations."""
        return [one for one in self.done if query.operation_type in (None, one.operation_type)][: query.limit]

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        """Return the batches."""
        return self.groups[: query.limit] if query.after is None else []


def make_span(
    name: str, span_id: str = SPAN, start: float = 0.0, end: float | None = None, **fields: Any
) -> dict[str, Any]:
    """Return a span in JSON, which runs without ``end``. Times are since WALL."""
    span = {
        "traceId": TRACE,
        "spanId": span_id,
        "name": name,
        "startTimeUnixNano": str(round((WALL + start) * 1e9)),
        **fields,
    }
    return span if end is None else {**span, "endTimeUnixNano": str(round((WALL + end) * 1e9))}
