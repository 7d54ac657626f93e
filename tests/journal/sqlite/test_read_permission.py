"""Reading a journal without write permission, and while it is damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal, open_journal
from otel_progress.journal.invalid_rows import get_invalid_row_count
from otel_progress.journal.sqlite import schema
from otel_progress.journal.sqlite.diagnosis import diagnose_file
from otel_progress.protocols import HistoryQuery
from tests.support.factories import WALL, ended, event, make_change_set, snapshot
from tests.support.journal_processes import PATIENT, run

_READ = """
import os, shutil, sys, tempfile
from pathlib import Path
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite.diagnosis import diagnose_file
from tests.support.factories import WALL, make_change_set, snapshot
path, other = Path(sys.argv[1]), Path(sys.argv[2])
# Why: modules are imported at their first use, but only root can read them.
journal = SqliteJournal(other, now=lambda: WALL)
journal.write(make_change_set(snapshot()))
journal.get("friday-42")
list(diagnose_file(other))
journal.close()
reader = SqliteJournal(path, read_only=True, now=lambda: WALL)
os.chdir("/")
os.setgroups([])
os.setuid(65534)
try:
    print(reader.get("friday-42").root.sequence)
except JournalError as error:
    print(error)
print([finding.check for finding in diagnose_file(path) if finding.state == "problem"])
"""


def _write(path: Path, sequence: int = 1) -> SqliteJournal:
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(make_change_set(snapshot(sequence=sequence)))
    return journal


@pytest.fixture
def readable() -> Iterator[Path]:
    """A journal path in a directory that other users can enter."""
    # Why not tmp_path: only root can access the parent directories of pytest.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "progress.db"


needs_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="has to be root to become another user"
)


@pytest.mark.process
@needs_root
@pytest.mark.parametrize("state", ["closed", "pending log", "pending log without index", "in use"])
def test_user_with_read_permission_only_reads_journal(readable: Path, tmp_path: Path, state: str) -> None:
    """No file is created next to it."""
    journal = _write(readable, 7)
    if state.startswith("pending"):
        kept = readable.with_name("kept")
        kept.mkdir()
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{readable}{suffix}", kept)
        journal.close()
        for suffix in ("", "-wal") if state.endswith("index") else ("", "-wal", "-shm"):
            shutil.copy(kept / f"progress.db{suffix}", readable.parent)
        shutil.rmtree(kept)
    elif state == "closed":
        journal.close()
    for file in readable.parent.iterdir():
        file.chmod(0o644)
    names = {file.name for file in readable.parent.iterdir()}
    assert run(_READ, readable, tmp_path / "other.db") == "7\n['writable']\n"
    assert {file.name for file in readable.parent.iterdir()} == names
    journal.close()


@pytest.mark.process
@needs_root
@pytest.mark.parametrize("target", ["file", "directory"])
def test_user_without_read_permission_gets_clear_error(readable: Path, tmp_path: Path, target: str) -> None:
    """It is not reported as an empty journal."""
    _write(readable).close()
    (readable if target == "file" else readable.parent).chmod(0o700)
    message, problems = run(_READ, readable, tmp_path / "other.db").splitlines()
    assert "cannot be read (Permission denied)" in message
    assert problems == "['readable']"


@contextmanager
def _mount_read_only(directory: Path, target: Path) -> Iterator[None]:
    target.mkdir()
    commands = (["mount", "--bind", directory, target], ["mount", "-o", "remount,ro,bind", target])
    for command in commands:
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("may not mount a read-only file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None, reason="needs a read-only mount"
)
def test_journal_on_read_only_mount_is_read_and_followed(tmp_path: Path) -> None:
    """Changes by a process that has another mount are found."""
    path = tmp_path / "source" / "progress.db"
    _write(path, 3).close()
    with _mount_read_only(path.parent, tmp_path / "mounted"):
        mounted = tmp_path / "mounted" / "progress.db"
        with closing(SqliteJournal(mounted, read_only=True, now=lambda: WALL)) as reader:
            sequences = []
            for n in (3, 4, 5):
                journal = _write(path, n)
                found = reader.get("friday-42")
                sequences.append(found and found.root.sequence)
                journal.close()
                found = reader.get("friday-42")
                sequences.append(found and found.root.sequence)
            assert sequences == [3, 3, 4, 4, 5, 5]


def test_unreadable_path_is_no_missing_journal(tmp_path: Path) -> None:
    """A reader that accepts a missing journal raises too."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "loop" / "progress.db", "Too many levels of symbolic links"),
        (tmp_path / "dangling", "symbolic link to a file that does not exist"),
        (tmp_path / "file" / "progress.db", "Not a directory"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(JournalError, match=message):
            open_journal(f"sqlite:///{path}", read_only=True, missing_ok=True)
        assert [finding.state for finding in diagnose_file(path)] == ["problem"]


# --- damaged rows --------------------------------------------------------------------------------


def _make_history(path: Path) -> None:
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        for n in range(20):
            names = {"operation_id": f"job-{n}", "run": f"run-{n}"}
            journal.write(
                make_change_set(
                    ended(sequence=2, ended_at=WALL, **names),
                    snapshot("song:1", **names),
                    events=[event(1, **names)],
                )
            )


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE levels SET info = replace(info, '\"run-3\"', '\"run-?\"') WHERE path = ''", "levels"),
        ("UPDATE levels SET info = '{' WHERE key = 1", "levels"),
        ("UPDATE states SET status = 'gone' WHERE level = 1", "levels"),
        ("DELETE FROM states WHERE level = 1", "operations"),
        ("UPDATE levels SET path = 'x' WHERE key = 1", "operations"),
        ("UPDATE operations SET operation_id = 'job-x' WHERE key = 3", "levels"),
        ("UPDATE operations SET finished_at = finished_at + 8 WHERE key = 3", "levels"),
        ("UPDATE levels SET operation = 99 WHERE key = 1", "levels"),
        ("DELETE FROM levels WHERE key = 1", "states"),
        ("UPDATE events SET outcome = 'maybe' WHERE operation = 2", "events"),
        ("UPDATE instances SET host = x'ff'", "instances"),
    ],
)
def test_diagnosis_of_damaged_row_names_its_table(path: Path, statement: str, table: str) -> None:
    """The untouched journal is the control."""
    _make_history(path)
    assert {finding.state for finding in diagnose_file(path)} == {"ok"}
    with closing(sqlite3.connect(path)) as other, other:
        assert other.execute(statement).rowcount > 0
    (problem,) = [finding for finding in diagnose_file(path) if finding.state == "problem"]
    assert problem.check == "rows"
    assert table in problem.text


def test_reader_counts_each_damaged_row_once(path: Path) -> None:
    """The other rows are returned."""
    _make_history(path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE operations SET run = 'counted-' || run")
        other.execute("UPDATE levels SET info = '{' WHERE path = '' AND key < 6")
    before = get_invalid_row_count()
    with closing(SqliteJournal(path, read_only=True, now=lambda: WALL)) as reader:
        counts = []
        for _ in range(2):
            assert len(reader.history(HistoryQuery(limit=100))) == 17
            counts.append(get_invalid_row_count() - before)
    assert counts == [3, 3]


def test_single_bit_flips_drop_no_operation_without_a_finding(path: Path, tmp_path: Path) -> None:
    """Each bit of a few pages is tried at regular distances."""
    _make_history(path)
    data, dropped = path.read_bytes(), 0
    copy = tmp_path / "copy.db"
    for position in range(100, len(data), 997):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        copy.write_bytes(flipped)
        try:
            with closing(SqliteJournal(copy, read_only=True, now=lambda: WALL)) as reader:
                ids = {operation.operation_id for operation in reader.history(HistoryQuery(limit=100))}
        except JournalError:
            continue
        if ids != {f"job-{n}" for n in range(20)}:
            dropped += 1
            assert "problem" in {finding.state for finding in diagnose_file(copy)}, position
    assert dropped > 0


def test_diagnosis_of_older_schema_changes_nothing(path: Path) -> None:
    """Its rows are not decoded."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        schema.migrate(connection, path, schema.MIGRATIONS[:1])
    content = path.read_bytes()
    assert [finding.check for finding in diagnose_file(path)] == ["writable", "schema", "integrity"]
    assert path.read_bytes() == content
