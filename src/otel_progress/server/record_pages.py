"""Pages of what one run has recorded: events, log records, samples and previews.

The first page has the newest records, and each next one those before them; within a page the oldest comes first. A cursor holds the
place of the oldest record of its page, so what is recorded between two pages moves no other one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from otel_progress.observations import LogRecord, Preview, ResourceSample
from otel_progress.operations import Event
from otel_progress.server.paging import read_parts, refused, write_parts
from otel_progress.server.problems import Problem

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
    upto, known = _read(cursor, kind, run) if cursor else (None, 0)
    found = ask(upto, limit + known + 1)
    alike = sum(kind.place(record) == upto for record in found) if known else 0
    # Processes that share a run number their records each for itself, so there may be several of one number, on both sides of a cursor.
    rest = found[: len(found) - min(known, alike)]
    page = rest[-limit:]
    if len(rest) <= limit:
        return page, None
    first = kind.place(page[0])
    given = sum(kind.place(record) == first for record in page) + (known if first == upto else 0)
    return page, write_parts(kind.name, first, given, run)


def _read(cursor: str, kind: Kind[R], run: str) -> tuple[Any, int]:
    """Return the place of a cursor, and how many records of that very place came before."""
    parts = read_parts(cursor, kind.name)
    if parts is None or len(parts) != 3 or type(parts[0]) not in kind.types or type(parts[1]) is not int:
        raise _foreign()
    place, known, of = parts
    if not 1 <= known <= _MOST_ALIKE or not -(2**63) <= place < 2**63 or not math.isfinite(place):
        raise _foreign()
    if of != run:
        raise refused("It is of an earlier run of this operation, and there is a newer one. Begin again without it.")
    return place, known


def _foreign() -> Problem:
    return refused("It is none that this list gave out. Take it from next of the page before; or leave it out.")
