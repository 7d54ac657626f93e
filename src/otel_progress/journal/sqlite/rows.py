"""Snapshots, events and log records to rows of the journal, and back.

What is read was written by other processes, perhaps by another version, so a row that does not decode is left out
(``None``), text is made valid Unicode again, and what is not finite becomes unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any, Final, TypeAlias

from otel_progress import codec
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
from otel_progress.model import NO_METADATA, Eta, Failure, LevelInfo, LevelSnapshot, Number, Outcome, Status
from otel_progress.operations import Event
from otel_progress.records import LogRecord, ResourceSample, ResourceUse

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
"""Columns of ``states`` that nearly every change touches; alone where possible, as an UPDATE costs by the bound value."""


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
"""The other columns of ``states``, which change now and then."""


STATE: Final = ADVANCE + REST


EVENT: Final = ("path", "level_type", "kind", "number", "at", "name", "outcome", "error", "metadata")
"""Columns of ``events`` that make an event."""


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
"""Columns of ``logs`` that make a log record."""


advance_of: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*ADVANCE)
"""The columns of ADVANCE of a snapshot."""


rest_of: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*_REST, *EXTRA)
"""The fields of REST as they are in the snapshot: to compare, and for ``rest_row``."""


sample_row: Final[Callable[[ResourceSample], tuple[Any, ...]]] = attrgetter(*SAMPLE)
"""The columns of SAMPLE of a sample."""


_eta_values: Final[Callable[[Eta], tuple[Any, ...]]] = attrgetter(*ETA)


_use_values: Final[Callable[[ResourceUse], tuple[Any, ...]]] = attrgetter(*USE)


_log_values: Final[Callable[[LogRecord], tuple[Any, ...]]] = attrgetter(*_LOG_VALUES)


# One encoder for all: json.dumps builds a new one on every call that names an option, which costs more than the encoding.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


_STATUS: Final = {status.value: status for status in Status}


_KIND: Final = {  # what each column of STATE may hold
    **dict.fromkeys(
        ("sequence", "current", "observed_at", "observed_clock", "stall_after_s", "failed", "skipped"), NUMBER
    ),
    **dict.fromkeys(
        ("ratio", "advanced_at", "advanced_clock", "total", "ended_at", "duration_s"), NUMBER_OR_NONE
    ),
    **dict.fromkeys(("message", "metadata", "error", "stage", "eta", "extra"), TEXT_OR_NONE),
    "status": frozenset({str}),
}


_KINDS: Final = tuple(_KIND[column] for column in STATE)


_LARGEST: Final = float(2**63)


def rest_row(rest: tuple[Any, ...]) -> Row:
    """Return the columns of REST for what ``rest_of`` gave."""
    status, total, failed, skipped, metadata, error, stage, eta, ended_at, duration_s = rest[: len(_REST)]
    extra = rest[len(_REST) :]
    return (
        status.value,
        total,
        failed,
        skipped,
        _metadata_text(metadata) if metadata else None,
        None if error is None else _failure_text(error),
        stage,
        None if eta is None else _eta_text(eta),
        ended_at,
        duration_s,
        None if extra == NO_EXTRA else _extra_text(*extra),
    )


def info_text(info: LevelInfo) -> str:
    """Return the column ``info``."""
    return _dumps(codec.encode_info(info))


def event_row(event: Event) -> Row:
    """Return the columns of EVENT."""
    return (
        event.path,
        event.level_type,
        event.kind,
        event.number,
        event.at,
        event.name,
        None if event.outcome is None else event.outcome.value,
        None if event.error is None else _failure_text(event.error),
        _metadata_text(event.metadata) if event.metadata else None,
    )


def log_row(record: LogRecord) -> Row:
    """Return the columns of LOG."""
    return (*_log_values(record), _metadata_text(record.attributes) if record.attributes else None)


def use_text(use: ResourceUse) -> str:
    """Return the column ``use``: an array, in the order of SAMPLE and USE."""
    return _dumps((*sample_row(use.last), *_use_values(use)))


def decode_snapshot_row(info: str, state: Sequence[Any]) -> LevelSnapshot | None:
    """Return the snapshot of a column ``info`` and the columns of STATE; None when they are not one."""
    try:
        if not _fits(tuple(map(type, state))):
            return None
        (
            sequence,
            current,
            ratio,
            message,
            observed_at,
            observed_clock,
            advanced_at,
            advanced_clock,
            stall_after_s,
        ) = state[:9]
        (status, total, failed, skipped, metadata, error, stage, eta, ended_at, duration_s, extra) = state[9:]
        # An infinity makes the sum one, or NaN; SQLite itself keeps no NaN.
        known = sequence + current + observed_at + observed_clock + stall_after_s + failed + skipped
        maybe = (
            (ratio or 0.0)
            + (advanced_at or 0.0)
            + (advanced_clock or 0.0)
            + (total or 0.0)
            + (ended_at or 0.0)
        )
        if not isfinite(known + maybe + (duration_s or 0.0)) and (
            tamed := _replace_non_finite(state)
        ) != list(state):
            return decode_snapshot_row(info, tamed)
        return LevelSnapshot(
            decode_info_column(info),
            sequence,
            _STATUS[status],
            current,
            total,
            ratio,
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


def decode_event_row(operation_id: str, operation_type: str, run: str, row: Sequence[Any]) -> Event | None:
    """Return the event of the columns of EVENT; None when they are not one."""
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
    """Return the log record of the columns of LOG; None when they are not one."""
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


def decode_sample_row(row: Sequence[Any]) -> ResourceSample | None:
    """Return the sample of the columns of SAMPLE; None when they are not one."""
    try:
        return decode_sample_values(row)
    except DECODE_ERRORS:
        return None


def decode_use_or_none(text: Any) -> ResourceUse | None:
    """Return what a column ``use`` holds; None when it holds nothing, or no such thing."""
    try:
        return None if text is None else decode_use_column(text)
    except DECODE_ERRORS:
        return None


@lru_cache(maxsize=1024)
def _fits(types: tuple[type, ...]) -> bool:
    """Return True when columns of STATE have types that they may have; remembered, as there are few such combinations."""
    return all(found in kind for found, kind in zip(types, _KINDS, strict=True))


def _replace_non_finite(state: Sequence[Any]) -> list[Any]:
    """Return columns of STATE without infinities: unknown where that can be said, else the largest count, or 0 for a time."""
    result = list(state)
    for index, (column, value) in enumerate(zip(STATE, state, strict=True)):
        if type(value) is float and not isfinite(value):
            counted = column in {"sequence", "current", "failed", "skipped"}
            known = (_LARGEST if value > 0 else -_LARGEST) if counted else 0.0
            result[index] = None if type(None) in _KIND[column] else known
    return result


def _is_time(value: object) -> bool:
    return type(value) is float and isfinite(value)


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    return _dumps(dict(metadata))


def _failure_text(failure: Failure) -> str:
    return _dumps(codec.encode_failure(failure))


def _extra_text(
    estimated: bool,
    paused_clock: float | None,
    paused_s: float,
    previews: int,
    overdue_after_s: float | None,
    resumed_from: Number,
) -> str:
    """Return the column ``extra``: an array, in the order of EXTRA."""
    values = (
        estimated,
        codec.finite(paused_clock),
        codec.finite(paused_s) or 0.0,
        previews,
        codec.finite(overdue_after_s),
    )
    return _dumps((*values, codec.finite(resumed_from) or 0))


def _eta_text(eta: Eta) -> str:
    """Return an array in the order of ``ETA``: it changes as often as the count, and names would make it three times as long."""
    return _dumps(_eta_values(eta))
