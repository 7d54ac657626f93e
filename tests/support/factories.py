"""Factories of records: every field has a default and can be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_progress import semconv
from otel_progress.batches import BatchDeclaration
from otel_progress.model import NO_METADATA, Instance, LevelInfo, LevelSnapshot, Status
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.processes import this_host
from otel_progress.protocols import ChangeSet
from otel_progress.records import (
    LogRecord,
    Preview,
    ResourceSample,
    ResourceUse,
    Trajectory,
    TrajectoryEntry,
    TrajectoryKey,
)
from otel_progress.text import encode_segment, pluralize

WALL = 1_700_000_000.0
"""Unix time at which everything in a test starts by default."""
CLOCK = 5_000.0
"""The monotonic clock at the same time."""

_INFO_FIELDS = frozenset(LevelInfo.__dataclass_fields__)


def instance(id: str = "instance-1", **fields: Any) -> Instance:
    """Return a process on another host. Only its heartbeat shows if it is alive."""
    values = {
        "pid": 4711,
        "host": "elsewhere/boot/1",
        "service": "nightly",
        "started_at": WALL,
        "start": None,
    }
    return Instance(id=id, **{**values, **fields})


def local_instance(pid: int, **fields: Any) -> Instance:
    """Return a process of this host."""
    return instance(id=f"local-{pid}", pid=pid, host=this_host(), **fields)


def snapshot(path: str = "", sequence: int = 1, **fields: Any) -> LevelSnapshot:
    """Return a running level. Fields of its LevelInfo can be given as well.

    ``path`` is empty for the operation itself.
    """
    type_, _, id_ = path.rpartition("/")[2].partition(":") if path else ("setlist", "", "friday-42")
    info = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": "run-1",
        "path": path,
        "type": type_,
        "id": id_,
        "name": f"Name of {id_}",
        "unit": None,
        "weight": 1.0,
        "declared": False,
        "attempt": 1,
        "order": 0,
        "started_at": WALL,
        "started_clock": CLOCK,
        "deadline_at": None,
        "trace_id": None,
        "span_id": None,
        "instance": "instance-1",
    }
    state = {
        "status": Status.RUNNING,
        "current": 0,
        "total": None,
        "ratio": None,
        "failed": 0,
        "skipped": 0,
        "message": None,
        "metadata": NO_METADATA,
        "error": None,
        "stage": None,
        "eta": None,
        "observed_at": WALL,
        "observed_clock": CLOCK,
        "advanced_at": None,
        "advanced_clock": None,
        "stall_after_s": 60.0,
        "ended_at": None,
        "duration_s": None,
    }
    given = fields.pop("info", None)
    if isinstance(fields.get("unit"), str):
        info["unit_plural"] = pluralize(fields["unit"])
    info.update({name: value for name, value in fields.items() if name in _INFO_FIELDS})
    state.update({name: value for name, value in fields.items() if name not in _INFO_FIELDS})
    return LevelSnapshot(info=given or LevelInfo(**info), sequence=sequence, **state)


def ended(path: str = "", sequence: int = 2, **fields: Any) -> LevelSnapshot:
    """Return a completed level that took one minute."""
    values = {"status": Status.COMPLETED, "ended_at": WALL + 60.0, "duration_s": 60.0}
    return snapshot(path, sequence, **{**values, **fields})


def operation(
    root: LevelSnapshot | None = None, levels: Sequence[LevelSnapshot] = (), **fields: Any
) -> OperationSnapshot:
    """Return an operation as read one minute after its start."""
    values = {"read_at": WALL + 60.0, "clock": CLOCK + 60.0, "instance": instance()}
    return OperationSnapshot(root=root or snapshot(), levels=tuple(levels), **{**values, **fields})


def event(number: int = 1, path: str = "", **fields: Any) -> Event:
    """Return an item event."""
    values = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": "run-1",
        "level_type": path.rpartition("/")[2].partition(":")[0] or "setlist",
        "kind": semconv.EVENT_ITEM,
        "at": WALL + number,
    }
    return Event(path=path, number=number, **{**values, **fields})


def log(number: int = 1, path: str = "", **fields: Any) -> LogRecord:
    """Return a log record of level INFO."""
    values = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": "run-1",
        "at": WALL + number,
        "severity": 20,
        "severity_text": "INFO",
        "logger": "nightly.render",
        "message": f"message {number}",
    }
    return LogRecord(path=path, number=number, **{**values, **fields})


def sample(second: float = 0.0, **fields: Any) -> ResourceSample:
    """Return a resource sample so many seconds after the start."""
    values = {"at": WALL + second, "clock": CLOCK + second, "cpu_ratio": 0.5, "memory_bytes": 100_000_000}
    return ResourceSample(**{**values, **fields})


def resource_use(last: ResourceSample | None = None, **fields: Any) -> ResourceUse:
    """Return the resource use of an operation over ten samples."""
    values = {"samples": 10, "cpu_mean": 0.4, "cpu_peak": 1.5, "memory_mean": 9e7, "memory_peak": 120_000_000}
    return ResourceUse(last=last or sample(), **{**values, **fields})


def batch_info(id: str = "thumbnails", sequence: int = 1, **fields: Any) -> BatchDeclaration:
    """Return the declaration of a batch of five operations."""
    values = {"name": f"Name of {id}", "type": "batch", "total": 5, "started_at": WALL, "ended_at": None}
    return BatchDeclaration(id=id, sequence=sequence, **{**values, **fields})


def history_key(level: str = "", **fields: Any) -> TrajectoryKey:
    """Return the key shared by runs of a setlist on machines of one kind."""
    return TrajectoryKey(
        **{
            "operation_type": "setlist",
            "level": level,
            "host_class": "linux-x86_64-2",
            "eta_key": "",
            **fields,
        }
    )


def make_trajectory_entry(
    run: str = "run-1", duration: float = 60.0, key: TrajectoryKey | None = None, **fields: Any
) -> TrajectoryEntry:
    """Return the trajectory of a steady run."""
    points = tuple((duration * part / 4, part / 4) for part in range(5))
    values = {"at": WALL + duration, "trajectory": Trajectory(duration, points)}
    return TrajectoryEntry(key=key or history_key(), run=run, **{**values, **fields})


def preview(number: int = 1, path: str = "", **fields: Any) -> Preview:
    """Return the preview of one operation as stored."""
    run = fields.get("run", "run-1")
    values = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": run,
        "at": WALL + number,
        "name": "preview",
        "media_type": "image/png",
        "size_bytes": 1_000 + number,
        "digest": f"{number:064x}",
        "location": f"file:///previews/{run}/{number}.png",
        "width": 512,
        "height": 256,
        "ratio": 0.25,
    }
    return Preview(path=path, number=number, **{**values, **fields})


def make_change_set(*snapshots: LevelSnapshot, **fields: Any) -> ChangeSet:
    """Return a change set of the default instance."""
    return ChangeSet(**{"instance": instance(), "at": WALL, "clock": CLOCK, "snapshots": snapshots, **fields})


def path_of(*segments: tuple[str, str]) -> str:
    """Return the path of (type, id) pairs."""
    return "/".join(encode_segment(type_, id_) for type_, id_ in segments)
