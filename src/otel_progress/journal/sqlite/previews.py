"""Table ``previews``: metadata of stored previews.

Their content is in a preview store.

Every function runs within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from otel_progress.journal.rows import PREVIEW, encode_preview_row
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import Preview

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
    connection.executemany(_INSERT, [(key, writer, *encode_preview_row(preview)) for key, preview in stored])
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
