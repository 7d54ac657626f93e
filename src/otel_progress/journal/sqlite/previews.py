"""Previews in the journal: what there is to see of an operation, and where. The content is kept elsewhere, and goes when told.

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

PREVIEWS_AN_OPERATION: Final = 1_000
"""Previews kept of an operation with all its levels, the newest; whoever takes them has bounds that are far below."""


PREVIEW: Final = (
    "number", "path", "at", "name", "media_type", "size_bytes", "digest", "location", "width", "height", "ratio",
)  # fmt: skip
"""Columns of ``previews`` that make a preview."""


_row_of: Final[Callable[[Preview], tuple[Any, ...]]] = attrgetter(*PREVIEW)


_ADD: Final = (
    f"INSERT OR IGNORE INTO previews (operation, writer, {', '.join(PREVIEW)}) VALUES ({', '.join('?' * 13)})"
)


_REMOVE: Final = "DELETE FROM previews WHERE operation = ? AND number = ? AND writer = ?"


_TRIM: Final = """SELECT number, location FROM previews WHERE operation = ? AND number <=
    (SELECT number FROM previews WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


_UP_TO: Final = "DELETE FROM previews WHERE operation = ? AND number <= ?"


# The last preview is often stored when the last snapshot of its operation has been written.
_COUNT: Final = """UPDATE states SET extra = json_set(coalesce(extra, '[false,null,0.0,0,null]'), '$[3]', ?1)
    WHERE level = (SELECT key FROM levels WHERE operation = ?2 AND path = '')
    AND CASE WHEN extra IS NULL THEN 1 WHEN json_valid(extra) THEN coalesce(json_extract(extra, '$[3]'), 0) < ?1 ELSE 0 END"""


_SPLIT: Final = "SELECT number FROM previews WHERE operation = ? ORDER BY number LIMIT 1 OFFSET ?"


_LOCATIONS: Final = "SELECT location FROM previews WHERE operation = ?"


_IS_REFERRED_TO: Final = "SELECT 1 FROM previews WHERE location = ? LIMIT 1"


def keep(connection: sqlite3.Connection, writer: str, previews: Sequence[tuple[int, Preview]]) -> list[str]:
    """Keep previews, each with the key of its operation; a number that is there already stays.

    One without a location is no longer kept: its row goes, and its content is up to whoever said so. Returns the locations of others
    that had to make room, where nothing refers to them any more.
    """
    connection.executemany(_ADD, [(key, writer, *_row_of(one)) for key, one in previews if one.location])
    connection.executemany(_COUNT, [(one.number, key) for key, one in previews if one.location])
    connection.executemany(_REMOVE, [(key, one.number, writer) for key, one in previews if not one.location])
    gone = []
    for key in {key for key, one in previews if one.location}:
        if old := query_all(connection, _TRIM, (key, key, PREVIEWS_AN_OPERATION)):
            connection.execute(_UP_TO, (key, max(number for number, _ in old)))
            gone += [location for _, location in old]
    return unreferenced(connection, gone)


def locations(connection: sqlite3.Connection, key: int, left: int) -> list[str]:
    """Return the locations of the previews of an operation that :meth:`Deletion.numbered` deletes when so many rows are left to it."""
    split = connection.execute(_SPLIT, (key, left)).fetchone()
    where, bound = (_LOCATIONS, (key,)) if split is None else (f"{_LOCATIONS} AND number <= ?", (key, *split))
    return [location for (location,) in query_all(connection, where, bound)]


def unreferenced(connection: sqlite3.Connection, locations: Iterable[object]) -> list[str]:
    """Return those of ``locations``, each once, that no row refers to."""
    candidates = dict.fromkeys(location for location in locations if type(location) is str)
    return [location for location in candidates if not query_all(connection, _IS_REFERRED_TO, (location,))]


def preview_of(operation_id: str, operation_type: str, run: str, row: Sequence[Any]) -> Preview | None:
    """Return the preview of the columns of PREVIEW; None when they are not one."""
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
