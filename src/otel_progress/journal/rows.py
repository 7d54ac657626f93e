"""Encoders and decoders between records and rows of the journal.

Other processes, perhaps of another version, wrote the rows. So invalid rows decode to None, text
becomes valid Unicode, and numbers that are not finite become unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any, Final, TypeAlias

from otel_progress import codec
from otel_progress.batches import BatchDeclaration
from otel_progress.journal.decoding import (
    DECODE_ERRORS,
    ETA,
    EXTRA,
    NO_EXTRA,
    NUMBER,
    NUMBER_OR_NONE,
    SAMPLE,
    TEXT_OR_NONE,
    USE,
    decode_eta_column,
    decode_extra_column,
    decode_failure_column,
    decode_info_column,
    decode_metadata_column,
    decode_sample_values,
    decode_use_column,
)
from otel_progress.journal.liveness import Heartbeat
from otel_progress.model import (
    NO_METADATA,
    Eta,
    Failure,
    Instance,
    LevelInfo,
    LevelSnapshot,
    Outcome,
    Status,
    adjust_ratio,
)
from otel_progress.operations import Event
from otel_progress.records import Contribution, LogRecord, Preview, ResourceSample, ResourceUse

Value: TypeAlias = "str | int | float | None"


Row: TypeAlias = "tuple[Value, ...]"


ADVANCE: Final = (
    "sequence",
    "current",
    "ratio",
    "message",
    "observed_at",
    "observed_clock",
    "advanced_at",
    "advanced_clock",
    "stall_after_s",
)
"""Columns of ``states`` that nearly every change updates. Why separate: the cost of an UPDATE
depends on the number of bound values.
"""


_REST: Final = (
    "status",
    "total",
    "failed",
    "skipped",
    "metadata",
    "error",
    "stage",
    "eta",
    "ended_at",
    "duration_s",
)


REST: Final = (*_REST, "extra")
"""Columns of ``states`` that change rarely."""


STATE: Final = ADVANCE + REST


EVENT: Final = ("path", "level_type", "kind", "number", "at", "name", "outcome", "error", "metadata")
"""Columns of ``events`` that are fields of an Event."""


_LOG_VALUES: Final = (
    "path",
    "number",
    "at",
    "severity",
    "severity_text",
    "logger",
    "message",
    "details",
    "trace_id",
    "span_id",
)


LOG: Final = (*_LOG_VALUES, "attributes")
"""Columns of ``logs`` that are fields of a LogRecord."""


get_advance: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*ADVANCE)
"""Return the columns of ADVANCE of a snapshot."""


get_rest: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*_REST, *EXTRA)
"""Return the fields of REST of a snapshot, to compare them or to encode them."""


PREVIEW: Final = (
    "number", "path", "at", "name", "media_type", "size_bytes",
    "digest", "location", "width", "height", "ratio",
)  # fmt: skip
"""Columns of ``previews`` that are fields of a Preview."""


encode_preview_row: Final[Callable[[Preview], tuple[Any, ...]]] = attrgetter(*PREVIEW)
"""Return the columns of PREVIEW of a preview."""


DECLARATION: Final = ("id", "name", "type", "total", "started_at", "ended_at", "sequence")
"""Columns of ``batches`` that are fields of a BatchDeclaration."""


encode_declaration_row: Final[Callable[[BatchDeclaration], tuple[Any, ...]]] = attrgetter(*DECLARATION)
"""Return the columns of DECLARATION of a declaration."""


encode_sample_row: Final[Callable[[ResourceSample], tuple[Any, ...]]] = attrgetter(*SAMPLE)
"""Return the columns of SAMPLE of a sample."""


_get_eta_values: Final[Callable[[Eta], tuple[Any, ...]]] = attrgetter(*ETA)


_get_use_values: Final[Callable[[ResourceUse], tuple[Any, ...]]] = attrgetter(*USE)


_get_log_values: Final[Callable[[LogRecord], tuple[Any, ...]]] = attrgetter(*_LOG_VALUES)


# Why one encoder: json.dumps creates one per call with an option, which takes longer than encoding.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


_STATUS: Final = {status.value: status for status in Status}


_TYPES_BY_COLUMN: Final = {
    **dict.fromkeys(
        ("sequence", "current", "observed_at", "observed_clock", "stall_after_s", "failed", "skipped"), NUMBER
    ),
    **dict.fromkeys(
        ("ratio", "advanced_at", "advanced_clock", "total", "ended_at", "duration_s"), NUMBER_OR_NONE
    ),
    **dict.fromkeys(("message", "metadata", "error", "stage", "eta", "extra"), TEXT_OR_NONE),
    "status": frozenset({str}),
}


_TYPES: Final = tuple(_TYPES_BY_COLUMN[column] for column in STATE)


_MAX_COUNT: Final = float(2**63)


def encode_rest(rest: tuple[Any, ...]) -> Row:
    """Encode the fields of ``get_rest`` as columns of REST."""
    status, total, failed, skipped, metadata, error, stage, eta, ended_at, duration_s = rest[: len(_REST)]
    extra = rest[len(_REST) :]
    return (
        status.value,
        total,
        failed,
        skipped,
        _encode_metadata(metadata) if metadata else None,
        None if error is None else _encode_failure(error),
        stage,
        None if eta is None else _encode_eta(eta),
        ended_at,
        duration_s,
        None if extra == NO_EXTRA else _encode_extra(extra),
    )


def encode_info_column(info: LevelInfo) -> str:
    """Encode the column ``info``."""
    return _dumps(codec.encode_info(info))


def encode_event_row(event: Event) -> Row:
    """Encode an event as columns of EVENT."""
    return (
        event.path,
        event.level_type,
        event.kind,
        event.number,
        event.at,
        event.name,
        None if event.outcome is None else event.outcome.value,
        None if event.error is None else _encode_failure(event.error),
        _encode_metadata(event.metadata) if event.metadata else None,
    )


def encode_log_row(record: LogRecord) -> Row:
    """Encode a log record as columns of LOG."""
    return (*_get_log_values(record), _encode_metadata(record.attributes) if record.attributes else None)


def encode_contribution(contribution: Contribution) -> str:
    """Encode a contribution without its writer, as a JSON array."""
    level = contribution.level
    flags = (contribution.is_share, contribution.is_counted, contribution.is_tracked)
    state = (*get_advance(level), *encode_rest(get_rest(level)))
    for value in state:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise OverflowError(value)
    return _dumps((encode_info_column(level.info), flags, state))


def decode_contribution(writer: str, text: str) -> Contribution | None:
    """Return the contribution of a writer, or None if the text is invalid."""
    try:
        info, flags, state = json.loads(text)
        level = decode_snapshot_row(info, state)
        if level is None or len(flags) < 3:
            return None
        return Contribution(level, writer, *(flag is True for flag in flags[:3]))
    except DECODE_ERRORS:
        return None


def encode_use_column(use: ResourceUse) -> str:
    """Encode the column ``use``, an array in the order of SAMPLE and USE."""
    return _dumps((*encode_sample_row(use.last), *_get_use_values(use)))


def decode_snapshot_row(info: str, state: Sequence[Any]) -> LevelSnapshot | None:
    """Return the snapshot of ``info`` and STATE columns, or None if one is invalid."""
    try:
        if not _are_valid_types(tuple(map(type, state))):
            return None
        if not _is_finite(state) and (finite := _replace_non_finite(state)) != list(state):
            state = finite
        sequence, current, ratio, message, observed_at, observed_clock = state[:6]
        advanced_at, advanced_clock, stall_after_s, status, total, failed, skipped = state[6:13]
        metadata, error, stage, eta, ended_at, duration_s, extra = state[13:]
        return LevelSnapshot(
            decode_info_column(info),
            sequence,
            _STATUS[status],
            current,
            total,
            adjust_ratio(_STATUS[status], current, total, ratio),
            failed,
            skipped,
            message,
            NO_METADATA if metadata is None else decode_metadata_column(metadata),
            None if error is None else decode_failure_column(error),
            stage,
            None if eta is None else decode_eta_column(eta),
            observed_at,
            observed_clock,
            advanced_at,
            advanced_clock,
            stall_after_s,
            ended_at,
            duration_s,
            *(NO_EXTRA if extra is None else decode_extra_column(extra)),
        )
    except DECODE_ERRORS:
        return None


def _is_finite(state: Sequence[Any]) -> bool:
    """Return False if a number of the STATE columns is infinite. SQLite stores no NaN.

    The sum of all numbers is tested at once. It may be infinite although all numbers are finite.
    """
    sequence, current, ratio, _, observed_at, observed_clock = state[:6]
    advanced_at, advanced_clock, stall_after_s, _, total, failed, skipped = state[6:13]
    ended_at, duration_s = state[17:19]
    known = sequence + current + observed_at + observed_clock + stall_after_s + failed + skipped
    optional = (ratio or 0.0) + (advanced_at or 0.0) + (advanced_clock or 0.0) + (total or 0.0)
    return isfinite(known + optional + (ended_at or 0.0) + (duration_s or 0.0))


def decode_event_row(operation_id: str, operation_type: str, run: str, row: Sequence[Any]) -> Event | None:
    """Return the event of a row of EVENT columns, or None if a value is invalid."""
    try:
        path, level_type, kind, number, at, name, outcome, error, metadata = row
        if type(number) is not int or not _is_time(at) or {type(path), type(level_type), type(kind)} != {str}:
            return None
        return Event(
            operation_id,
            operation_type,
            run,
            path,
            level_type,
            kind,
            number,
            at,
            name if name is None else str(name),
            None if outcome is None else Outcome(outcome),
            None if error is None else decode_failure_column(error),
            NO_METADATA if metadata is None else decode_metadata_column(metadata),
        )
    except DECODE_ERRORS:
        return None


def decode_log_row(operation_id: str, operation_type: str, run: str, row: Sequence[Any]) -> LogRecord | None:
    """Return the log record of a row of LOG columns, or None if a value is invalid."""
    try:
        *values, attributes = row
        path, number, at, severity, severity_text, logger, message, details, trace_id, span_id = values
        if {type(number), type(severity)} != {int} or not _is_time(at):
            return None
        if {type(path), type(severity_text), type(logger), type(message)} != {str}:
            return None
        if not {type(details), type(trace_id), type(span_id)} <= TEXT_OR_NONE:
            return None
        known = NO_METADATA if attributes is None else decode_metadata_column(attributes)
        named = dict(zip(_LOG_VALUES, values, strict=True))
        return LogRecord(
            operation_id=operation_id, operation_type=operation_type, run=run, attributes=known, **named
        )
    except DECODE_ERRORS:
        return None


def decode_preview_row(
    operation_id: str, operation_type: str, run: str, row: Sequence[Any]
) -> Preview | None:
    """Return the preview of a row of PREVIEW columns, or None if a value is invalid."""
    number, path, at, name, media_type, size_bytes, digest, location, width, height, ratio = row
    if {type(number), type(size_bytes)} != {int} or type(at) is not float or not isfinite(at):
        return None
    if {type(path), type(name), type(media_type), type(digest), type(location)} != {str}:
        return None
    if not ({type(width), type(height)} <= {int, type(None)} and type(ratio) in NUMBER_OR_NONE):
        return None
    known = None if ratio is None or not isfinite(ratio) else ratio
    return Preview(
        operation_id,
        operation_type,
        run,
        path,
        number,
        at,
        name,
        media_type,
        size_bytes,
        digest,
        location,
        width,
        height,
        known,
    )


def decode_heartbeat_row(row: Sequence[Any]) -> Heartbeat | None:
    """Return the heartbeat of a row of ``instances``, or None if a value is invalid."""
    identity, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock = row
    if {type(identity), type(host), type(service)} != {str}:
        return None
    if {type(heartbeat_at), type(heartbeat_clock)} != {float}:
        return None
    if type(pid) is not int or type(started_at) is not float or not (start is None or type(start) is int):
        return None
    if not isfinite(heartbeat_at) or not isfinite(heartbeat_clock) or not isfinite(started_at):
        return None
    return Heartbeat(Instance(identity, pid, host, service, started_at, start), heartbeat_at, heartbeat_clock)


def create_placeholder(batch_id: str, started_at: float) -> BatchDeclaration:
    """Return the placeholder of a batch that is not declared yet."""
    return BatchDeclaration(batch_id, batch_id, "batch", None, started_at, None, 0)


def decode_declaration_row(row: Sequence[Any]) -> BatchDeclaration | None:
    """Return the declaration of a row, or None if the row is invalid."""
    info = BatchDeclaration(*row[: len(DECLARATION)])
    if {type(info.id), type(info.name), type(info.type)} != {str} or type(info.sequence) is not int:
        return None
    if type(info.started_at) is not float or not isfinite(info.started_at):
        return None
    total = info.total if type(info.total) is int else None
    ended_at = info.ended_at if type(info.ended_at) is float and isfinite(info.ended_at) else None
    return replace(info, total=total, ended_at=ended_at)


def decode_sample_row(row: Sequence[Any]) -> ResourceSample | None:
    """Return the sample of a row of SAMPLE columns, or None if a value is invalid."""
    try:
        return decode_sample_values(row)
    except DECODE_ERRORS:
        return None


def decode_use_or_none(text: Any) -> ResourceUse | None:
    """Return the resource use of a column, or None if it is empty or invalid."""
    try:
        return None if text is None else decode_use_column(text)
    except DECODE_ERRORS:
        return None


@lru_cache(maxsize=1024)
def _are_valid_types(types: tuple[type, ...]) -> bool:
    """Return True if the columns of STATE have valid types.

    Cached, since few combinations occur.
    """
    return all(found in valid for found, valid in zip(types, _TYPES, strict=True))


def _replace_non_finite(state: Sequence[Any]) -> list[Any]:
    """Return the columns of STATE without infinities.

    They become None if the column allows it, else the largest count, or 0 for a time.
    """
    result = list(state)
    for index, (column, value) in enumerate(zip(STATE, state, strict=True)):
        if type(value) is float and not isfinite(value):
            is_count = column in {"sequence", "current", "failed", "skipped"}
            known = (_MAX_COUNT if value > 0 else -_MAX_COUNT) if is_count else 0.0
            result[index] = None if type(None) in _TYPES_BY_COLUMN[column] else known
    return result


def _is_time(value: object) -> bool:
    return type(value) is float and isfinite(value)


def _encode_metadata(metadata: Mapping[str, Any]) -> str:
    return _dumps(dict(metadata))


def _encode_failure(failure: Failure) -> str:
    return _dumps(codec.encode_failure(failure))


def _encode_extra(extra: tuple[Any, ...]) -> str:
    """Return the column ``extra``: an array, in the order of EXTRA."""
    return _dumps(
        [
            default if type(value) is float and not isfinite(value) else value
            for value, default in zip(extra, NO_EXTRA, strict=True)
        ]
    )


def _encode_eta(eta: Eta) -> str:
    """Encode an estimate as an array in the order of ETA.

    Why no names: it changes as often as the count, and names would triple its length.
    """
    return _dumps(_get_eta_values(eta))
