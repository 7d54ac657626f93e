"""Replaces values that SQLite or JSON cannot store.

These are integers beyond 64 bits, invalid Unicode, and NaN within JSON. A change set is sanitized
only after SQLite rejected it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, Final, TypeVar

from otel_progress import codec
from otel_progress.protocols import ChangeSet
from otel_progress.records import Contribution

_INT64_LIMIT: Final = 2**63


_MAX_FLOAT: Final = float(_INT64_LIMIT)


_Record = TypeVar("_Record")


def sanitize_change_set(change_set: ChangeSet) -> ChangeSet:
    """Return the change set with all values storable."""
    return replace(
        change_set,
        instance=_sanitize_record(change_set.instance),
        snapshots=[_sanitize_record(snapshot) for snapshot in change_set.snapshots],
        events=[_sanitize_record(event) for event in change_set.events],
        evicted=[(_to_column(run), _to_column(path)) for run, path in change_set.evicted],
        logs=[_sanitize_record(record) for record in change_set.logs],
        sample=None if change_set.sample is None else _sanitize_record(change_set.sample),
        resources={_to_column(run): _to_json_value(use) for run, use in change_set.resources.items()},
        batches=[_sanitize_record(declaration) for declaration in change_set.batches],
        trajectories=[_sanitize_record(entry) for entry in change_set.trajectories],
        previews=[_sanitize_record(preview) for preview in change_set.previews],
        cancel_requests=[_sanitize_record(request) for request in change_set.cancel_requests],
        completed_keys=[each._replace(run=_to_column(each.run)) for each in change_set.completed_keys],
        checkpoints={_to_column(run): _to_column(text) for run, text in change_set.checkpoints.items()},
        contributions=[_sanitize_contribution(each) for each in change_set.contributions],
        relayed=[_sanitize_record(snapshot) for snapshot in change_set.relayed],
    )


def _sanitize_contribution(contribution: Contribution) -> Contribution:
    level = _sanitize_record(contribution.level)
    return replace(contribution, level=level, writer=sanitize_text(contribution.writer))


def sanitize_text(text: str) -> str:
    """Return valid Unicode, with escapes for lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sanitize_record(record: _Record, convert: Callable[[Any], Any] | None = None) -> _Record:
    """Return the record with each field converted for a column, or by ``convert``."""
    convert = convert or _to_column
    values = {item.name: convert(getattr(record, item.name)) for item in fields(record)}  # type: ignore[arg-type]
    return replace(record, **values)  # type: ignore[type-var]


def _to_column(value: Any) -> Any:
    """Return a value that a column can store.

    Records within records are stored as JSON.
    """
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return sanitize_text(value)
    if isinstance(value, int):
        return value if -_INT64_LIMIT <= value < _INT64_LIMIT else _to_float(value)
    if isinstance(value, Mapping):
        return {_to_column(str(key)): _to_json_value(item) for key, item in value.items()}
    return _to_json_value(value) if is_dataclass(value) else value


def _to_json_value(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_to_json_value(item) for item in value)
    if is_dataclass(value):
        return _sanitize_record(value, _to_json_value)
    value = _to_column(value)
    return codec.finite(value) if isinstance(value, float) else value


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return _MAX_FLOAT if value > 0 else -_MAX_FLOAT
