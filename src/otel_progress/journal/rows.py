"""Snapshots and events to rows of the journal, and back.

What is read was written by other processes, perhaps by another version, so a row that does not decode is left out
(``None``), and text is made valid Unicode again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

from otel_progress import codec
from otel_progress.model import Eta, Event, Failure, Instance, LevelInfo, Outcome, Snapshot, Status
from otel_progress.protocols import Batch

Value: TypeAlias = "str | int | float | None"
Row: TypeAlias = "tuple[Value, ...]"
_Record = TypeVar("_Record", Instance, LevelInfo, Snapshot, Event, Failure)

ADVANCE: Final = (
    "sequence",
    "current",
    "ratio",
    "message",
    "observed_at",
    "observed_clock",
    "advanced_at",
    "advanced_clock",
    "longest_gap_s",
)
"""Columns of ``states`` that nearly every change touches; alone where possible, as an UPDATE costs by the bound value."""
REST: Final = ("status", "total", "failed", "skipped", "metadata", "error", "stage", "eta", "ended_at", "duration_s")
"""The other columns of ``states``, which change now and then."""
STATE: Final = ADVANCE + REST
EVENT: Final = ("path", "level_type", "kind", "number", "at", "name", "outcome", "error", "metadata")
"""Columns of ``events`` that make an event."""

advance_of: Final[Callable[[Snapshot], tuple[Any, ...]]] = attrgetter(*ADVANCE)
"""The columns of ADVANCE of a snapshot."""
rest_of: Final[Callable[[Snapshot], tuple[Any, ...]]] = attrgetter(*REST)
"""The fields of REST as they are in the snapshot: to compare, and for ``rest_row``."""

_ETA: Final = ("remaining_s", "low_s", "high_s", "state", "basis", "runs", "clock")
_eta_values: Final[Callable[[Eta], tuple[Any, ...]]] = attrgetter(*_ETA)
# One encoder for all: json.dumps builds a new one on every call that names an option, which costs more than the encoding.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_INT64: Final = 2**63
_CACHED: Final = 4096
_NUMBER: Final = frozenset({int, float})
_NUMBER_OR_NONE: Final = _NUMBER | {type(None)}
_TEXT_OR_NONE: Final = frozenset({str, type(None)})
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def rest_row(rest: tuple[Any, ...]) -> Row:
    """Return the columns of REST for what ``rest_of`` gave."""
    status, total, failed, skipped, metadata, error, stage, eta, ended_at, duration_s = rest
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


def storable_batch(batch: Batch) -> Batch:
    """Return the batch as SQLite and JSON can hold it: integers within 64 bits, valid Unicode, no NaN in metadata.

    For what slipped through at the worker's side only: a batch is written as it is, and comes here when it was refused.
    """
    return replace(
        batch,
        instance=_cleaned(batch.instance),
        snapshots=[_cleaned(snapshot) for snapshot in batch.snapshots],
        events=[_cleaned(event) for event in batch.events],
        evicted=[(_storable(run), _storable(path)) for run, path in batch.evicted],
    )


def snapshot_of(info: str, state: Sequence[Any]) -> Snapshot | None:
    """Return the snapshot of a column ``info`` and the columns of STATE; None when they are not one."""
    try:
        (sequence, current, ratio, message, observed_at, observed_clock, advanced_at, advanced_clock, longest_gap_s) = state[:9]
        (status, total, failed, skipped, metadata, error, stage, eta, ended_at, duration_s) = state[9:]
        known = {type(sequence), type(current), type(observed_at), type(observed_clock), type(longest_gap_s), type(failed)}
        maybe = {type(ratio), type(advanced_at), type(advanced_clock), type(total), type(ended_at), type(duration_s)}
        text = {type(message), type(stage)}
        if not (known <= _NUMBER and maybe <= _NUMBER_OR_NONE and text <= _TEXT_OR_NONE and type(skipped) is int):
            return None
        return Snapshot(
            info=_info_of(info) if len(info) <= _CACHED else _info_of.__wrapped__(info),
            sequence=sequence,
            status=Status(status),
            current=current,
            total=total,
            ratio=ratio,
            failed=failed,
            skipped=skipped,
            message=message,
            metadata=codec.decode_metadata(None if metadata is None else _loads(metadata)),
            error=codec.decode_failure(None if error is None else _loads(error)),
            stage=stage,
            eta=None if eta is None else _eta_of(json.loads(eta)),
            observed_at=observed_at,
            observed_clock=observed_clock,
            advanced_at=advanced_at,
            advanced_clock=advanced_clock,
            longest_gap_s=longest_gap_s,
            ended_at=ended_at,
            duration_s=duration_s,
        )
    except _UNREADABLE:
        return None


def event_of(operation_id: str, operation_type: str, run: str, row: Sequence[Any]) -> Event | None:
    """Return the event of the columns of EVENT; None when they are not one."""
    try:
        path, level_type, kind, number, at, name, outcome, error, metadata = row
        if type(number) is not int or type(at) is not float or {type(path), type(level_type), type(kind)} != {str}:
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
            codec.decode_failure(None if error is None else _loads(error)),
            codec.decode_metadata(None if metadata is None else _loads(metadata)),
        )
    except _UNREADABLE:
        return None


@lru_cache(maxsize=8192)
def _info_of(text: str) -> LevelInfo:
    """Decode an ``info`` column; cached, since the same levels are read over and over."""
    info = codec.decode_info(_loads(text))
    strings = (info.operation_id, info.operation_type, info.run, info.path, info.type, info.id, info.name, info.instance)
    numbers = {type(info.weight), type(info.attempt), type(info.order)}
    maybe = {type(info.started_at), type(info.started_clock), type(info.deadline_at)}
    texts = {type(info.unit), type(info.trace_id), type(info.span_id)}
    if {type(value) for value in strings} != {str} or type(info.declared) is not bool:
        raise TypeError(text)
    if not (numbers <= _NUMBER and maybe <= _NUMBER_OR_NONE and texts <= _TEXT_OR_NONE):
        raise TypeError(text)
    return info


def _loads(text: str) -> Any:
    """Decode JSON that must be an object. Escaped lone surrogates, which nothing of ours writes, become "?"."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError(text)
    if "\\u" in text:
        return json.loads(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8"))
    return document


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    return _dumps(dict(metadata))


def _failure_text(failure: Failure) -> str:
    return _dumps(codec.encode_failure(failure))


def _eta_text(eta: Eta) -> str:
    """Return an array in the order of ``_ETA``: it changes as often as the count, and names would make it three times as long."""
    return _dumps(_eta_values(eta))


def _eta_of(values: list[Any]) -> Eta:
    eta = Eta(*values[: len(_ETA)])
    if not {type(eta.remaining_s), type(eta.low_s), type(eta.high_s)} <= _NUMBER_OR_NONE or type(eta.clock) not in _NUMBER:
        raise TypeError(values)
    if {type(eta.state), type(eta.basis)} != {str} or type(eta.runs) is not int:
        raise TypeError(values)
    return eta


def _cleaned(record: _Record) -> _Record:
    return replace(record, **{item.name: _storable(getattr(record, item.name)) for item in fields(record)})


def _storable(value: Any) -> Any:
    if isinstance(value, (Status, Outcome)):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else _as_float(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable_in_json(item) for key, item in value.items()}
    if isinstance(value, Eta):
        return replace(value, **{name: _storable_in_json(getattr(value, name)) for name in _ETA})
    if isinstance(value, Failure):
        return _cleaned(value)
    return _cleaned(value) if isinstance(value, LevelInfo) else value


def _storable_in_json(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_storable_in_json(item) for item in value)
    value = _storable(value)
    return codec.finite(value) if isinstance(value, float) else value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
