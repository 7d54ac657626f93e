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
from typing import Any, Final, Literal, TypeAlias, get_args

from otel_progress.operations import OperationSnapshot
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
class Place:
    """Where an operation stands in an order: its value there, and its run, which decides between equal ones."""

    value: _Value
    run: str


def page_of(
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


def write_cursor(place: Place, sort: str) -> str:
    """Return the cursor of a place in an order."""
    return write_parts(sort, place.value, place.run)


def read_cursor(cursor: str, sort: str) -> Place:
    """Return the place of a cursor. Raises Problem (422) when it is none that was given out for this order."""
    parts = read_parts(cursor, sort)
    if parts is None or len(parts) != 2 or type(parts[1]) is not str or not _fits(parts[0], sort):
        raise refused(
            "It is none that this list gave out. Take it from next of the page before, with the same sort; or leave it out."
        )
    return Place(parts[0], parts[1])


def write_parts(order: str, *parts: float | str | None) -> str:
    """Return a cursor that holds some values, for lists of one order."""
    text = json.dumps(
        [1, order, *parts], separators=(",", ":"), ensure_ascii=False
    )  # the longest name and id fit: not six times as long
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def read_parts(cursor: str, order: str) -> Sequence[Any] | None:
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


def _place(operation: OperationSnapshot, key: Callable[[OperationSnapshot], _Value]) -> Place:
    value = key(operation)
    return Place(None if isinstance(value, float) and not math.isfinite(value) else value, operation.run)


def _order(one: tuple[Place, object]) -> tuple[Any, str]:
    """Return what to sort by: values of one order are all texts or all numbers, and None is sorted apart from them."""
    place = one[0]
    return ("" if place.value is None else place.value), place.run


def _after(one: Place, other: Place, descending: bool) -> bool:
    here, there = (_order((place, None)) for place in (one, other))
    return here < there if descending else here > there
