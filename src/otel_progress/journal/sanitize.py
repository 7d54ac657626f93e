"""Batches as SQLite and JSON can hold them: integers within 64 bits, valid Unicode, no NaN within JSON.

For what slipped through at the worker's side only: a batch is written as it is, and comes here when it was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, Final, TypeVar

from otel_progress import codec
from otel_progress.protocols import ChangeSet

_INT64: Final = 2**63


_LARGEST: Final = float(_INT64)


_Record = TypeVar("_Record")


def sanitize_change_set(batch: ChangeSet) -> ChangeSet:
    """Return the batch as it can be kept, its values replaced where they cannot."""
    return replace(
        batch,
        instance=_cleaned(batch.instance),
        snapshots=[_cleaned(snapshot) for snapshot in batch.snapshots],
        events=[_cleaned(event) for event in batch.events],
        evicted=[(_storable(run), _storable(path)) for run, path in batch.evicted],
        logs=[_cleaned(record) for record in batch.logs],
        sample=None if batch.sample is None else _cleaned(batch.sample),
        resources={_storable(run): _storable_in_json(use) for run, use in batch.resources.items()},
        batches=[_cleaned(info) for info in batch.batches],
        trajectories=[_cleaned(lesson) for lesson in batch.trajectories],
        previews=[_cleaned(preview) for preview in batch.previews],
    )


def sanitize_text(text: str) -> str:
    """Return text as valid Unicode: a lone surrogate, which no database takes, becomes an escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cleaned(record: _Record, clean: Callable[[Any], Any] | None = None) -> _Record:
    clean = clean or _storable
    values = {item.name: clean(getattr(record, item.name)) for item in fields(record)}  # type: ignore[arg-type]
    return replace(record, **values)  # type: ignore[type-var]


def _storable(value: Any) -> Any:
    """Return a value for a column."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return sanitize_text(value)
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else _as_float(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable_in_json(item) for key, item in value.items()}
    return (
        _storable_in_json(value) if is_dataclass(value) else value
    )  # records within records are kept as JSON


def _storable_in_json(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_storable_in_json(item) for item in value)
    if is_dataclass(value):
        return _cleaned(value, _storable_in_json)
    value = _storable(value)
    return codec.finite(value) if isinstance(value, float) else value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return _LARGEST if value > 0 else -_LARGEST
