"""Pages of operations, batches and records, with cursors.

A cursor contains the sort value and the run of the last operation. Operations that start or end
between two requests therefore do not move others to another page. Where the sort value itself
changes (ratio, elapsed, remaining), an operation may appear twice or not at all.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, get_args

from otel_progress.batches import BatchCursor, create_cursor
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import BatchQuery, Reader
from otel_progress.records import LogRecord, Preview, ResourceSample
from otel_progress.server.problems import Problem

MAX_PAGE: Final = 500
"""Longest page of operations and batches. A longer one is refused."""


PAGE: Final = 100
"""Default length of a page of operations and batches."""


_MAX_CURSOR_CHARACTERS: Final = 4_096


Sort: TypeAlias = Literal[
    "started", "-started", "ended", "-ended", "name", "-name", "type", "-type",
    "ratio", "-ratio", "elapsed", "-elapsed", "remaining", "-remaining",
]  # fmt: skip
"""Sort orders. ``-`` reverses the order. Unknown values are last in both directions."""


SORTS: Final[tuple[str, ...]] = get_args(Sort)


_Value: TypeAlias = "float | str | None"


_KEYS: Final[Mapping[str, Callable[[OperationSnapshot], _Value]]] = {
    "started": lambda operation: operation.root.info.started_at,
    "ended": lambda operation: operation.root.ended_at,
    "name": lambda operation: operation.name.casefold(),
    "type": lambda operation: operation.operation_type,
    "ratio": lambda operation: operation.ratio,
    "elapsed": lambda operation: operation.elapsed_seconds,
    "remaining": lambda operation: operation.remaining_seconds,
}


_TEXTS: Final = frozenset({"name", "type"})


@dataclass(frozen=True, slots=True)
class PageCursor:
    """Position of an operation in an order: its sort value and its run."""

    value: _Value
    run: str


def paginate(
    operations: Sequence[OperationSnapshot], sort: str, limit: int, cursor: str | None
) -> tuple[list[OperationSnapshot], str | None]:
    """Return the page after ``cursor`` and the cursor of the next page, or None.

    Without ``cursor`` it is the first page.

    Raises Problem (422) when the cursor is not valid for this order.
    """
    key, descending = _KEYS[sort.removeprefix("-")], sort.startswith("-")
    entries = [(_build_position(operation, key), operation) for operation in operations]
    entries.sort(key=_sort_key, reverse=descending)
    known = [entry for entry in entries if entry[0].value is not None]
    unknown = [entry for entry in entries if entry[0].value is None]
    if cursor is not None:
        last = read_cursor(cursor, sort)
        has_value = last.value is not None
        known = [entry for entry in known if has_value and _is_after(entry[0], last, descending)]
        unknown = [entry for entry in unknown if has_value or _is_after(entry[0], last, descending)]
    rest = known + unknown
    page = [operation for _, operation in rest[:limit]]
    return page, write_cursor(rest[limit - 1][0], sort) if len(rest) > limit else None


def write_cursor(position: PageCursor, sort: str) -> str:
    """Return the cursor of a position in an order."""
    return encode_cursor(sort, position.value, position.run)


def read_cursor(cursor: str, sort: str) -> PageCursor:
    """Return the position of a cursor.

    Raises Problem (422) when it is not valid for this order.
    """
    parts = decode_cursor(cursor, sort)
    if parts is None or len(parts) != 2 or type(parts[1]) is not str or not _is_sort_value(parts[0], sort):
        raise build_cursor_problem("Use next of the previous page with the same sort, or leave it out.")
    return PageCursor(parts[0], parts[1])


def encode_cursor(order: str, *parts: float | str | None) -> str:
    """Return a cursor with some values, for lists of one order."""
    # Why: escapes would make the longest name and id six times as long, beyond the limit.
    text = json.dumps([1, order, *parts], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def decode_cursor(cursor: str, order: str) -> Sequence[Any] | None:
    """Return the values of a cursor, None when it is not valid for this order."""
    try:
        if len(cursor) > _MAX_CURSOR_CHARACTERS or not cursor.isascii():
            return None
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        version, cursor_order, *parts = json.loads(raw)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return None
    return parts if version == 1 and cursor_order == order else None


def build_cursor_problem(fix: str) -> Problem:
    """Return the problem of an invalid cursor."""
    detail = f"Invalid cursor: expected one of this list. {fix}"
    return Problem(422, detail, errors=[("query cursor", detail)])


def _is_sort_value(value: object, sort: str) -> bool:
    if value is None:
        return True
    if sort.removeprefix("-") in _TEXTS:
        return type(value) is str
    if type(value) not in {int, float}:
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def _build_position(operation: OperationSnapshot, key: Callable[[OperationSnapshot], _Value]) -> PageCursor:
    value = key(operation)
    return PageCursor(None if isinstance(value, float) and not math.isfinite(value) else value, operation.run)


def _sort_key(entry: tuple[PageCursor, object]) -> tuple[bool, Any, str]:
    """Return the sort key.

    Values of one order are all texts or all numbers, except None.
    """
    position = entry[0]
    if position.value is None:
        return False, 0, position.run
    return True, position.value, position.run


def _is_after(position: PageCursor, last: PageCursor, descending: bool) -> bool:
    """Compare two positions that both have a value, or both have none."""
    key, last_key = _sort_key((position, None)), _sort_key((last, None))
    return key < last_key if descending else key > last_key


_BATCH_ORDER: Final = "batches"


_BATCH_CURSOR_TYPES: Final = (
    frozenset({int, float}),
    frozenset({bool}),
    frozenset({int, float}),
    frozenset({str}),
)


_LARGEST: Final = 2.0**63


def page_of_batches(
    reader: Reader, limit: int, cursor: str | None
) -> tuple[Sequence[BatchSnapshot], str | None]:
    """Return the page after ``cursor`` and the cursor of the next page, or None.

    Without ``cursor`` it is the first page.

    Raises Problem (422) when the cursor is not valid for batches.
    """
    after = _read_batch_cursor(cursor) if cursor else None
    batches = reader.batches(BatchQuery(limit + 1, after))
    page = batches[:limit]
    if len(batches) <= limit:
        return page, None
    listed_at = max(batch.read_at for batch in batches) if after is None else after.listed_at
    last = create_cursor(page[-1], None if after is None else listed_at)
    return page, encode_cursor(_BATCH_ORDER, listed_at, last.is_finished, last.started_at, last.id)


def _read_batch_cursor(cursor: str) -> BatchCursor:
    parts = decode_cursor(cursor, _BATCH_ORDER)
    if parts is None or len(parts) != len(_BATCH_CURSOR_TYPES):
        raise _invalid_batch_cursor()
    if not all(type(part) in types for part, types in zip(parts, _BATCH_CURSOR_TYPES, strict=True)):
        raise _invalid_batch_cursor()
    listed_at, is_finished, started_at, id_ = parts
    # The comparison is False for NaN.
    if not all(-_LARGEST <= number <= _LARGEST for number in (listed_at, started_at)):
        raise _invalid_batch_cursor()
    return BatchCursor(float(listed_at), is_finished, float(started_at), id_)


def _invalid_batch_cursor() -> Problem:
    return build_cursor_problem("Use next of the previous page, or leave it out.")


R = TypeVar("R")


_MAX_EQUAL: Final = 10_000
"""Records of one position that a cursor can count. A cursor with more is not valid."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """Records of one kind: name in cursors, position, and types of the position.

    The position of records grows within a run.
    """

    name: str
    get_position: Callable[[R], Any]
    types: frozenset[type]


EVENTS: Final[Kind[Event]] = Kind("events", lambda event: event.number, frozenset({int}))


LOGS: Final[Kind[LogRecord]] = Kind("logs", lambda record: record.number, frozenset({int}))


SAMPLES: Final[Kind[ResourceSample]] = Kind("samples", lambda sample: sample.clock, frozenset({int, float}))


PREVIEWS: Final[Kind[Preview]] = Kind("previews", lambda preview: preview.number, frozenset({int}))


def page_of_records(
    kind: Kind[R], fetch: Callable[[Any, int], Sequence[R]], run: str, limit: int, cursor: str | None
) -> tuple[Sequence[R], str | None]:
    """Return the page before ``cursor`` and the cursor of the next page, or None.

    Without ``cursor`` it is the page with the newest records.

    ``fetch(max_position, max_records)`` returns the newest ``max_records`` records of the run up to
    that position, oldest first. Raises Problem (422) when the cursor is not valid for this kind and
    run.
    """
    max_position, sent_count = _read_record_cursor(cursor, kind, run) if cursor else (None, 0)
    records = fetch(max_position, limit + sent_count + 1)
    equal = sum(kind.get_position(record) == max_position for record in records) if sent_count else 0
    # Why: processes that share a run number their records independently. Several records may
    # have the same position, before and after a cursor.
    rest = records[: len(records) - min(sent_count, equal)]
    page = rest[-limit:]
    if len(rest) <= limit:
        return page, None
    first = kind.get_position(page[0])
    new_count = sum(kind.get_position(record) == first for record in page)
    return page, encode_cursor(
        kind.name, first, new_count + (sent_count if first == max_position else 0), run
    )


def _read_record_cursor(cursor: str, kind: Kind[R], run: str) -> tuple[Any, int]:
    """Return the position of a cursor, and the number of sent records there."""
    parts = decode_cursor(cursor, kind.name)
    if parts is None or len(parts) != 3 or type(parts[0]) not in kind.types or type(parts[1]) is not int:
        raise _invalid_record_cursor()
    position, sent_count, cursor_run = parts
    is_valid_position = -(2**63) <= position < 2**63 and math.isfinite(position)
    if not 1 <= sent_count <= _MAX_EQUAL or not is_valid_position:
        raise _invalid_record_cursor()
    if cursor_run != run:
        raise build_cursor_problem("It belongs to an earlier run of the operation: start again without it.")
    return position, sent_count


def _invalid_record_cursor() -> Problem:
    return build_cursor_problem("Use next of the previous page, or leave it out.")
