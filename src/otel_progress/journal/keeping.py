"""Writes what is observed beside the levels into an open journal: log records, samples of a process, what operations used.

Each of them is bounded here, where it grows. Every function runs within the writer's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from otel_progress.journal import rows
from otel_progress.journal.rows import LOG
from otel_progress.journal.texts import SAMPLE
from otel_progress.observations import LogRecord, ResourceSample, ResourceUse

LOGS_A_LEVEL: Final = 1_000
"""Log records kept of a level, its newest."""
LOGS_AN_OPERATION: Final = 10_000
"""Log records kept of an operation with all its levels, the newest."""
SAMPLES_AN_INSTANCE: Final = 3_600
"""Samples kept of a process, the newest."""

_MARKS: Final = ", ".join("?" * (len(LOG) + 2))
_ADD_LOG: Final = f"INSERT OR IGNORE INTO logs (operation, writer, {', '.join(LOG)}) VALUES ({_MARKS})"
# Walks over as many entries of a narrow index as are kept, which takes some 100 us at the most.
_TRIM_LEVEL: Final = """DELETE FROM logs WHERE operation = ? AND path = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? AND path = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""
_TRIM_OPERATION: Final = """DELETE FROM logs WHERE operation = ? AND number <=
    (SELECT number FROM logs WHERE operation = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""
_ADD_SAMPLE: Final = f"INSERT OR IGNORE INTO samples (instance, {', '.join(SAMPLE)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_TRIM_SAMPLES: Final = """DELETE FROM samples WHERE instance = ? AND clock <=
    (SELECT clock FROM samples WHERE instance = ? ORDER BY clock DESC LIMIT 1 OFFSET ?)"""
_USE: Final = """INSERT INTO uses (operation, use) SELECT ?, ? WHERE EXISTS (SELECT 1 FROM operations WHERE key = ?)
    ON CONFLICT (operation) DO UPDATE SET use = excluded.use"""


def keep_logs(connection: sqlite3.Connection, writer: str, records: Sequence[tuple[int, LogRecord]]) -> None:
    """Keep log records, each with the key of its operation; the oldest ones make room. A number that is there already stays."""
    connection.executemany(_ADD_LOG, [(key, writer, *rows.log_row(record)) for key, record in records])
    levels = {(key, record.path) for key, record in records}
    connection.executemany(_TRIM_LEVEL, [(key, path, key, path, LOGS_A_LEVEL) for key, path in levels])
    connection.executemany(_TRIM_OPERATION, [(key, key, LOGS_AN_OPERATION) for key in {key for key, _ in levels}])


def keep_sample(connection: sqlite3.Connection, instance: str, sample: ResourceSample) -> None:
    """Keep what a process used at one moment."""
    connection.execute(_ADD_SAMPLE, (instance, *rows.sample_row(sample)))
    connection.execute(_TRIM_SAMPLES, (instance, instance, SAMPLES_AN_INSTANCE))


def keep_uses(connection: sqlite3.Connection, uses: Sequence[tuple[int, ResourceUse]]) -> None:
    """Keep what the process of each operation used so far, by the operation's key."""
    connection.executemany(_USE, [(key, rows.use_text(use), key) for key, use in uses])
