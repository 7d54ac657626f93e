"""Diagnosis of a journal file for ``otel-progress doctor``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.sqlite.opening import describe_sqlite_error


def diagnose_file(path: Path) -> Iterator[JournalFinding]:
    """Check permissions, schema and integrity of a journal file without changing it."""
    if not path.exists():
        yield _check_creatable(path)
        return
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        yield JournalFinding("writable", "ok", "is writable")
    else:
        text = f"the file or its directory is not writable; change the permissions of {path}"
        yield JournalFinding("writable", "problem", text)
    try:
        yield from _check_integrity(path)
    except sqlite3.Error as error:
        yield JournalFinding("integrity", "problem", describe_sqlite_error(error, path))


def _check_creatable(path: Path) -> JournalFinding:
    parent = next(folder for folder in path.parents if folder.exists())
    if os.access(parent, os.W_OK):
        return JournalFinding("writable", "ok", "does not exist yet; the first operation creates it")
    text = f"does not exist and cannot be created in {parent}; set OTEL_PROGRESS_STORE"
    return JournalFinding("writable", "problem", text)


def _check_integrity(path: Path) -> Iterator[JournalFinding]:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        errors = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    yield JournalFinding("schema", "ok", f"version {schema}, SQLite {sqlite3.sqlite_version}")
    if errors == ["ok"]:
        yield JournalFinding("integrity", "ok", "quick_check found no problem")
        return
    text = f"the file is damaged ({'; '.join(errors)[:200]}); move it away, then a new one is created: {path}"
    yield JournalFinding("integrity", "problem", text)
