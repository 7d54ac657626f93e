"""Table ``totals``: counters of processes that share an address of ``/metrics``.

They outlive their process, so that sums never decrease. Every function runs within the caller's
transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from otel_progress.journal.sanitize import sanitize_text
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.records import IDENTITY_SERIES, MERGED_PROCESS, TotalsTable, TotalsUpdate

_UPSERT: Final = """INSERT INTO totals (metrics_group, process, series, value, at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (metrics_group, process, series) DO UPDATE SET value = excluded.value, at = excluded.at"""


_SELECT: Final = "SELECT process, series, value FROM totals WHERE metrics_group = ?"


_VALUE: Final = "SELECT value FROM totals WHERE metrics_group = ? AND process = ? AND series = ?"


_DELETE_PROCESS: Final = "DELETE FROM totals WHERE metrics_group = ? AND process = ?"


_DELETE_EXPIRED: Final = """DELETE FROM totals WHERE metrics_group IN
    (SELECT metrics_group FROM totals GROUP BY metrics_group HAVING max(at) < ?)"""


def store_totals(connection: sqlite3.Connection, update: TotalsUpdate, at: float) -> None:
    """Store changed totals of a process at ``at`` (Unix seconds)."""
    _upsert(connection, update.group, update.process, update.series, at)


def load_totals(connection: sqlite3.Connection, group: str) -> TotalsTable:
    """Return the totals of all processes of a group."""
    table: dict[str, dict[str, str]] = {}
    for process, series, value in query_all(connection, _SELECT, (sanitize_text(group),)):
        table.setdefault(process, {})[series] = value
    return table


def replace_totals(
    connection: sqlite3.Connection,
    group: str,
    processes: Sequence[str],
    merged: Mapping[str, str],
    version: str,
    at: float,
) -> bool:
    """Replace processes by the new sums.

    See :class:`otel_progress.protocols.TotalsStorage`.
    """
    stored = _read_value(connection, group, MERGED_PROCESS) or ""
    if stored != version or any(_read_value(connection, group, each) is None for each in processes):
        return False
    for process in processes:
        connection.execute(_DELETE_PROCESS, (group, process))
    _upsert(connection, group, MERGED_PROCESS, merged, at)
    return True


def delete_expired(connection: sqlite3.Connection, before: float) -> None:
    """Delete the groups that were last written before ``before`` (Unix seconds)."""
    connection.execute(_DELETE_EXPIRED, (before,))


def _upsert(
    connection: sqlite3.Connection, group: str, process: str, series: Mapping[str, str], at: float
) -> None:
    key = sanitize_text(group), sanitize_text(process)
    connection.executemany(_UPSERT, [(*key, name, value, at) for name, value in series.items()])


def _read_value(connection: sqlite3.Connection, group: str, process: str) -> str | None:
    found = connection.execute(_VALUE, (group, process, IDENTITY_SERIES)).fetchone()
    return None if found is None else str(found[0])
