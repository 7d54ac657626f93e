"""Pages of batches: those that are not over first, then the newest.

A cursor holds the place of the last batch of its page, and when the first page was read. Whether a batch is over is judged as of then:
one that ends while somebody pages stays where it was, so it comes once, and no batch is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.batches import place_of
from otel_progress.observations import BatchPlace
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import Reader
from otel_progress.server.paging import read_parts, refused, write_parts
from otel_progress.server.problems import Problem

_ORDER: Final = "batches"
_TYPES: Final = (frozenset({int, float}), frozenset({bool}), frozenset({int, float}), frozenset({str}))
_LARGEST: Final = 2.0**63


def page_of_batches(reader: Reader, limit: int, cursor: str | None) -> tuple[Sequence[BatchSnapshot], str | None]:
    """Return the page after ``cursor`` (the first one without it) and the cursor of the next one, None when it is the last.

    Raises Problem (422) when the cursor is none that was given out for batches.
    """
    after = _read(cursor) if cursor else None
    found = reader.batches(limit + 1, after=after)
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    begun = max(batch.read_at for batch in found) if after is None else after.moment
    last = place_of(page[-1], None if after is None else begun)
    return page, write_parts(_ORDER, begun, last.over, last.started_at, last.id)


def _read(cursor: str) -> BatchPlace:
    parts = read_parts(cursor, _ORDER)
    if parts is None or len(parts) != len(_TYPES):
        raise _foreign()
    if not all(type(part) in types for part, types in zip(parts, _TYPES, strict=True)):
        raise _foreign()
    moment, over, started_at, id_ = parts
    if not all(-_LARGEST <= number <= _LARGEST for number in (moment, started_at)):  # NaN is not either
        raise _foreign()
    return BatchPlace(float(moment), over, float(started_at), id_)


def _foreign() -> Problem:
    return refused("It is none that this list gave out. Take it from next of the page before; or leave it out.")
