"""A journal of the first version under this one: brought up to date with what is in it."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
from workers import run

from factories import CLOCK, WALL, batch, batch_info, ended, event, log, snapshot
from otel_progress import codec
from otel_progress.journal import SqliteJournal, schema
from otel_progress.journal.rows import STATE
from otel_progress.model import Snapshot, Status


def _first_version(path: Path) -> None:
    """Make a file as the first version made it: an operation that runs, with a level and an event, and two that ended."""
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    process = ("instance-1", 4711, "elsewhere/boot/1", "nightly", WALL, None, WALL, CLOCK)
    connection.execute("INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?)", process)
    connection.execute("UPDATE counters SET revision = 5, level_key = 4")
    roots = [snapshot(), ended(operation_id="o2", run="r2"), ended(operation_id="o3", run="r3", ended_at=WALL + 90)]
    add = """INSERT INTO operations (key, revision, run, operation_id, operation_type, instance, recorded_at, finished_at)
        VALUES (?, 5, ?, ?, 'setlist', 'instance-1', ?, ?)"""
    for key, root in enumerate(roots, 1):
        connection.execute(add, (key, root.info.run, root.info.operation_id, WALL, root.ended_at))
        _add_level(connection, key, key, root)
    _add_level(connection, 4, 1, snapshot("song:1", sequence=3, current=2))
    happened = (1, 1, "instance-1", "", "setlist", "progress.item", WALL + 1)
    connection.execute(
        "INSERT INTO events (operation, number, writer, path, level_type, kind, at) VALUES (?,?,?,?,?,?,?)", happened
    )
    connection.close()


def _add_level(connection: sqlite3.Connection, key: int, operation: int, level: Snapshot) -> None:
    info = {name: value for name, value in codec.encode_info(level.info).items() if name != "batch"}
    connection.execute("INSERT INTO levels VALUES (?, ?, ?, ?)", (key, operation, level.path, json.dumps(info)))
    given = {"metadata", "error", "eta"}
    values = [None if name in given else str(level.status) if name == "status" else getattr(level, name) for name in STATE]
    marks = ", ".join("?" * (len(STATE) + 1))
    connection.execute(f"INSERT INTO states (level, {', '.join(STATE)}) VALUES ({marks})", (key, *values))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_of_the_first_version_is_read(path: Path, read_only: bool) -> None:
    """Everything in it comes out, also for who only reads; new questions have empty answers."""
    _first_version(path)
    journal = SqliteJournal(path, read_only=read_only, now=lambda: WALL, clock=lambda: CLOCK)
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root, found.levels) == (snapshot(), (snapshot("song:1", sequence=3, current=2),))
    assert (found.resources, found.cancel_requested_at) == (None, None)
    assert [operation.run for operation in journal.history()] == ["r3", "r2"]
    assert journal.history("setlist")[0].status is Status.COMPLETED
    assert list(journal.events("friday-42")) == [event(1)]
    assert list(journal.logs("friday-42")) == list(journal.resources("friday-42")) == list(journal.batches()) == []
    journal.close()


def test_work_goes_on_in_a_file_of_the_first_version(path: Path) -> None:
    """A worker that was upgraded writes to it as to any other, and what ended before can be deleted."""
    _first_version(path)
    journal = SqliteJournal(path, now=lambda: WALL, clock=lambda: CLOCK)
    journal.write(batch(ended(sequence=9, batch="b"), logs=[log(1)], batches=[batch_info("b", total=1)]))
    assert [operation.run for operation in journal.history()] == ["r3", "run-1", "r2"]
    assert len(journal.logs("friday-42")) == 1
    found = journal.batch("b")
    assert found is not None
    assert found.over
    assert journal.delete("o3") == 1
    journal.close()


def test_a_worker_of_the_first_version_goes_on_meanwhile(path: Path) -> None:
    """A process that has the file open when it is upgraded writes on with the statements that it knows."""
    _first_version(path)
    old = sqlite3.connect(path, isolation_level=None)
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    journal = SqliteJournal(path, read_only=True, now=lambda: WALL, clock=lambda: CLOCK)
    assert len(journal.active()) == 1
    old.execute("BEGIN IMMEDIATE")
    old.execute("UPDATE operations SET instance = 'instance-1', finished_at = ? WHERE key = 1", (WALL + 99,))
    old.execute("UPDATE states SET sequence = 7, status = 'failed' WHERE level = 1 AND sequence < 7")
    old.execute("COMMIT")
    old.close()
    assert [operation.run for operation in journal.history()] == ["run-1", "r3", "r2"]
    journal.close()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="has to be root to become somebody else")
def test_who_may_not_upgrade_is_told_what_to_do() -> None:
    """A reader that cannot write the file says which version it has and who could help; the file stays as it is."""
    program = """
import os, sys
from pathlib import Path
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
os.setuid(65534)
try:
    SqliteJournal(Path(sys.argv[1]), read_only=True).check()
except JournalError as exc:
    print(exc)
"""
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are for root only, all the way up
        Path(directory).chmod(0o755)
        path = Path(directory, "progress.db")
        _first_version(path)
        keeper = sqlite3.connect(path)  # so that the log and its index are there to be read
        keeper.execute("SELECT count(*) FROM operations").fetchone()
        for file in Path(directory).iterdir():
            file.chmod(0o644)
        message = run(program, path)
        assert "schema 1, this one is 2" in message
        assert "as a user who may write it" in message
        assert keeper.execute("PRAGMA user_version").fetchone() == (1,)
        keeper.close()
