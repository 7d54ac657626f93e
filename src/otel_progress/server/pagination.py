"""Pages of operations: an order, and cursors that say after which one a page goes on.

A cursor holds the place of the last operation of a page (its value in the order, and its run), so whatever begins or ends between
two pages moves no other one. Where the value itself moves while work goes on (ratio, elapsed, remaining) an operation that overtakes
the cursor comes twice or not at all.
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
"""Longest page of operations and batches."""


PAGE: Final = 100
"""Its length when nothing is said."""


_LONGEST: Final = 4_096
"""Longest cursor, in characters."""


Sort: TypeAlias = Literal[
    "started", "-started", "ended", "-ended", "name", "-name", "type", "-type", "ratio", "-ratio", "elapsed", "-elapsed",
    "remaining", "-remaining",
]  # fmt: skip
"""What a list is ordered by; ``-`` turns the order round. What is unknown comes last in either."""


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
    """Where an operation stands in an order: its value there, and its run, which decides between equal ones."""

    value: _Value
    run: str


def paginate(
    operations: Sequence[OperationSnapshot], sort: str, limit: int, cursor: str | None
) -> tuple[list[OperationSnapshot], str | None]:
    """Return the page after ``cursor`` (the first one without it) and the cursor of the next one, None when it is the last.

    Raises Problem (422) when the cursor is none that was given out for this order.
    """
    key, descending = _KEYS[sort.removeprefix("-")], sort.startswith("-")
    placed = [(_place(operation, key), operation) for operation in operations]
    known = sorted((one for one in placed if one[0].value is not None), key=_order, reverse=descending)
    unknown = sorted((one for one in placed if one[0].value is None), key=_order, reverse=descending)
    if cursor is not None:
        last = read_cursor(cursor, sort)
        known = [one for one in known if last.value is not None and _after(one[0], last, descending)]
        unknown = [one for one in unknown if last.value is not None or _after(one[0], last, descending)]
    rest = known + unknown
    page = [operation for _, operation in rest[:limit]]
    return page, write_cursor(rest[limit - 1][0], sort) if len(rest) > limit else None


def write_cursor(place: PageCursor, sort: str) -> str:
    """Return the cursor of a place in an order."""
    return encode_cursor(sort, place.value, place.run)


def read_cursor(cursor: str, sort: str) -> PageCursor:
    """Return the place of a cursor. Raises Problem (422) when it is none that was given out for this order."""
    parts = decode_cursor(cursor, sort)
    if parts is None or len(parts) != 2 or type(parts[1]) is not str or not _fits(parts[0], sort):
        raise refused(
            "It is none that this list gave out. Take it from next of the page before, with the same sort; or leave it out."
        )
    return PageCursor(parts[0], parts[1])


def encode_cursor(order: str, *parts: float | str | None) -> str:
    """Return a cursor that holds some values, for lists of one order."""
    text = json.dumps(
        [1, order, *parts], separators=(",", ":"), ensure_ascii=False
    )  # the longest name and id fit: not six times as long
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def decode_cursor(cursor: str, order: str) -> Sequence[Any] | None:
    """Return what a cursor holds, which may be anything; None when it is none for this order."""
    try:
        if len(cursor) > _LONGEST or not cursor.isascii():
            return None
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        version, written_for, *parts = json.loads(raw)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return None
    return parts if version == 1 and written_for == order else None


def refused(detail: str) -> Problem:
    """Return the problem of a cursor that cannot be used."""
    return Problem(422, f"The parameter cursor: {detail}", errors=[("query cursor", detail)])


def _fits(value: object, sort: str) -> bool:
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


def _place(operation: OperationSnapshot, key: Callable[[OperationSnapshot], _Value]) -> PageCursor:
    value = key(operation)
    return PageCursor(None if isinstance(value, float) and not math.isfinite(value) else value, operation.run)


def _order(one: tuple[PageCursor, object]) -> tuple[Any, str]:
    """Return what to sort by: values of one order are all texts or all numbers, and None is sorted apart from them."""
    place = one[0]
    return ("" if place.value is None else place.value), place.run


def _after(one: PageCursor, other: PageCursor, descending: bool) -> bool:
    here, there = (_order((place, None)) for place in (one, other))
    return here < there if descending else here > there


_ORDER: Final = "batches"


_TYPES: Final = (frozenset({int, float}), frozenset({bool}), frozenset({int, float}), frozenset({str}))


_LARGEST: Final = 2.0**63


def page_of_batches(
    reader: Reader, limit: int, cursor: str | None
) -> tuple[Sequence[BatchSnapshot], str | None]:
    """Return the page after ``cursor`` (the first one without it) and the cursor of the next one, None when it is the last.

    Raises Problem (422) when the cursor is none that was given out for batches.
    """
    after = _read_batch_cursor(cursor) if cursor else None
    found = reader.batches(BatchQuery(limit + 1, after))
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    begun = max(batch.read_at for batch in found) if after is None else after.listed_at
    last = create_cursor(page[-1], None if after is None else begun)
    return page, encode_cursor(_ORDER, begun, last.is_finished, last.started_at, last.id)


def _read_batch_cursor(cursor: str) -> BatchCursor:
    parts = decode_cursor(cursor, _ORDER)
    if parts is None or len(parts) != len(_TYPES):
        raise _invalid_batch_cursor()
    if not all(type(part) in types for part, types in zip(parts, _TYPES, strict=True)):
        raise _invalid_batch_cursor()
    moment, over, started_at, id_ = parts
    if not all(-_LARGEST <= number <= _LARGEST for number in (moment, started_at)):  # NaN is not either
        raise _invalid_batch_cursor()
    return BatchCursor(float(moment), over, float(started_at), id_)


def _invalid_batch_cursor() -> Problem:
    return refused(
        "It is none that this list gave out. Take it from next of the page before; or leave it out."
    )


R = TypeVar("R")


_MOST_ALIKE: Final = 10_000
"""Records of one place that a cursor may count."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """Records of one kind: their name in cursors, what they are in order of (which grows within a run), and that value's type."""

    name: str
    place: Callable[[R], Any]
    types: frozenset[type]


EVENTS: Final[Kind[Event]] = Kind("events", lambda event: event.number, frozenset({int}))


LOGS: Final[Kind[LogRecord]] = Kind("logs", lambda record: record.number, frozenset({int}))


SAMPLES: Final[Kind[ResourceSample]] = Kind("samples", lambda sample: sample.clock, frozenset({int, float}))


PREVIEWS: Final[Kind[Preview]] = Kind("previews", lambda preview: preview.number, frozenset({int}))


def page_of_records(
    kind: Kind[R], ask: Callable[[Any, int], Sequence[R]], run: str, limit: int, cursor: str | None
) -> tuple[Sequence[R], str | None]:
    """Return the page after ``cursor`` (the newest one without it) and the cursor of the next one, None when it is the last.

    ``ask(upto, most)`` returns the newest ``most`` records of the run whose place is not beyond ``upto``, oldest first.
    Raises Problem (422) when the cursor is none that was given out for records of this kind, and of this run.
    """
    upto, known = _read_record_cursor(cursor, kind, run) if cursor else (None, 0)
    found = ask(upto, limit + known + 1)
    alike = sum(kind.place(record) == upto for record in found) if known else 0
    # Processes that share a run number their records each for itself, so there may be several of one number, on both sides of a cursor.
    rest = found[: len(found) - min(known, alike)]
    page = rest[-limit:]
    if len(rest) <= limit:
        return page, None
    first = kind.place(page[0])
    given = sum(kind.place(record) == first for record in page) + (known if first == upto else 0)
    return page, encode_cursor(kind.name, first, given, run)


def _read_record_cursor(cursor: str, kind: Kind[R], run: str) -> tuple[Any, int]:
    """Return the place of a cursor, and how many records of that very place came before."""
    parts = decode_cursor(cursor, kind.name)
    if parts is None or len(parts) != 3 or type(parts[0]) not in kind.types or type(parts[1]) is not int:
        raise _invalid_record_cursor()
    place, known, of = parts
    if not 1 <= known <= _MOST_ALIKE or not -(2**63) <= place < 2**63 or not math.isfinite(place):
        raise _invalid_record_cursor()
    if of != run:
        raise refused(
            "It is of an earlier run of this operation, and there is a newer one. Begin again without it."
        )
    return place, known


def _invalid_record_cursor() -> Problem:
    return refused(
        "It is none that this list gave out. Take it from next of the page before; or leave it out."
    )
