"""Table ``contributions``: work of other processes on an operation, for its owner."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from otel_progress.journal import rows
from otel_progress.journal.invalid_rows import count_invalid_row
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.protocols import MAX_POLLED_CONTRIBUTIONS
from otel_progress.records import Contribution

MAX_CONTRIBUTIONS_PER_OPERATION: Final = 100_000
"""Contributions stored per operation. Older ones are deleted and counted."""


_MAX_VALUES_PER_STATEMENT: Final = 500


# Why OR REPLACE: a newer contribution gets a higher key, so the rows are read in order of writing.
_STORE: Final = """INSERT OR REPLACE INTO contributions (operation, writer, path, sequence, contribution)
    SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (
        SELECT 1 FROM contributions WHERE operation = ? AND writer = ? AND path = ? AND sequence >= ?)"""


_TRIM: Final = """DELETE FROM contributions WHERE operation = ? AND key <=
    (SELECT key FROM contributions WHERE operation = ? ORDER BY key DESC LIMIT 1 OFFSET ?)"""


_SELECT: Final = """SELECT c.writer, c.path, c.contribution FROM operations o
    CROSS JOIN contributions c ON c.operation = o.key WHERE o.run IN ({}) ORDER BY c.key LIMIT ?"""


_DROP: Final = """DELETE FROM contributions WHERE writer = ? AND path = ? AND sequence <= ?
    AND operation = (SELECT key FROM operations WHERE run = ?)"""


def store_contributions(
    connection: sqlite3.Connection, contributions: Iterable[tuple[int, Contribution]]
) -> int:
    """Store contributions by the keys of their operations.

    Return the number of deleted ones.
    """
    keyed = list(contributions)
    values: list[tuple[Any, ...]] = []
    for key, each in keyed:
        names = (key, each.writer, each.level.path)
        sequence = each.level.sequence
        values.append((*names, sequence, rows.encode_contribution(each), *names, sequence))
    connection.executemany(_STORE, values)
    dropped = 0
    for key in {key for key, _ in keyed}:
        dropped += connection.execute(_TRIM, (key, key, MAX_CONTRIBUTIONS_PER_OPERATION)).rowcount
    return dropped


def read_contributions(connection: sqlite3.Connection, runs: Sequence[str]) -> list[Contribution]:
    """Return the contributions to runs, parents before their children."""
    found: list[Contribution] = []
    for part in _split(runs):
        query = _SELECT.format(", ".join("?" * len(part)))
        left = MAX_POLLED_CONTRIBUTIONS - len(found)
        for writer, path, text in query_all(connection, query, (*part, left)):
            contribution = rows.decode_contribution(str(writer), text) if type(text) is str else None
            if contribution is None:
                count_invalid_row("contribution", writer, path)
            else:
                found.append(contribution)
    return sorted(found, key=lambda each: each.level.info.depth)


def delete_contributions(connection: sqlite3.Connection, contributions: Sequence[Contribution]) -> None:
    """Delete contributions unless newer ones have replaced them."""
    levels = [(each.writer, each.level) for each in contributions]
    connection.executemany(
        _DROP, [(writer, level.path, level.sequence, level.info.run) for writer, level in levels]
    )


def _split(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _MAX_VALUES_PER_STATEMENT):
        yield values[start : start + _MAX_VALUES_PER_STATEMENT]
