"""Reports: validated values of one level from a received event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, TypeVar
from urllib.parse import unquote

from otel_progress import semconv
from otel_progress.model import (
    NO_METADATA,
    Failure,
    MetadataValue,
    Number,
    Outcome,
    ParentLink,
    Status,
)
from otel_progress.propagation.parent_link import parse_parent_link
from otel_progress.receivers.telemetry import ReceivedEvent
from otel_progress.redaction import Redactor
from otel_progress.text import MAX_ID, MAX_NAME, MAX_TEXT, normalize_id, truncate

MAX_DEPTH: Final = 64
"""Maximum number of segments of a received path. Reports with a deeper path are rejected."""


MAX_METADATA: Final = 64
"""Maximum number of metadata entries of a level. Further entries are ignored."""


DEFAULT_TYPE: Final = "operation"
"""Type of an operation whose sender states none."""


_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


_STATUSES: Final = {status.value: status for status in Status}


class Rank(IntEnum):
    """Order of reports with one sequence number.

    A level may start and end within one tick.
    """

    STARTED = 0
    UPDATED = 1
    FINISHED = 2


_RANKS: Final = {
    semconv.EVENT_STARTED: Rank.STARTED,
    semconv.EVENT_UPDATED: Rank.UPDATED,
    semconv.EVENT_STALLED: Rank.UPDATED,
    semconv.EVENT_FINISHED: Rank.FINISHED,
}


class InvalidReportError(ValueError):
    """A progress event without a value that it needs, or with an invalid one."""


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """Values of an event that identify its run.

    ``run`` is None if the sender does not state it.
    """

    operation_id: str
    operation_type: str
    run: str | None
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class LevelReport:
    """Values of one level at the time of one event.

    ``started_at`` is None if the sender does not state it. ``sequence`` is None if the sender does
    not count its reports. ``span_id`` is of the span of the level. ``order`` is None if the sender
    does not number siblings. ``paused_s`` are the seconds of ended pauses. ``stall_after_s`` is
    None if the receiver decides. Only an operation has ``paused_since``, ``batch``, ``parent``,
    ``deadline_at`` and ``stall_after_s``. Times are Unix seconds on the clock of the sender.
    """

    origin: RunOrigin
    path: str
    type: str
    id: str
    name: str
    attempt: int
    rank: Rank
    sequence: int | None
    at: float
    started_at: float | None
    status: Status
    current: Number
    total: Number | None
    ratio: float | None
    failed: int
    skipped: int
    unit: str | None
    message: str | None
    estimated: bool
    error: Failure | None
    metadata: Mapping[str, MetadataValue]
    span_id: str | None
    weight: Number = 1
    order: int | None = None
    declared: bool = False
    stage: str | None = None
    paused_since: float | None = None
    paused_s: float = 0.0
    failed_below: int = 0
    resumed_from: Number = 0
    batch: str | None = None
    parent: ParentLink | None = None
    deadline_at: float | None = None
    stall_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ItemReport:
    """One unit of work from an event.

    ``at`` is in Unix seconds on the clock of the sender.
    """

    origin: RunOrigin
    path: str
    level_type: str
    at: float
    name: str | None
    outcome: Outcome | None
    error: Failure | None
    metadata: Mapping[str, MetadataValue]


T = TypeVar("T", LevelReport, ItemReport)


def read_report(event: ReceivedEvent) -> LevelReport | None:
    """Return the report of an event.

    Return None if the event is not about the state of a level. Only the operation id is required.
    Raises InvalidReportError.
    """
    rank = _RANKS.get(event.name)
    if rank is None:
        return None
    values = event.attributes
    origin = read_origin(event)
    path = _get_text(values, semconv.PATH) or ""
    type_, id_ = split_last_segment(path)
    total = _get_number(values, semconv.TOTAL)
    current = _get_number(values, semconv.CURRENT) or 0
    if path:
        type_ = normalize_id(_get_text(values, semconv.LEVEL_TYPE) or type_)
        id_ = normalize_id(_get_text(values, semconv.LEVEL_ID) or id_)
        name = _get_text(values, semconv.LEVEL_NAME) or id_
    else:
        type_, id_ = origin.operation_type, origin.operation_id
        name = _get_text(values, semconv.OPERATION_NAME) or id_
    status = _read_status(values, rank)
    ratio = _get_number(values, semconv.RATIO)
    if ratio is None and total:
        ratio = min(1.0, current / total)
    return LevelReport(
        origin=origin,
        path=path,
        type=type_,
        id=id_,
        name=truncate(name, MAX_NAME),
        attempt=max(1, _get_integer(values, semconv.ATTEMPT) or 1),
        rank=rank,
        sequence=_get_integer(values, semconv.SEQUENCE),
        at=event.at,
        started_at=_read_start(values, event, rank),
        status=status,
        current=current,
        total=total,
        ratio=None if ratio is None else min(1.0, float(ratio)),
        failed=_get_integer(values, semconv.FAILED) or 0,
        skipped=_get_integer(values, semconv.SKIPPED) or 0,
        unit=_shorten(_get_text(values, semconv.UNIT), MAX_NAME),
        message=_shorten(_get_text(values, semconv.MESSAGE), MAX_TEXT),
        estimated=values.get(semconv.ESTIMATED) is True,
        error=_read_failure(values, status),
        metadata=_read_metadata(values),
        span_id=event.span_id,
        weight=_get_weight(values),
        order=_get_integer(values, semconv.LEVEL_ORDER),
        declared=bool(path) and values.get(semconv.LEVEL_DECLARED) is True,
        stage=_shorten(_get_text(values, semconv.CURRENT_STAGE), MAX_ID),
        paused_since=None if path or status.finished else _get_number(values, semconv.PAUSE_START_TIME),
        failed_below=_get_integer(values, semconv.FAILED_BELOW) or 0,
        resumed_from=_get_number(values, semconv.RESUMED_FROM) or 0,
        paused_s=float(_get_number(values, semconv.PAUSE_DURATION) or 0.0),
        batch=None if path else _read_batch(values),
        parent=None if path else parse_parent_link(values.get(semconv.PARENT)),
        deadline_at=None if path else _get_number(values, semconv.DEADLINE),
        stall_after_s=None if path else _get_number(values, semconv.STALL_AFTER) or None,
    )


def read_item(event: ReceivedEvent) -> ItemReport:
    """Return the unit of work of an item event. Raises InvalidReportError."""
    values = event.attributes
    path = _get_text(values, semconv.PATH) or ""
    type_, _ = split_last_segment(path)
    origin = read_origin(event)
    outcome = _get_text(values, semconv.ITEM_OUTCOME)
    if outcome is not None and outcome not in _OUTCOMES:
        msg = f"the outcome {truncate(outcome, 40)!r} is unknown; expected one of {', '.join(_OUTCOMES)}"
        raise InvalidReportError(msg)
    return ItemReport(
        origin=origin,
        path=path,
        level_type=normalize_id(_get_text(values, semconv.LEVEL_TYPE) or type_ or origin.operation_type),
        at=event.at,
        name=_shorten(_get_text(values, semconv.ITEM_NAME), MAX_NAME),
        outcome=None if outcome is None else _OUTCOMES[outcome],
        error=_read_failure(values, Status.RUNNING),
        metadata=_read_metadata(values),
    )


def redact_report(report: T, redactor: Redactor) -> T:
    """Return a report with a redacted name, message, error and metadata."""
    changes: dict[str, object] = {}
    message = report.message if isinstance(report, LevelReport) else None
    for key, text, limit in (("name", report.name, MAX_NAME), ("message", message, MAX_TEXT)):
        if text:
            clean = redactor.redact_text(key, text, limit)
            if clean != text:
                changes[key] = clean
    if report.error is not None:
        clean = redactor.redact_text("error", report.error.message)
        if clean != report.error.message:
            changes["error"] = replace(report.error, message=clean)
    if report.metadata:
        metadata = redactor.redact_metadata(report.metadata)
        if metadata != report.metadata:
            changes["metadata"] = metadata
    return replace(report, **changes) if changes else report  # type: ignore[arg-type]


def read_origin(event: ReceivedEvent) -> RunOrigin:
    """Return what identifies the run of an event. Raises InvalidReportError."""
    values = event.attributes
    operation_id = _get_text(values, semconv.OPERATION_ID)
    if not operation_id:
        msg = f"the attribute {semconv.OPERATION_ID} is missing"
        raise InvalidReportError(msg)
    return RunOrigin(
        normalize_id(operation_id),
        normalize_id(_get_text(values, semconv.OPERATION_TYPE) or DEFAULT_TYPE),
        _shorten(_get_text(values, semconv.RUN), MAX_ID) or None,
        event.trace_id,
    )


def _read_start(values: Mapping[str, MetadataValue], event: ReceivedEvent, rank: Rank) -> float | None:
    started_at = _get_number(values, semconv.START_TIME)
    if started_at is not None:
        return min(float(started_at), event.at)
    return event.at if rank is Rank.STARTED else None


def _get_weight(values: Mapping[str, MetadataValue]) -> Number:
    weight = _get_number(values, semconv.LEVEL_WEIGHT)
    return 1 if weight is None else weight


def _read_batch(values: Mapping[str, MetadataValue]) -> str | None:
    text = _get_text(values, semconv.BATCH_ID)
    return normalize_id(text) if text else None


def _read_status(values: Mapping[str, MetadataValue], rank: Rank) -> Status:
    """Return the status. A level that started is running, independent of the event.

    Why: a level shorter than a tick has its final status in its start event already, and the
    end follows.
    """
    if rank is Rank.STARTED:
        return Status.RUNNING
    text = _get_text(values, semconv.STATUS)
    status = _STATUSES.get(text or "")
    if text and status is None:
        msg = f"the status {truncate(text, 40)!r} is unknown; expected one of {', '.join(_STATUSES)}"
        raise InvalidReportError(msg)
    if rank is Rank.FINISHED:
        return status if status is not None and status.finished else Status.COMPLETED
    return Status.RUNNING if status is None or status.finished else status


def _read_failure(values: Mapping[str, MetadataValue], status: Status) -> Failure | None:
    type_ = _get_text(values, semconv.ERROR_TYPE)
    message = _get_text(values, semconv.EXCEPTION_MESSAGE)
    if type_ is None and message is None and status is not Status.FAILED:
        return None
    text = message or _get_text(values, semconv.MESSAGE) or ""
    return Failure(truncate(type_ or "Error", MAX_NAME), truncate(text, MAX_TEXT))


def _read_metadata(values: Mapping[str, MetadataValue]) -> Mapping[str, MetadataValue]:
    prefix = semconv.METADATA_PREFIX
    pairs = [(key[len(prefix) :], value) for key, value in values.items() if key.startswith(prefix)]
    metadata = {
        key: truncate(value, MAX_TEXT) if isinstance(value, str) else value
        for key, value in pairs[:MAX_METADATA]
    }
    return metadata or NO_METADATA


def split_last_segment(path: str) -> tuple[str, str]:
    """Return type and id of the last segment of a path. Raises InvalidReportError."""
    if not path:
        return "", ""
    segments = path.split("/")
    if len(segments) > MAX_DEPTH:
        msg = f"the path has {len(segments)} segments; expected at most {MAX_DEPTH}"
        raise InvalidReportError(msg)
    for segment in segments:
        type_, colon, id_ = segment.partition(":")
        if not type_ or not colon or not id_:
            msg = f"the path {truncate(path, 80)!r} is invalid; expected segments type:id joined by /"
            raise InvalidReportError(msg)
    type_, _, id_ = segments[-1].partition(":")
    return unquote(type_), unquote(id_)


def _get_text(values: Mapping[str, MetadataValue], key: str) -> str | None:
    value = values.get(key)
    if value is None or isinstance(value, tuple):
        return None
    return value if isinstance(value, str) else str(value)


def _get_number(values: Mapping[str, MetadataValue], key: str) -> Number | None:
    """Return a finite number of at least 0, or None if absent.

    Raises InvalidReportError.
    """
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, (bool, tuple, str)) or not math.isfinite(value) or value < 0:
        msg = f"{key} is {truncate(value, 40)!r}; expected a number of at least 0"
        raise InvalidReportError(msg)
    return value


def _get_integer(values: Mapping[str, MetadataValue], key: str) -> int | None:
    number = _get_number(values, key)
    return None if number is None else int(number)


def _shorten(text: str | None, limit: int) -> str | None:
    return None if text is None else truncate(text, limit)
