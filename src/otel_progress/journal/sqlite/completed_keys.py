"""Tables ``completed_keys`` and ``checkpoints`` of resumed operations.

Every function runs within the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from otel_progress.model import Number

_LINEAGE: Final = "SELECT lineage FROM operations WHERE key = ?"


_OWN_LINEAGE: Final = "SELECT coalesce(lineage, key) FROM operations WHERE key = ?"


_KEYS: Final = "SELECT scope, key, weight FROM completed_keys WHERE lineage = ?"


_INSERT_KEY: Final = "INSERT OR IGNORE INTO completed_keys (lineage, scope, key, weight) VALUES (?, ?, ?, ?)"


_HAS_WORK: Final = """SELECT 1 WHERE EXISTS (SELECT 1 FROM checkpoints WHERE operation = ?)
    OR EXISTS (SELECT 1 FROM completed_keys WHERE lineage = ?)
    OR EXISTS (SELECT 1 FROM operations WHERE key = ? AND lineage <> key)"""


_CHECKPOINT: Final = "SELECT value FROM checkpoints WHERE operation = ?"


_STORE_CHECKPOINT: Final = """INSERT INTO checkpoints (operation, value) SELECT ?, ?
    WHERE EXISTS (SELECT 1 FROM operations WHERE key = ?)
    ON CONFLICT (operation) DO UPDATE SET value = excluded.value"""


_OTHER_RUN: Final = "SELECT 1 FROM operations WHERE key <> ? AND (lineage = ? OR key = ?) LIMIT 1"


_DELETE_KEYS: Final = """DELETE FROM completed_keys WHERE lineage = ? AND (scope, key) IN
    (SELECT scope, key FROM completed_keys WHERE lineage = ? LIMIT ?)"""


def find_lineage(connection: sqlite3.Connection, operation: int) -> int | None:
    """Return the lineage of an operation, which is the key of its first run.

    None if it was started without ``resume``.
    """
    found = connection.execute(_LINEAGE, (operation,)).fetchone()
    return None if found is None or found[0] is None else int(found[0])


def has_work(connection: sqlite3.Connection, operation: int) -> bool:
    """Return True if an operation has a checkpoint or keys, or continues another one."""
    return connection.execute(_HAS_WORK, (operation,) * 3).fetchone() is not None


def read_keys(connection: sqlite3.Connection, lineage: int) -> list[tuple[bytes, bytes, Number]]:
    """Return scopes, keys and weights of a lineage."""
    return connection.execute(_KEYS, (lineage,)).fetchall()


def insert_keys(
    connection: sqlite3.Connection, keys: Iterable[tuple[int, tuple[bytes, bytes, Number]]]
) -> None:
    """Insert completed keys with the keys of their operations. A stored one is kept."""
    lineages: dict[int, int | None] = {}
    values = []
    for operation, entry in keys:
        if operation not in lineages:
            found = connection.execute(_OWN_LINEAGE, (operation,)).fetchone()
            # Why: the operation was deleted, and its keys would never be.
            lineages[operation] = None if found is None else int(found[0])
        if lineages[operation] is not None:
            values.append((lineages[operation], *entry))
    connection.executemany(_INSERT_KEY, values)


def delete_keys(connection: sqlite3.Connection, operation: int, max_rows: int) -> tuple[int, bool]:
    """Delete keys that only this operation needs.

    Return the number of deleted rows, and True if none is left.
    """
    lineage = find_lineage(connection, operation) or operation
    if connection.execute(_OTHER_RUN, (operation, lineage, lineage)).fetchone() is not None:
        return 0, True
    count = connection.execute(_DELETE_KEYS, (lineage, lineage, max_rows)).rowcount
    return count, count < max_rows


def read_checkpoint(connection: sqlite3.Connection, operation: int) -> str | None:
    """Return the checkpoint of an operation as JSON, or None."""
    found = connection.execute(_CHECKPOINT, (operation,)).fetchone()
    return None if found is None else str(found[0])


def store_checkpoints(connection: sqlite3.Connection, checkpoints: Sequence[tuple[int, str]]) -> None:
    """Store checkpoints with the keys of their operations."""
    connection.executemany(_STORE_CHECKPOINT, [(key, text, key) for key, text in checkpoints])
