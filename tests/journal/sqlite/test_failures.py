"""Errors of the file during work, and recovery from them."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite.connection import ManagedConnection
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.model import Status
from tests.support.factories import WALL, event, make_change_set, snapshot
from tests.support.fake_time import FakeTime
from tests.support.journal_processes import PATIENT, run
from tests.support.journals import open_written_journal, read_sequence


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    """A journal that holds one operation at sequence 1."""
    with open_written_journal(path) as journal:
        yield journal


@pytest.mark.usefixtures("journal")
def test_locked_file_fails_writes_until_it_is_unlocked(path: Path) -> None:
    """Readers still work during the lock."""
    impatient = SqliteJournal(path, limits=JournalLimits(busy_timeout_s=0.05), now=lambda: WALL)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in (2, 3):
        with pytest.raises(JournalError, match="locked by another process"):
            impatient.write(make_change_set(snapshot(sequence=number)))
    assert read_sequence(impatient) == 1
    other.execute("ROLLBACK")
    other.close()
    impatient.write(make_change_set(snapshot(sequence=4)))
    assert read_sequence(impatient) == 4
    impatient.close()


def test_delete_with_a_lock_before_its_clean_up_succeeds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The free pages are returned later."""
    impatient = SqliteJournal(path, limits=JournalLimits(busy_timeout_s=0.05), now=lambda: WALL)
    ended = snapshot(status=Status.COMPLETED, ended_at=WALL, duration_s=1.0)
    levels = [snapshot(f"song:{number}", message="x" * 1000) for number in range(200)]
    impatient.write(make_change_set(ended, *levels))
    other = sqlite3.connect(path, isolation_level=None)
    locked = []

    def lock(_: object) -> None:
        other.execute("BEGIN IMMEDIATE")
        locked.extend(other.execute("PRAGMA freelist_count").fetchone())

    monkeypatch.setattr(impatient, "_notify_deleted", lock)
    assert impatient.delete("friday-42") == 1
    assert locked[0] > 0
    other.execute("ROLLBACK")
    other.close()
    assert impatient.get("friday-42") is None
    impatient.close()


def test_failed_write_stores_nothing(journal: SqliteJournal, path: Path) -> None:
    """The cache of the writer has nothing that was rolled back."""
    other = sqlite3.connect(path)
    other.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no such luck'); END"
    )
    other.commit()
    new = (snapshot(sequence=2), snapshot("song:2"), snapshot(operation_id="o2", run="r2"))
    with pytest.raises(JournalError, match="no such luck"):
        journal.write(make_change_set(*new, events=[event(1)]))
    assert (read_sequence(journal), len(journal.active())) == (1, 1)
    other.execute("DROP TRIGGER refuse")
    other.commit()
    other.close()
    journal.write(make_change_set(*(replace(item, sequence=3) for item in new), events=[event(1)]))
    assert (read_sequence(journal), len(journal.active()), len(journal.events("friday-42"))) == (3, 2, 1)


@pytest.mark.parametrize("replacement", [None, "empty"])
def test_file_removed_while_open_fails_one_write_and_is_created_again(
    journal: SqliteJournal, path: Path, replacement: str | None
) -> None:
    """Readers find the new file."""
    reader = SqliteJournal(path, limits=PATIENT, read_only=True)
    assert read_sequence(reader) == 1
    for name in path.parent.iterdir():
        name.unlink()
    if replacement is not None:
        path.touch()
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.write(make_change_set(snapshot(sequence=2)))
    journal.write(make_change_set(snapshot(sequence=3), snapshot("song:1", sequence=3)))
    for each in (journal, reader):
        found = each.get("friday-42")
        assert found is not None
        assert (found.root.sequence, len(found.levels)) == (3, 1)
    reader.close()


def test_watch_after_file_was_replaced_yields_the_new_content(
    journal: SqliteJournal, path: Path, fake_time: FakeTime
) -> None:
    """A missing file yields an empty sequence."""
    watch = SqliteJournal(
        path, limits=PATIENT, read_only=True, now=lambda: WALL, sleep=fake_time.sleep
    ).watch()
    assert len(next(watch)) == 1
    for name in path.parent.iterdir():
        name.unlink()
    assert list(next(watch)) == []
    with pytest.raises(JournalError):
        journal.write(make_change_set())
    journal.write(make_change_set(snapshot(sequence=5)))
    assert [operation.root.sequence for operation in next(watch)] == [5]
    watch.close()


def test_damaged_file_raises_error_and_is_kept(path: Path) -> None:
    """Writing works after the file was moved away."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(
        make_change_set(snapshot(), *(snapshot(f"song:{n}", message="x" * 500) for n in range(300)))
    )
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(7).randbytes(size - 8192))
    with pytest.raises(JournalError, match=r"damaged.*Move it away"):
        journal.write(make_change_set(*(snapshot(f"song:{n}", sequence=2) for n in range(300))))
    with pytest.raises(JournalError, match=r"damaged.*Move it away"):
        journal.active()
    assert path.stat().st_size == size
    path.rename(path.with_suffix(".damaged"))
    for rest in path.parent.glob("*-*"):
        rest.unlink()
    with contextlib.suppress(JournalError):
        journal.write(make_change_set())
    journal.write(make_change_set(snapshot(sequence=3)))
    assert read_sequence(journal) == 3
    journal.close()


def test_rows_of_other_programs_are_omitted(journal: SqliteJournal, path: Path) -> None:
    """Other rows are returned."""
    journal.write(
        make_change_set(*(snapshot(f"song:{n}") for n in range(2, 9)), events=[event(1), event(2), event(3)])
    )
    other = sqlite3.connect(path)
    changes = {
        2: ("levels", "info", "{}"),
        3: ("levels", "info", "[1"),
        4: ("states", "status", "exploded"),
        5: ("states", "current", "many"),
        6: ("states", "metadata", "[]"),
        7: ("states", "eta", "[1]"),
        8: ("levels", "info", b"\xff\xfe"),
    }
    for number, (table, column, value) in changes.items():
        key = "key" if table == "levels" else "level"
        where = f"{key} = (SELECT key FROM levels WHERE path = 'song:{number}')"
        other.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
    other.execute("UPDATE states SET message = CAST(x'ff41' AS TEXT) WHERE level = 1")
    other.execute("UPDATE levels SET info = replace(info, 'Name of', '\\ud800\\u001b') WHERE path = 'song:1'")
    other.execute("UPDATE events SET outcome = 'maybe' WHERE number = 2")
    other.execute("UPDATE events SET error = '3' WHERE number = 3")
    other.commit()
    other.close()
    found = journal.get("friday-42")
    assert found is not None
    assert [(level.path, level.info.name) for level in found.levels] == [("song:1", "?\x1b 1")]
    assert found.message == "\ufffdA"
    assert [item.number for item in journal.events("friday-42")] == [1]


_FILL = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.support.factories import WALL, make_change_set, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite.connection import ManagedConnection
from tests.support.journal_processes import PATIENT

path, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# Why WALL: with a later time, retention would delete the records.
journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
journal.write(make_change_set(snapshot()))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written, errors = 1, []
for n in range(2, 200):
    try:
        level = snapshot(f"song:{n}", sequence=n, name="x" * 20_000)
        journal.write(make_change_set(snapshot(sequence=n), level))
        written = n
    except JournalError as exc:
        errors.append(str(exc))
        if len(errors) == 3:
            break
assert journal.get("friday-42").root.sequence == written
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (path.parent / "ballast").unlink()
journal.write(make_change_set(snapshot(sequence=1000)))
assert journal.get("friday-42").root.sequence == 1000
print(len(errors), errors[-1])
journal.close()
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the system")
def test_write_beyond_quota_fails_until_space_is_free(path: Path) -> None:
    """Stored data is kept."""
    output = run(_FILL, path, 600_000)
    assert output.startswith("3 ")
    assert "Check the disk and its quota" in output or "No room to write" in output
    _check_integrity(path)


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None, reason="needs a small file system"
)
def test_write_on_full_disk_fails_until_space_is_free(tmp_path: Path) -> None:
    """Stored data is kept."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=False, capture_output=True
    ).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        (tmp_path / "ballast").write_bytes(bytes(600_000))
        output = run(_FILL, tmp_path / "progress.db", 0)
        assert output.startswith("3 No room to write")
        _check_integrity(tmp_path / "progress.db")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


_FILL_SMALL_DISK = """
import sys
from contextlib import suppress
from pathlib import Path
from tests.support.factories import WALL, make_change_set, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite.connection import ManagedConnection

path = Path(sys.argv[1])
ballast = path.parent / "ballast"
journal = SqliteJournal(path, now=lambda: WALL)
journal.write(make_change_set(snapshot()))

def write(first, last):
    failed = 0
    for n in range(first, last):
        levels = [snapshot(f"song:{k}", sequence=n, message="x" * 300) for k in range(100)]
        try:
            journal.write(make_change_set(snapshot(sequence=n), *levels))
        except JournalError:
            failed += 1
    return failed

with suppress(OSError), ballast.open("wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
during = write(2, 8)
ballast.unlink()
# Why one failure: a failed write may have filled the rest of the disk.
after = write(8, 80)
found = journal.get("friday-42")
print(during > 0, after <= 1, found.root.sequence, len(found.levels))
journal.close()
"""


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None, reason="needs a small file system"
)
def test_full_disk_of_one_megabyte_recovers(tmp_path: Path) -> None:
    """The write-ahead log never fills the disk: SQLite alone merges it at 4 MB."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=False, capture_output=True
    ).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        assert run(_FILL_SMALL_DISK, tmp_path / "progress.db") == "True True 79 100\n"
        _check_integrity(tmp_path / "progress.db")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def _check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_use_within_a_use_of_the_same_thread_raises(tmp_path: Path) -> None:
    """A signal handler that queries does not wait for its own thread."""
    connection = ManagedConnection(tmp_path / "journal.db")
    with connection.acquire() as outer:
        with pytest.raises(JournalError, match="of the same thread"), connection.acquire():
            pass
        assert outer.execute("SELECT 1").fetchone()[0] == 1
    with connection.acquire() as again:
        assert again.execute("SELECT 1").fetchone()[0] == 1
    connection.close()
