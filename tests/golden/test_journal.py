"""The journal file: schema, rows, and a file written by version 0.1.0.

Every later version must read ``journal/v0.1.0.db``. It is never rewritten, not even by an update,
because the code of 0.1.0 wrote it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.golden.documents import answers_of
from tests.support.golden.files import DATA, Golden
from tests.support.golden.sample_journal import open_scene_journal, write_scene


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the journal of 0.1.0. Opening a file writes more files next to it."""
    path = tmp_path / "old.db"
    shutil.copy(DATA / "journal" / "v0.1.0.db", path)
    return path


def test_journal_of_0_1_0_gives_golden_results(golden: Golden, old: Path) -> None:
    """Every Reader method returns the same as when the file was written."""
    with open_scene_journal(old, read_only=True) as journal:
        golden.json("journal/v0.1.0.json", answers_of(journal))


def test_journal_of_0_1_0_accepts_writes(old: Path, tmp_path: Path) -> None:
    """Writing the same change sets again changes no result."""
    write_scene(old)
    write_scene(tmp_path / "new.db")
    with open_scene_journal(old) as first, open_scene_journal(tmp_path / "new.db") as second:
        assert answers_of(first) == answers_of(second)


def test_new_journal_gives_golden_results(golden: Golden, tmp_path: Path) -> None:
    """The change sets of the state give the same results as the file of 0.1.0."""
    write_scene(tmp_path / "new.db")
    with open_scene_journal(tmp_path / "new.db", read_only=True) as journal:
        golden.json("journal/v0.1.0.json", answers_of(journal))


def test_schema_of_new_file_equals_golden_file(golden: Golden, tmp_path: Path) -> None:
    """Tables, indexes, version and application id."""
    write_scene(tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        golden.text("journal/schema.sql", "".join(_schema(connection)))


def test_rows_of_fixed_state_equal_golden_file(golden: Golden, tmp_path: Path) -> None:
    """Every row of every table, except the random id of the file."""
    write_scene(tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        golden.text("journal/rows.sql", "".join(_rows(connection)))


def _schema(connection: sqlite3.Connection) -> Iterator[str]:
    for pragma in ("user_version", "application_id", "journal_mode", "auto_vacuum"):
        yield f"PRAGMA {pragma} = {connection.execute(f'PRAGMA {pragma}').fetchone()[0]};\n"
    for kind, name, sql in connection.execute(
        "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    ):
        yield f"{sql or f'-- {kind} {name}'};\n"


def _rows(connection: sqlite3.Connection) -> Iterator[str]:
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    for name in names:
        columns = [column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})")]
        rows = [list(row) for row in connection.execute(f"SELECT * FROM {name}")]
        if name == "counters":
            for row in rows:
                row[columns.index("journal")] = "JOURNAL"
        for line in sorted(", ".join(map(_literal, row)) for row in rows):
            yield f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({line});\n"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''").replace("\n", "\\n").replace("\r", "\\r") + "'"
    return repr(value)
