"""Table ``previews``: metadata of stored previews.

Their content is in a preview store.

Every function runs within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from operator import attrgetter
from typing import Any, Final

from otel_progress.journal.decoding import NUMBER_OR_NONE
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import Preview

PREVIEW: Final = (
    "number", "path", "at", "name", "media_type", "size_bytes",
    "digest", "location", "width", "height", "ratio",
)  # fmt: skip
"""Columns of ``previews`` that are fields of a Preview."""


_to_row: Final[Callable[[Preview], tuple[Any, ...]]] = attrgetter(*PREVIEW)


_INSERT: Final = (
    f"INSERT OR IGNORE INTO previews (operation, writer, {', '.join(PREVIEW)}) VALUES ({', '.join('?' * 13)})"
)


_DELETE: Final = "DELETE FROM previews WHERE operation = ? AND number = ? AND writer = ?"


_SELECT_EXCESS: Final = """SELECT number, location FROM previews WHERE operation = ? AND number <=
    (SELECT number FROM previews WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_DELETE_UP_TO: Final = "DELETE FROM previews WHERE operation = ? AND number <= ?"


# Why: the last preview is often stored after the last snapshot of its operation.
_RAISE_COUNT: Final = """UPDATE states
    SET extra = json_set(coalesce(extra, '[false,null,0.0,0,null]'), '$[3]', ?1)
    WHERE level = (SELECT key FROM levels WHERE operation = ?2 AND path = '')
    AND CASE WHEN extra IS NULL THEN 1
    WHEN json_valid(extra) THEN coalesce(json_extract(extra, '$[3]'), 0) < ?1 ELSE 0 END"""


_SELECT_NUMBER_AT: Final = "SELECT number FROM previews WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"


_SELECT_LOCATIONS: Final = "SELECT location FROM previews WHERE operation = ?"


_SELECT_REFERENCE: Final = "SELECT 1 FROM previews WHERE location = ? LIMIT 1"


def store_previews(
    connection: sqlite3.Connection, writer: str, previews: Sequence[tuple[int, Preview]], limit: int
) -> list[str]:
    """Store previews, each with the key of its operation.

    A number that is stored already is kept.

    A preview without a location has expired, so its row is deleted. Only the newest ``limit``
    previews of an operation are kept. Return the locations that this limit made unreferenced.
    """
    stored = [(key, preview) for key, preview in previews if preview.location]
    expired = [(key, preview.number, writer) for key, preview in previews if not preview.location]
    connection.executemany(_INSERT, [(key, writer, *_to_row(preview)) for key, preview in stored])
    connection.executemany(_RAISE_COUNT, [(preview.number, key) for key, preview in stored])
    connection.executemany(_DELETE, expired)
    deleted = []
    for key in {key for key, _ in stored}:
        if excess := query_all(connection, _SELECT_EXCESS, (key, key, limit)):
            connection.execute(_DELETE_UP_TO, (key, max(number for number, _ in excess)))
            deleted += [location for _, location in excess]
    return find_unreferenced(connection, deleted)


def read_locations(connection: sqlite3.Connection, key: int, limit: int) -> list[str]:
    """Return the locations of the oldest previews that fit into ``limit`` rows."""
    next_number = connection.execute(_SELECT_NUMBER_AT, (key, limit)).fetchone()
    if next_number is None:
        rows = query_all(connection, _SELECT_LOCATIONS, (key,))
    else:
        rows = query_all(connection, f"{_SELECT_LOCATIONS} AND number <= ?", (key, *next_number))
    return [location for (location,) in rows]


def find_unreferenced(connection: sqlite3.Connection, locations: Iterable[object]) -> list[str]:
    """Return the distinct locations that no row refers to."""
    candidates = dict.fromkeys(location for location in locations if type(location) is str)
    return [location for location in candidates if not query_all(connection, _SELECT_REFERENCE, (location,))]


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
