"""Journals of earlier schema versions."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from otel_progress import codec
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import schema
from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.operations import Condition
from otel_progress.processes import HEARTBEAT_TIMEOUT_S
from otel_progress.protocols import HistoryQuery
from otel_progress.resumption import RunClaim
from tests.support.factories import (
    CLOCK,
    WALL,
    batch_info,
    ended,
    event,
    history_key,
    instance,
    log,
    make_change_set,
    make_trajectory_entry,
    preview,
    snapshot,
)
from tests.support.journal_processes import PATIENT, run

OLD_STATE: Final = (
    "sequence", "current", "ratio", "message", "observed_at", "observed_clock", "advanced_at",
    "advanced_clock", "longest_gap_s",
    "status", "total", "failed", "skipped", "metadata", "error", "stage", "eta", "ended_at", "duration_s",
)  # fmt: skip
"""Columns of states in the first two versions, in the order of their writes."""
OLD_ADD: Final = f"INSERT INTO states ({', '.join(OLD_STATE)}, level) VALUES ({', '.join('?' * 20)})"
OLD_ADVANCE: Final = (
    f"UPDATE states SET {', '.join(f'{column} = ?' for column in OLD_STATE[:9])} "
    "WHERE level = ? AND sequence < ?"
)
OLD_ETA: Final = '[30.0,20.0,50.0,"estimated","rate",0,5000.0]'
"""Stored estimate of earlier versions, without its last two values."""
GAPS: Final = {"": 30.0, "song:1": 2.0}
"""Longest gaps in the old file. Other levels have none."""


def _create_older_file(path: Path, version: int) -> None:
    """Create a file like an earlier version.

    It has an active operation with a level and an event, and two ended operations.
    """
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for step in schema.MIGRATIONS[:version]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    process = ("instance-1", 4711, "elsewhere/boot/1", "nightly", WALL, None, WALL, CLOCK)
    connection.execute("INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?)", process)
    connection.execute("UPDATE counters SET revision = 5, level_key = 4")
    roots = [
        snapshot(),
        ended(operation_id="o2", run="r2"),
        ended(operation_id="o3", run="r3", ended_at=WALL + 90),
    ]
    add = """INSERT INTO operations
        (key, revision, run, operation_id, operation_type, instance, recorded_at, finished_at)
        VALUES (?, 5, ?, ?, 'setlist', 'instance-1', ?, ?)"""
    for key, root in enumerate(roots, 1):
        connection.execute(add, (key, root.info.run, root.info.operation_id, WALL, root.ended_at))
        _add_level(connection, key, key, root)
    _add_level(connection, 4, 1, snapshot("song:1", sequence=3, current=2))
    connection.execute("UPDATE states SET eta = ? WHERE level = 4", (OLD_ETA,))
    happened = (1, 1, "instance-1", "", "setlist", "progress.item", WALL + 1)
    connection.execute(
        "INSERT INTO events (operation, number, writer, path, level_type, kind, at) VALUES (?,?,?,?,?,?,?)",
        happened,
    )
    connection.close()


def _add_level(connection: sqlite3.Connection, key: int, operation: int, level: LevelSnapshot) -> None:
    info = {name: value for name, value in codec.encode_info(level.info).items() if name != "batch"}
    connection.execute(
        "INSERT INTO levels VALUES (?, ?, ?, ?)", (key, operation, level.path, json.dumps(info))
    )
    connection.execute(OLD_ADD, (*_encode_old_state(level), key))


def _encode_old_state(level: LevelSnapshot) -> list[object]:
    given = {
        "metadata": None,
        "error": None,
        "eta": None,
        "status": str(level.status),
        "longest_gap_s": GAPS.get(level.path, 0.0),
    }
    return [given[name] if name in given else getattr(level, name) for name in OLD_STATE]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("read_only", [True, False])
def test_older_file_is_read_completely(path: Path, version: int, read_only: bool) -> None:
    """New queries return empty results."""
    _create_older_file(path, version)
    journal = SqliteJournal(path, limits=PATIENT, read_only=read_only, now=lambda: WALL, clock=lambda: CLOCK)
    found = journal.get("friday-42")
    assert found is not None
    eta = Eta(30.0, 20.0, 50.0, "estimated", "rate", 0, 5000.0)
    assert found.root == snapshot(stall_after_s=90.0)
    assert found.levels == (snapshot("song:1", sequence=3, current=2, stall_after_s=60.0, eta=eta),)
    assert (found.resources, found.cancel_requested_at) == (None, None)
    assert [operation.run for operation in journal.history()] == ["r3", "r2"]
    assert journal.history(HistoryQuery("setlist"))[0].status is Status.COMPLETED
    assert list(journal.events("friday-42")) == [event(1)]
    assert (
        list(journal.logs("friday-42"))
        == list(journal.resources("friday-42"))
        == list(journal.batches())
        == []
    )
    assert list(journal.previews("friday-42")) == list(journal.trajectories(history_key())) == []
    journal.close()


@pytest.mark.parametrize("version", [1, 2])
def test_older_file_is_written_and_deleted_from(path: Path, version: int) -> None:
    """A process of this version uses it like any other file."""
    _create_older_file(path, version)
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL, clock=lambda: CLOCK)
    root = ended(sequence=9, batch="b", stall_after_s=7.0, paused_s=3.0, previews=1)
    told = {
        "logs": [log(1)],
        "batches": [batch_info("b", total=1)],
        "previews": [preview()],
        "trajectories": [make_trajectory_entry()],
    }
    journal.write(make_change_set(root, **told))
    assert [operation.run for operation in journal.history()] == ["r3", "run-1", "r2"]
    assert len(journal.logs("friday-42")) == 1
    assert list(journal.previews("friday-42")) == [preview()]
    assert list(journal.trajectories(history_key())) == [make_trajectory_entry().trajectory]
    operation, found = journal.get("friday-42"), journal.batch("b")
    assert operation is not None
    assert operation.root == root
    assert found is not None
    assert found.is_finished
    assert journal.delete("o3") == 1
    journal.close()


@pytest.mark.parametrize("version", range(1, len(schema.MIGRATIONS)))
def test_run_of_an_older_file_can_be_continued(path: Path, version: int) -> None:
    """Its process is dead, and it has no keys."""
    _create_older_file(path, version)
    later = HEARTBEAT_TIMEOUT_S + 1.0
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL + later, clock=lambda: CLOCK + later)
    owner = instance("instance-2")
    root = snapshot(sequence=0, run="run-2", instance="instance-2")
    work = journal.claim_run(RunClaim(owner, root, WALL + later, CLOCK + later))
    assert work is not None
    assert (work.root.info.run, work.attempt, list(work.completed)) == ("run-1", 2, [])
    found = journal.get("friday-42")
    assert found is not None
    assert (found.run, found.root.info.attempt) == ("run-2", 2)
    conditions = {operation.run: operation.condition for operation in journal.history()}
    assert conditions == {"run-1": Condition.SUPERSEDED, "r2": Condition.OK, "r3": Condition.OK}
    journal.close()


@pytest.mark.parametrize("version", [1, 2])
def test_process_of_earlier_version_continues_after_migration(path: Path, version: int) -> None:
    """Its rows are decoded."""
    _create_older_file(path, version)
    old = sqlite3.connect(path, isolation_level=None)
    assert old.execute("PRAGMA user_version").fetchone() == (version,)
    journal = SqliteJournal(path, limits=PATIENT, read_only=True, now=lambda: WALL, clock=lambda: CLOCK)
    assert len(journal.active()) == 1
    old.execute("BEGIN IMMEDIATE")
    moved = _encode_old_state(snapshot(sequence=6, current=4))[:9]
    moved[-1] = 50.0
    assert old.execute(OLD_ADVANCE, (*moved, 1, 6)).rowcount == 1
    _add_level(old, 5, 1, snapshot("song:2"))
    old.execute("COMMIT")
    found = journal.get("friday-42")
    assert found is not None
    assert (found.root.sequence, found.root.current, found.root.stall_after_s) == (6, 4, 150.0)
    assert found.get_level("song:2") == snapshot("song:2")
    old.execute("BEGIN IMMEDIATE")
    old.execute("UPDATE operations SET instance = 'instance-1', finished_at = ? WHERE key = 1", (WALL + 99,))
    old.execute("UPDATE states SET sequence = 7, status = 'failed' WHERE level = 1 AND sequence < 7")
    old.execute("COMMIT")
    old.close()
    assert [operation.run for operation in journal.history()] == ["run-1", "r3", "r2"]
    journal.close()


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="has to be root to become somebody else"
)
def test_reader_without_permission_to_migrate_raises_clear_error() -> None:
    """The file is not changed."""
    program = """
import os, sys
from pathlib import Path
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT
os.setuid(65534)
try:
    SqliteJournal(Path(sys.argv[1]), limits=PATIENT, read_only=True).check()
except JournalError as exc:
    print(exc)
"""
    # Why not tmp_path: only root can access the parent directories of pytest.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory, "progress.db")
        _create_older_file(path, 1)
        # Why: an open connection keeps the log and its index, which the reader needs.
        keeper = sqlite3.connect(path)
        keeper.execute("SELECT count(*) FROM operations").fetchone()
        for file in Path(directory).iterdir():
            file.chmod(0o644)
        message = run(program, path)
        assert f"schema 1, this one is {len(schema.MIGRATIONS)}" in message
        assert "as a user with write permission" in message
        assert keeper.execute("PRAGMA user_version").fetchone() == (1,)
        keeper.close()
