"""The fixed state shown by all golden files.

This is the only module here that imports the helpers of other test folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.model import Eta, Failure, LevelSnapshot, Outcome, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.previews.stores.base import Store
from otel_progress.protocols import ChangeSet
from otel_progress.records import LogRecord, Trajectory, TrajectoryKey
from tests.support.factories import (
    CLOCK,
    WALL,
    batch_info,
    ended,
    event,
    history_key,
    instance,
    log,
    make_change_set,
    make_trajectory_entry,
    operation,
    path_of,
    preview,
    resource_use,
    sample,
    snapshot,
)

NOW_WALL: Final = WALL + 120.0
"""Unix time at which the state is read."""
NOW_CLOCK: Final = CLOCK + 120.0
"""The monotonic clock at that time."""
TEXT: Final = "Größe \"<b>\" 'x' =1+1 \x1b[31m\u202e\u2028 \\ % 混合 😀"
"""A text with characters that formats must escape."""
SONG: Final = path_of(("song", "07"))
VERSE: Final = f"{SONG}/{path_of(('verse', 'a/b'))}"
STAGE: Final = path_of(("stage", "mix"))
FULL_ETA: Final = Eta(
    90.5, 60.25, 180.0, "estimated", "history", 5, CLOCK + 60.0, counts_down_s=300.0, stalls_after_s=900.0
)
ERROR: Final = Failure("OSError", TEXT, "Traceback (most recent call last):\n  line 7\nOSError: gone")
HISTORY_KEYS: Final[Sequence[TrajectoryKey]] = (
    history_key(),
    history_key("song"),
    history_key("stage:mix"),
    history_key(eta_key="large"),
    history_key(host_class="linux-aarch64-8"),
)
"""Keys of the history, the last one of another kind of machine."""
OPERATION_IDS: Final = (
    "friday-42",
    "pending-1",
    "paused-1",
    "opaque-1",
    "done-1",
    "failed-1",
    "cancelled-1",
    "skipped-1",
    "lost-1",
    "again-1",
    TEXT,
    "missing",
)
"""Ids of the operations of the state, and an unknown one."""


def running_operation() -> OperationSnapshot:
    """Return an operation with a value in every field."""
    return operation(
        running_levels()[0], running_levels()[1:], resources=resource_use(),
        cancel_requested_at=WALL + 50.0, read_at=NOW_WALL,
        clock=NOW_CLOCK,
    )  # fmt: skip


def running_levels() -> list[LevelSnapshot]:
    """Return the levels of a running operation, the root first."""
    return [
        snapshot(
            name="Friday", sequence=7, current=3, total=10, ratio=0.3, failed=1, skipped=1, unit="song",
            message=TEXT,
            metadata={"customer": "acme", "tries": 3, "rate": 0.5, "dry": True, "tags": ("a", "b"),
            "sizes": (1, 2)},
            stage="mix", eta=FULL_ETA, observed_at=WALL + 110.0, observed_clock=CLOCK + 110.0,
            advanced_at=WALL + 100.0,
            advanced_clock=CLOCK + 100.0, stall_after_s=75.0, deadline_at=WALL + 3_600.0,
            trace_id=f"{1:032x}",
            span_id=f"{1:016x}", batch="thumbnails", paused_s=2.5, previews=3, overdue_after_s=5_000.0,
            resumed_from=1,
        ),
        snapshot(STAGE, type="stage", id="mix", name="Mix", declared=True, weight=3.0, ratio=0.5,
            estimated=True, order=0),
        snapshot(path_of(("stage", "master")), name="Master", status=Status.PENDING, declared=True,
            order=1, started_at=None,
                 started_clock=None),
        snapshot(SONG, current=1.5, total=4.0, ratio=0.375, failed=1, unit="second", attempt=2, order=2,
            weight=2.5,
                 eta=Eta(None, 30.0, None, "stalled", "rate", 0, CLOCK + 60.0)),
        snapshot(VERSE, message="in a verse", order=3, span_id=f"{2:016x}", trace_id=f"{1:032x}"),
        ended(path_of(("song", "08")), name="Blue", current=4, total=4, ratio=1.0, order=4),
        ended(path_of(("song", "09")), name="Red", status=Status.FAILED, error=ERROR, order=5),
        ended(path_of(("song", "10")), name="Green", status=Status.CANCELLED, message="not needed", order=6),
        ended(path_of(("song", "11")), name="Gray", status=Status.SKIPPED, order=7),
    ]  # fmt: skip


def event_records() -> list[Event]:
    """Return events of the running operation, of every outcome."""
    return [
        event(1, SONG, name="one", outcome=Outcome.COMPLETED, metadata={"bytes": 10, "tags": ("x",)}),
        event(2, SONG, name=TEXT, outcome=Outcome.FAILED, error=ERROR),
        event(3, VERSE, name="three", outcome=Outcome.SKIPPED),
        event(4, "", kind=semconv.EVENT_STARTED),
    ]


def log_records() -> list[LogRecord]:
    """Return log records of the running operation."""
    return [
        log(1),
        log(
            2,
            SONG,
            severity=40,
            severity_text="ERROR",
            message=TEXT,
            details="Traceback",
            attributes={"n": 1, "t": ("a",)},
        ),
        log(3, VERSE, severity=10, severity_text="DEBUG", trace_id=f"{1:032x}", span_id=f"{2:016x}"),
    ]


def batch_snapshot() -> BatchSnapshot:
    """Return a batch with a value in every field."""
    counts = {
        Status.PENDING: 1,
        Status.RUNNING: 2,
        Status.COMPLETED: 3,
        Status.FAILED: 1,
        Status.CANCELLED: 1,
        Status.SKIPPED: 1,
    }
    failed = operation(ended(run="run-2", operation_id="failed-1", status=Status.FAILED, error=ERROR))
    return BatchSnapshot(
        id="thumbnails", name=TEXT, type="night", total=12, started_at=WALL, ended_at=None,
        read_at=NOW_WALL, counts=counts,
        ratio=0.625, throughput=0.05, remaining_s=100.5, active=(running_operation(),), failed=(failed,),
    )  # fmt: skip


def change_sets() -> Iterator[ChangeSet]:
    """Yield all change sets in the order of writing: every kind of record and status."""
    yield make_change_set(
        *running_levels(),
        *other_operations(),
        at=WALL + 110.0,
        clock=CLOCK + 110.0,
        events=event_records(),
        logs=log_records(),
        sample=sample(30.0, gpu_ratio=0.25, gpu_memory_bytes=1_000),
        resources={"run-1": resource_use(sample(30.0), gpu_mean=0.25, gpu_peak=0.5, gpu_memory_peak=2_000)},
        batches=[
            batch_info(),
            batch_info("closed", total=2, ended_at=WALL + 90.0, name=TEXT, type="night"),
            batch_info("open", total=None),
        ],
        items={("setlist", "song", "completed"): 3},
        previews=[
            preview(1),
            preview(
                2,
                SONG,
                name="notes",
                media_type="text/plain; charset=utf-8",
                width=None,
                height=None,
                ratio=None,
            ),
            preview(3, VERSE, media_type="image/webp"),
        ],
        trajectories=[
            make_trajectory_entry(f"past-{number}", 50.0 + number, key, trajectory=_trajectory(50.0 + number))
            for number, key in enumerate(HISTORY_KEYS)
        ],
    )
    yield make_change_set(
        snapshot(
            run="run-lost",
            operation_id="lost-1",
            id="lost-1",
            operation_type="backup",
            type="backup",
            ratio=0.1,
        ),
        instance=instance("instance-2", pid=4712, service="backups", start=77),
        at=WALL,
    )
    first = running_levels()[0]
    yield make_change_set(
        replace(first, sequence=8, message="Mixing", observed_at=WALL + 115.0, observed_clock=CLOCK + 115.0),
        at=WALL + 115.0,
        clock=CLOCK + 115.0,
        evicted=[("run-1", path_of(("song", "11")))],
        sample=sample(115.0),
        previews=[preview(1, location="")],
    )


def late_changes() -> ChangeSet:
    """Return the later changes of the running operation: an item and a preview."""
    first = running_levels()[0]
    return make_change_set(
        replace(first, sequence=9, current=4, observed_at=WALL + 118.0, observed_clock=CLOCK + 118.0),
        events=[event(9, SONG, name="late", outcome=Outcome.COMPLETED, at=WALL + 118.0)],
        previews=[preview(9, SONG, at=WALL + 118.0)],
        at=WALL + 118.0,
        clock=CLOCK + 118.0,
    )


def other_operations() -> list[LevelSnapshot]:
    """Return operations of every other status."""

    def other(id_: str, run: str, type_: str = "backup", **fields: object) -> LevelSnapshot:
        return snapshot(operation_id=id_, id=id_, run=run, operation_type=type_, type=type_, **fields)

    def over(id_: str, run: str, status: Status, end: float, **fields: object) -> LevelSnapshot:
        times = {"ended_at": WALL + end, "duration_s": end}
        return other(
            id_, run, **{"status": status, "current": 5, "total": 5, "ratio": 1.0, **times, **fields}
        )

    return [
        other("pending-1", "run-pending", status=Status.PENDING, started_at=None, started_clock=None),
        other(
            "paused-1",
            "run-paused",
            paused_clock=CLOCK + 20.0,
            paused_s=1.5,
            message="waiting for a license",
            ratio=0.5,
        ),
        other("opaque-1", "run-opaque", ratio=0.25, estimated=True, stall_after_s=1e6),
        over("done-1", "run-done", Status.COMPLETED, 60.0, batch="thumbnails"),
        over(
            "failed-1",
            "run-failed",
            Status.FAILED,
            61.0,
            batch="thumbnails",
            error=ERROR,
            ratio=0.5,
            current=2.5,
        ),
        over(
            "cancelled-1",
            "run-cancelled",
            Status.CANCELLED,
            62.0,
            batch="closed",
            message="canceled by an operator",
        ),
        over(
            "skipped-1",
            "run-skipped",
            Status.SKIPPED,
            63.0,
            batch="closed",
            total=None,
            ratio=None,
            current=0,
        ),
        over("again-1", "run-again-1", Status.FAILED, 64.0, error=Failure("ValueError", "first run")),
        over("again-1", "run-again-2", Status.COMPLETED, 65.0, attempt=2),
        other(TEXT, "run-text", name=TEXT, message=TEXT, metadata={TEXT: TEXT}, batch=TEXT),
    ]


def _trajectory(duration: float) -> Trajectory:
    return Trajectory(
        duration, tuple((duration * part / 4, part / 4) for part in range(5)), {"mix": 20.0, "master": 10.5}
    )


PICTURE: Final = b"a preview"
"""Content of a stored preview."""


def write_with_content(path: Path, store: Store) -> None:
    """Write a journal with the sample state and a further preview.

    The content of that preview is in ``store``.
    """
    write_scene(path)
    digest = hashlib.sha256(PICTURE).hexdigest()
    location = store.write("run-1", digest, "image/png", PICTURE)
    kept = preview(4, media_type="image/png", digest=digest, location=location, size_bytes=len(PICTURE))
    with open_scene_journal(path) as journal:
        journal.write(make_change_set(previews=[kept], at=WALL + 116.0, clock=CLOCK + 116.0))


@contextmanager
def open_scene_journal(path: Path, *, read_only: bool = False) -> Iterator[SqliteJournal]:
    """Open a journal with clocks fixed two minutes after the start of the state."""
    journal = SqliteJournal(path, now=lambda: NOW_WALL, clock=lambda: NOW_CLOCK, read_only=read_only)
    try:
        yield journal
    finally:
        journal.close()


def write_scene(path: Path) -> None:
    """Write a journal with the sample state."""
    with open_scene_journal(path) as journal:
        for changes in change_sets():
            journal.write(changes)
        assert journal.request_cancel("friday-42", TEXT)
        assert journal.request_cancel("paused-1", "no longer needed")
