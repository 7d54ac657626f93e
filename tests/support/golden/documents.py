"""Answers of readers as JSON values, encoded by the public codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeVar

from otel_progress.batches import BatchCursor
from otel_progress.codec import (
    encode_batch,
    encode_event,
    encode_log,
    encode_operation,
    encode_preview,
    encode_sample,
)
from otel_progress.journal import SqliteJournal
from otel_progress.model import Outcome
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import (
    BatchQuery,
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    ResourceQuery,
)
from otel_progress.records import CancelRequest, Preview, Trajectory
from tests.support.golden.sample_journal import HISTORY_KEYS, OPERATION_IDS, SONG, WALL

T = TypeVar("T")


def answers_of(journal: SqliteJournal) -> dict[str, Any]:
    """Return the results of every reading method of a journal with the sample state."""
    id_, error = OPERATION_IDS[0], Outcome.FAILED
    newest = journal.history(HistoryQuery(limit=2))[-1]
    end = newest.root.ended_at
    assert end is not None
    place = BatchCursor(WALL + 120.0, False, WALL, "open")
    with closing(journal.watch(0.0)) as watch:  # type: ignore[type-var]
        watched = next(watch)
    return {
        "get": {
            one: None if (found := journal.get(one)) is None else encode_operation(found)
            for one in OPERATION_IDS
        },
        "active": _operations(journal.active()),
        "active(levels=False)": _operations(journal.active(levels=False), levels=False),
        "history": _operations(journal.history(), levels=False),
        "history(type)": _operations(journal.history(HistoryQuery("setlist")), levels=False),
        "history(before)": _operations(
            journal.history(HistoryQuery(before=(end, newest.run), limit=2)), levels=False
        ),
        "history(since)": _operations(journal.history(HistoryQuery(since=WALL + 64.0)), levels=False),
        "events": _list(encode_event, journal.events(id_)),
        "events(below)": _list(encode_event, journal.events(id_, EventQuery(path=SONG))),
        "events(outcome)": _list(encode_event, journal.events(id_, EventQuery(outcome=error))),
        "events(since)": _list(encode_event, journal.events(id_, EventQuery(since=WALL + 3.0))),
        "events(upto, limit)": _list(encode_event, journal.events(id_, EventQuery(max_number=3, limit=1))),
        "logs": _list(encode_log, journal.logs(id_)),
        "logs(path)": _list(encode_log, journal.logs(id_, LogQuery(path=SONG))),
        "logs(severity)": _list(encode_log, journal.logs(id_, LogQuery(severity=30))),
        "logs(since)": _list(encode_log, journal.logs(id_, LogQuery(since=WALL + 3.0))),
        "logs(after)": _list(encode_log, journal.logs(id_, LogQuery(after=1))),
        "logs(upto, limit)": _list(encode_log, journal.logs(id_, LogQuery(max_number=2, limit=1))),
        "resources": _list(encode_sample, journal.resources(id_)),
        "resources(since)": _list(encode_sample, journal.resources(id_, ResourceQuery(since=WALL + 60.0))),
        "previews": _list(preview_document, journal.previews(id_)),
        "previews(path)": _list(preview_document, journal.previews(id_, PreviewQuery(path=SONG))),
        "batch": {one: _batch(journal, one) for one in ("thumbnails", "closed", "open", "missing")},
        "batches": [encode_batch(one, operations=False) for one in journal.batches()],
        "batches(after)": [
            encode_batch(one, operations=False) for one in journal.batches(BatchQuery(after=place))
        ],
        "watch": _operations(watched),
        "trajectories": [_list(trajectory_document, journal.trajectories(key)) for key in HISTORY_KEYS],
        "requests": _list(request_document, journal.cancel_requests("instance-1")),
    }


def preview_document(preview: Preview) -> dict[str, Any]:
    """Return the document of a preview, including the location of its content."""
    return {**encode_preview(preview), "location": preview.location}


def trajectory_document(trajectory: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a JSON value."""
    points = [list(point) for point in trajectory.points]
    return {"duration_s": trajectory.duration_s, "points": points, "stages": dict(trajectory.stages)}


def request_document(request: CancelRequest) -> dict[str, Any]:
    """Return a cancel request as a JSON value."""
    return {
        "run": request.run,
        "operation_id": request.operation_id,
        "reason": request.reason,
        "at": request.at,
    }


def _operations(found: Sequence[OperationSnapshot], *, levels: bool = True) -> list[dict[str, Any]]:
    return [encode_operation(one, levels=levels) for one in found]


def _batch(journal: SqliteJournal, batch_id: str) -> dict[str, Any] | None:
    found = journal.batch(batch_id)
    return None if found is None else encode_batch(found)


def _list(encode: Callable[[T], dict[str, Any]], found: Sequence[T]) -> list[dict[str, Any]]:
    return [encode(one) for one in found]
