"""Diagnosis of a journal file for ``otel-progress doctor``."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from otel_progress.errors import JournalError
from otel_progress.journal import rows
from otel_progress.journal.decoding import DECODE_ERRORS, SAMPLE, decode_info_column
from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.rows import EVENT, LOG, STATE
from otel_progress.journal.sqlite import schema
from otel_progress.journal.sqlite.opening import (
    NothingRecordedError,
    check_readable,
    describe_sqlite_error,
    is_missing,
    open_to_check,
)

_TIMEOUT_S: Final = 5.0


_UNWRITTEN_ROOT_S: Final = 60.0
"""Time after which an operation has to have a root level. Another process may write it later."""


def diagnose_file(path: Path) -> Iterator[JournalFinding]:
    """Check permissions, schema and content of a journal file.

    The file is not changed. Never raises.
    """
    try:
        yield from _diagnose(path)
    except Exception as error:
        text = f"the check failed ({type(error).__name__}: {error}); check the path {path}"
        yield JournalFinding("integrity", "problem", text)


def _diagnose(path: Path) -> Iterator[JournalFinding]:
    try:
        check_readable(path)
    except NothingRecordedError:
        yield _check_creatable(path) if is_missing(path) else _check_writable(path)
        return
    except JournalError as error:
        yield JournalFinding("readable", "problem", str(error))
        return
    yield _check_writable(path)
    try:
        yield from _check_content(path)
    except sqlite3.Error as error:
        yield JournalFinding("integrity", "problem", describe_sqlite_error(error, path))
    except JournalError as error:
        yield JournalFinding("integrity", "problem", str(error))


def _check_writable(path: Path) -> JournalFinding:
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return JournalFinding("writable", "ok", "is writable")
    text = f"the file or its directory is not writable; change the permissions of {path}"
    return JournalFinding("writable", "problem", text)


def _check_creatable(path: Path) -> JournalFinding:
    parent = next(folder for folder in path.parents if not is_missing(folder))
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return JournalFinding("writable", "ok", "does not exist yet; the first operation creates it")
    text = f"does not exist and cannot be created in {parent}; set OTEL_PROGRESS_STORE"
    return JournalFinding("writable", "problem", text)


def _check_content(path: Path) -> Iterator[JournalFinding]:
    opened = open_to_check(path, _connect)
    try:
        with closing(opened.connection) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            yield JournalFinding("schema", "ok", f"version {version}, SQLite {sqlite3.sqlite_version}")
            errors = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
            fix = f"move it away (with its -wal and -shm), then a new one is created: {path}"
            if errors != ["ok"]:
                text = f"the file is damaged ({'; '.join(errors)[:200]}); {fix}"
                yield JournalFinding("integrity", "problem", text)
                return
            yield JournalFinding("integrity", "ok", "integrity_check found no problem")
            if version == len(schema.MIGRATIONS):
                yield _check_rows(connection, fix)
    finally:
        opened.close()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)
    # Why: damaged text must be counted, not end the check.
    connection.text_factory = _decode_text
    return connection


def _decode_text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


# --- rows ----------------------------------------------------------------------------------------


def _check_rows(connection: sqlite3.Connection, fix: str) -> JournalFinding:
    """Decode all rows, and compare the values that are stored twice."""
    invalid = count_invalid_rows(connection)
    if not invalid:
        return JournalFinding("rows", "ok", "all rows can be decoded")
    kinds = ", ".join(f"{count} of {table}" for table, count in sorted(invalid.items()))
    text = f"damaged rows are left out or may be wrong: {kinds}; {fix}"
    return JournalFinding("rows", "problem", text)


def count_invalid_rows(connection: sqlite3.Connection) -> Counter[str]:
    """Return the number of damaged rows by table."""
    invalid: Counter[str] = Counter()
    connection.execute("BEGIN")
    try:
        for table, query, is_valid in _CHECKS:
            for row in connection.execute(query):
                if not is_valid(row):
                    invalid[table] += 1
    finally:
        connection.execute("ROLLBACK")
    return invalid


def _is_valid_level(row: Sequence[Any]) -> bool:
    key, operation, path, info, run, operation_id, operation_type, status, finished_at, *state = row
    if not isinstance(info, str) or not isinstance(path, str) or key is None or operation is None:
        return False
    snapshot = rows.decode_snapshot_row(info, state)
    if snapshot is None or (snapshot.info.path, snapshot.info.run) != (path, run):
        return False
    if (snapshot.info.operation_id, snapshot.info.operation_type) != (operation_id, operation_type):
        return False
    if path or finished_at is None:
        return True
    end = snapshot.observed_at if snapshot.ended_at is None else snapshot.ended_at
    return snapshot.status.finished and status in {None, snapshot.status.value} and end == finished_at


def _is_valid_operation(row: Sequence[Any]) -> bool:
    finished_at, recorded_at, newest_at, roots, *texts = row
    if not all(isinstance(text, str) for text in texts) or not isinstance(recorded_at, float):
        return False
    if roots == 1:
        return finished_at is None or isinstance(finished_at, float)
    return finished_at is None and (newest_at is None or newest_at - recorded_at < _UNWRITTEN_ROOT_S)


def _is_valid_use(row: Sequence[Any]) -> bool:
    return rows.decode_use_or_none(row[0]) is not None


def _is_valid_info(text: object) -> bool:
    try:
        return isinstance(text, str) and decode_info_column(text) is not None
    except DECODE_ERRORS:
        return False


_Check = tuple[str, str, Callable[[Sequence[Any]], bool]]


_CHECKS: Final[tuple[_Check, ...]] = (
    (
        "operations",
        """SELECT o.finished_at, o.recorded_at, (SELECT max(heartbeat_at) FROM instances),
            (SELECT count(*) FROM levels l JOIN states s ON s.level = l.key
                WHERE l.operation = o.key AND l.path = ''),
            o.run, o.operation_id, o.operation_type, o.instance FROM operations o""",
        _is_valid_operation,
    ),
    (
        "levels",
        f"""SELECT s.level, o.key, l.path, l.info, o.run, o.operation_id, o.operation_type,
            o.status, o.finished_at, {", ".join(f"s.{column}" for column in STATE)}
            FROM levels l LEFT JOIN operations o ON o.key = l.operation
            LEFT JOIN states s ON s.level = l.key""",
        _is_valid_level,
    ),
    (
        "states",
        "SELECT l.info FROM states s LEFT JOIN levels l ON l.key = s.level WHERE l.key IS NULL",
        lambda row: _is_valid_info(row[0]),
    ),
    (
        "events",
        f"SELECT {', '.join(EVENT)} FROM events",
        lambda row: rows.decode_event_row("", "", "", row) is not None,
    ),
    (
        "logs",
        f"SELECT {', '.join(LOG)} FROM logs",
        lambda row: rows.decode_log_row("", "", "", row) is not None,
    ),
    (
        "previews",
        f"SELECT {', '.join(rows.PREVIEW)} FROM previews",
        lambda row: rows.decode_preview_row("", "", "", row) is not None,
    ),
    (
        "samples",
        f"SELECT {', '.join(SAMPLE)} FROM samples",
        lambda row: rows.decode_sample_row(row) is not None,
    ),
    (
        "instances",
        "SELECT id, pid, host, service, started_at, start, heartbeat_at, heartbeat_clock FROM instances",
        lambda row: rows.decode_heartbeat_row(row) is not None,
    ),
    ("uses", "SELECT use FROM uses", _is_valid_use),
)
"""Table, query of its rows and check of a row."""
