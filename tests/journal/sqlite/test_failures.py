"""Trouble with the file while work goes on: what is said, and that the journal recovers by itself."""

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
from otel_progress.journal.sqlite.limits import JournalLimits
from tests.support.factories import WALL, batch, event, snapshot
from tests.support.fake_time import FakeTime
from tests.support.journal_processes import PATIENT, run


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    """A journal that holds one operation at sequence 1."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(batch(snapshot(), snapshot("song:1")))
    yield journal
    journal.close()


def _sequence(journal: SqliteJournal) -> int:
    found = journal.get("friday-42")
    assert found is not None
    return found.root.sequence


@pytest.mark.usefixtures("journal")
def test_a_lock_is_waited_for_then_told_then_forgotten(path: Path) -> None:
    """While another process holds the file a write fails with the reason, readers still answer, and afterwards writes go on."""
    impatient = SqliteJournal(path, limits=JournalLimits(busy_timeout_s=0.05), now=lambda: WALL)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in (2, 3):
        with pytest.raises(JournalError, match="locked by another process"):
            impatient.write(batch(snapshot(sequence=number)))
    assert _sequence(impatient) == 1
    other.execute("ROLLBACK")
    other.close()
    impatient.write(batch(snapshot(sequence=4)))
    assert _sequence(impatient) == 4
    impatient.close()


def test_a_write_that_fails_leaves_nothing_half_done(journal: SqliteJournal, path: Path) -> None:
    """A batch is kept as a whole or not at all, and the journal does not believe it wrote what was rolled back."""
    other = sqlite3.connect(path)
    other.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no such luck'); END"
    )
    other.commit()
    new = (snapshot(sequence=2), snapshot("song:2"), snapshot(operation_id="o2", run="r2"))
    with pytest.raises(JournalError, match="no such luck"):
        journal.write(batch(*new, events=[event(1)]))
    assert (_sequence(journal), len(journal.active())) == (1, 1)
    other.execute("DROP TRIGGER refuse")
    other.commit()
    other.close()
    journal.write(batch(*(replace(item, sequence=3) for item in new), events=[event(1)]))
    assert (_sequence(journal), len(journal.active()), len(journal.events("friday-42"))) == (3, 2, 1)


@pytest.mark.parametrize("replacement", [None, "empty"])
def test_a_file_removed_while_open_is_told_once_and_made_anew(
    journal: SqliteJournal, path: Path, replacement: str | None
) -> None:
    """The first write after that fails, so that the worker sends everything again; readers find the new file."""
    reader = SqliteJournal(path, limits=PATIENT, read_only=True)
    assert _sequence(reader) == 1
    for name in path.parent.iterdir():
        name.unlink()
    if replacement is not None:
        path.touch()
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.write(batch(snapshot(sequence=2)))
    journal.write(batch(snapshot(sequence=3), snapshot("song:1", sequence=3)))
    for each in (journal, reader):
        found = each.get("friday-42")
        assert found is not None
        assert (found.root.sequence, len(found.levels)) == (3, 1)
    reader.close()


def test_a_watch_goes_on_in_the_new_file(journal: SqliteJournal, path: Path, fake_time: FakeTime) -> None:
    """Who watches sees an empty change while there is no file, and then what the new one holds."""
    watch = SqliteJournal(
        path, limits=PATIENT, read_only=True, now=lambda: WALL, sleep=fake_time.sleep
    ).watch()
    assert len(next(watch)) == 1
    for name in path.parent.iterdir():
        name.unlink()
    assert list(next(watch)) == []
    with pytest.raises(JournalError):
        journal.write(batch())
    journal.write(batch(snapshot(sequence=5)))
    assert [operation.root.sequence for operation in next(watch)] == [5]
    watch.close()


def test_a_damaged_file_is_named_and_kept(path: Path) -> None:
    """Garbage in the middle of the file is told with the fix, nothing is deleted, and moving the file away helps."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(batch(snapshot(), *(snapshot(f"song:{n}", message="x" * 500) for n in range(300))))
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(7).randbytes(size - 8192))  # not by chance something that makes sense
    with pytest.raises(JournalError, match=r"damaged.*Move it away"):
        journal.write(batch(*(snapshot(f"song:{n}", sequence=2) for n in range(300))))
    with pytest.raises(JournalError, match=r"damaged.*Move it away"):
        journal.active()
    assert path.stat().st_size == size
    path.rename(path.with_suffix(".damaged"))
    for rest in path.parent.glob("*-*"):
        rest.unlink()
    with contextlib.suppress(JournalError):
        journal.write(batch())
    journal.write(batch(snapshot(sequence=3)))
    assert _sequence(journal) == 3
    journal.close()


def test_rows_that_nobody_wrote_like_that_are_left_out(journal: SqliteJournal, path: Path) -> None:
    """A row of another program or version that does not decode costs itself, not the answer."""
    journal.write(batch(*(snapshot(f"song:{n}") for n in range(2, 9)), events=[event(1), event(2), event(3)]))
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
from tests.support.factories import WALL, batch, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT

path, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)  # by a later one retention would take away what is written here
journal.write(batch(snapshot()))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written, errors = 1, []
for n in range(2, 200):
    try:
        journal.write(batch(snapshot(sequence=n), snapshot(f"song:{n}", sequence=n, name="x" * 20_000)))
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
journal.write(batch(snapshot(sequence=1000)))
assert journal.get("friday-42").root.sequence == 1000
print(len(errors), errors[-1])
journal.close()
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the system")
def test_a_quota_is_told_and_survived(path: Path) -> None:
    """A file that may not grow costs batches, never what was kept; writing goes on once it may."""
    output = run(_FILL, path, 600_000)
    assert output.startswith("3 ")
    assert "Check the disk and its quota" in output or "No room to write" in output
    _check_integrity(path)


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None, reason="needs a small file system"
)
def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """The same on a file system that is full, until something else on it is deleted."""
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


def _check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
