"""Schema of the SQLite journal, and its migrations.

A level has two rows. ``levels`` has its constant values, and ``states`` the changing ones.
Why: rows of ``states`` are written on every tick. Since they are narrow, 1,000 changed levels
change some 30 pages instead of 150.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from otel_progress.errors import JournalError

APPLICATION_ID: Final = 0x6F747072
"""``PRAGMA application_id`` ("otpr"), which distinguishes a journal from other SQLite files."""


MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        # One row: the id of the journal, the number of the last transaction that changed an
        # operation, and the last key of a level. Why keys are never reused: a writer that caches
        # the key of a deleted level must not write into another level.
        """CREATE TABLE counters (
            id INTEGER PRIMARY KEY CHECK (id = 1), journal TEXT NOT NULL, revision INTEGER NOT NULL, level_key INTEGER NOT NULL
        )""",
        "INSERT INTO counters VALUES (1, lower(hex(randomblob(16))), 0, 0)",
        """CREATE TABLE instances (
            id TEXT PRIMARY KEY NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL, service TEXT NOT NULL,
            started_at REAL NOT NULL, start INTEGER, heartbeat_at REAL NOT NULL, heartbeat_clock REAL NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE operations (
            key INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, run TEXT NOT NULL UNIQUE,
            operation_id TEXT NOT NULL, operation_type TEXT NOT NULL, instance TEXT NOT NULL,
            recorded_at REAL NOT NULL, finished_at REAL
        )""",
        "CREATE INDEX operations_by_id ON operations (operation_id)",
        "CREATE INDEX operations_active ON operations (key) WHERE finished_at IS NULL",
        "CREATE INDEX operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL",
        "CREATE INDEX operations_finished_by_type ON operations (operation_type, finished_at) WHERE finished_at IS NOT NULL",
        "CREATE INDEX operations_finished_by_revision ON operations (revision) WHERE finished_at IS NOT NULL",
        """CREATE TABLE levels (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, path TEXT NOT NULL, info TEXT NOT NULL,
            UNIQUE (operation, path)
        )""",
        # Why current and total have no type: 3 stays an integer, and 3.0 a float.
        """CREATE TABLE states (
            level INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, current NOT NULL, ratio REAL, message TEXT,
            observed_at REAL NOT NULL, observed_clock REAL NOT NULL, advanced_at REAL, advanced_clock REAL,
            longest_gap_s REAL NOT NULL, status TEXT NOT NULL, total, failed INTEGER NOT NULL, skipped INTEGER NOT NULL,
            metadata TEXT, error TEXT, stage TEXT, eta TEXT, ended_at REAL, duration_s REAL
        )""",
        # Why the writer is in the key: each process that shares a run numbers its own events.
        """CREATE TABLE events (
            operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL,
            level_type TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, name TEXT, outcome TEXT, error TEXT, metadata TEXT,
            PRIMARY KEY (operation, number, writer)
        ) WITHOUT ROWID""",
    ),
    (
        # status is the final status, and null before. Batches are counted by it alone.
        "ALTER TABLE operations ADD COLUMN batch TEXT",
        "ALTER TABLE operations ADD COLUMN status TEXT",
        "CREATE INDEX operations_by_batch ON operations (batch, status, finished_at) WHERE batch IS NOT NULL",
        # Why with the run: the order is total, so pages neither overlap nor leave gaps.
        "DROP INDEX operations_finished",
        "DROP INDEX operations_finished_by_type",
        "CREATE INDEX operations_finished ON operations (finished_at, run) WHERE finished_at IS NOT NULL",
        """CREATE INDEX operations_finished_by_type ON operations (operation_type, finished_at, run)
            WHERE finished_at IS NOT NULL""",
        """CREATE TABLE logs (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL,
            path TEXT NOT NULL, at REAL NOT NULL, severity INTEGER NOT NULL, severity_text TEXT NOT NULL, logger TEXT NOT NULL,
            message TEXT NOT NULL, details TEXT, attributes TEXT, trace_id TEXT, span_id TEXT, UNIQUE (operation, number, writer)
        )""",
        "CREATE INDEX logs_by_level ON logs (operation, path, number)",
        """CREATE TABLE samples (
            instance TEXT NOT NULL, at REAL NOT NULL, clock REAL NOT NULL, cpu_ratio REAL NOT NULL, memory_bytes INTEGER NOT NULL,
            gpu_ratio REAL, gpu_memory_bytes INTEGER, PRIMARY KEY (instance, clock)
        ) WITHOUT ROWID""",
        # Resource use of an operation. Why no column of operations: every tick writes its rows.
        "CREATE TABLE uses (operation INTEGER PRIMARY KEY, use TEXT NOT NULL)",
        "CREATE TABLE requests (operation INTEGER PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL)",
        # A declaration (sequence 0 for a placeholder) and, from completed on, the tally of
        # deleted operations.
        """CREATE TABLE batches (
            id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, total INTEGER, started_at REAL NOT NULL,
            ended_at REAL, sequence INTEGER NOT NULL, seen_at REAL NOT NULL, completed INTEGER NOT NULL DEFAULT 0,
            failed INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
            ends TEXT, last_end REAL
        ) WITHOUT ROWID""",
    ),
    (
        # It replaces longest_gap_s. That column stays, because running processes of earlier
        # versions still write it. Their stall_after_s is NULL and is derived from the gap.
        "ALTER TABLE states ADD COLUMN stall_after_s REAL",
        # Rarely used values: an estimated ratio, pauses, previews, an expected duration.
        # NULL if all are defaults.
        "ALTER TABLE states ADD COLUMN extra TEXT",
        # History for estimates, which outlives its operation. The number distinguishes levels of
        # one key in one run. level and host_class are those of TrajectoryKey. Newer rows have
        # higher keys, even if the wall clock steps.
        """CREATE TABLE trajectories (
            key INTEGER PRIMARY KEY, operation_type TEXT NOT NULL, level TEXT NOT NULL, eta_key TEXT NOT NULL,
            host_class TEXT NOT NULL, run TEXT NOT NULL, number INTEGER NOT NULL, operation_id TEXT, at REAL NOT NULL,
            trajectory TEXT NOT NULL, UNIQUE (operation_type, level, eta_key, host_class, run, number)
        )""",
        "CREATE INDEX trajectories_by_operation ON trajectories (operation_id)",
        # Metadata of previews. Their content is in a preview store.
        """CREATE TABLE previews (
            operation INTEGER NOT NULL, number INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL, at REAL NOT NULL,
            name TEXT NOT NULL, media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,
            width INTEGER, height INTEGER, ratio REAL, PRIMARY KEY (operation, number, writer)
        ) WITHOUT ROWID""",
        "CREATE INDEX previews_by_location ON previews (location)",
    ),
    (
        # Beginnings of long paths. See paths.py. Processes of earlier versions write full paths.
        """CREATE TABLE path_prefixes (
            key INTEGER PRIMARY KEY, operation INTEGER NOT NULL, path TEXT NOT NULL, UNIQUE (operation, path)
        )""",
    ),
    (
        # superseded_by is the run that has continued a run. It fences the old process: no change of
        # such a run is written. lineage is the key of the first run of a resumed operation.
        "ALTER TABLE operations ADD COLUMN superseded_by TEXT",
        "ALTER TABLE operations ADD COLUMN lineage INTEGER",
        "CREATE INDEX operations_superseded ON operations (instance) WHERE superseded_by IS NOT NULL",
        "CREATE INDEX operations_by_lineage ON operations (lineage) WHERE lineage IS NOT NULL",
        # Digests of completed levels and items, of all runs of a lineage.
        """CREATE TABLE completed_keys (
            lineage INTEGER NOT NULL, scope BLOB NOT NULL, key BLOB NOT NULL, weight NOT NULL, PRIMARY KEY (lineage, scope, key)
        ) WITHOUT ROWID""",
        "CREATE TABLE checkpoints (operation INTEGER PRIMARY KEY, value TEXT NOT NULL)",
        # Work of other processes on an operation, until its owner has included it.
        """CREATE TABLE contributions (
            key INTEGER PRIMARY KEY AUTOINCREMENT, operation INTEGER NOT NULL, writer TEXT NOT NULL, path TEXT NOT NULL,
            sequence INTEGER NOT NULL, contribution TEXT NOT NULL, UNIQUE (operation, writer, path)
        )""",
        "CREATE INDEX contributions_by_operation ON contributions (operation)",
        # Counters of processes that share an address of /metrics. See totals.py.
        """CREATE TABLE totals (
            metrics_group TEXT NOT NULL, process TEXT NOT NULL, series TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL,
            PRIMARY KEY (metrics_group, process, series)
        ) WITHOUT ROWID""",
    ),
    (
        # A start checks whether another process runs the id. An id may have many ended runs.
        """CREATE INDEX operations_active_by_id ON operations (operation_id) WHERE finished_at IS NULL""",
    ),
)
"""Step n migrates version n to version n + 1 (``PRAGMA user_version``). Only append steps."""


# Why one statement: a migration by another process is either complete or not visible.
_SELECT_VERSION: Final = """SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)
    FROM pragma_user_version, pragma_application_id"""


def read_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of an open file, which is 0 for an empty one.

    Raises JournalError if the file is not a journal.
    """
    found, application, tables = connection.execute(_SELECT_VERSION).fetchone()
    if application != APPLICATION_ID and (tables or found):
        msg = f"{path} is an SQLite database of something else, not a journal of otel-progress. Name another file."
        raise JournalError(msg)
    return int(found)


def read_journal_id(connection: sqlite3.Connection) -> str:
    """Return the id of the journal.

    Why not the inode: a new file may get the inode of the file it replaces.
    """
    (journal,) = connection.execute("SELECT journal FROM counters").fetchone()
    return str(journal)


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS
) -> None:
    """Migrate an open file to the newest version in one transaction.

    Raises JournalError if the file is newer than this code.
    """
    if _is_current(connection, path, migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Why again: another process may have migrated the file in the meantime.
        if not _is_current(connection, path, migrations):
            for step in migrations[read_version(connection, path) :]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _is_current(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> bool:
    found = read_version(connection, path)
    if found > len(migrations):
        msg = (
            f"{path} was written by a newer otel-progress (schema {found}; this one knows up to {len(migrations)}). "
            "Upgrade this installation, or name another file."
        )
        raise JournalError(msg)
    return found == len(migrations)
