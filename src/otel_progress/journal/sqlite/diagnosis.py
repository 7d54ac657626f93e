"""Diagnosis of a journal file for ``otel-progress doctor``."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.sqlite.connection import describe_sqlite_error


def diagnose_file(path: Path) -> Iterator[JournalFinding]:
    """Check permissions, schema and integrity of a journal file without changing it."""
    if not path.exists():
        yield _check_creatable(path)
        return
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        yield JournalFinding("writable", "ok", "can be written")
    else:
        fix = "cannot be written, and neither can its directory be; give yourself the right"
        yield JournalFinding("writable", "problem", f"{fix}: {path}")
    try:
        yield from _check_integrity(path)
    except sqlite3.Error as error:
        yield JournalFinding("integrity", "problem", describe_sqlite_error(error, path))


def _check_creatable(path: Path) -> JournalFinding:
    parent = next(folder for folder in path.parents if folder.exists())
    if os.access(parent, os.W_OK):
        return JournalFinding("writable", "ok", "does not exist yet; the first work makes it")
    text = f"does not exist, and cannot be made in {parent}: set OTEL_PROGRESS_STORE"
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
    text = f"the file is damaged ({'; '.join(errors)[:200]}); move it away, a new one is made: {path}"
    yield JournalFinding("integrity", "problem", text)
