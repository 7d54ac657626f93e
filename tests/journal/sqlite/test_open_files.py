"""Descriptors and files of a journal in use: closed, truncated or removed."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from otel_progress.diagnostics import internal_error_counts
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import connection, repair
from otel_progress.journal.sqlite.open_files import list_descriptors
from otel_progress.journal.sqlite.opening import Connect, OpenedFile, open_to_write
from tests.support.factories import WALL, make_change_set, snapshot
from tests.support.journal_processes import PATIENT, read_line, run, running
from tests.support.journals import open_written_journal, read_sequence

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"),  # noqa: PTH112
    reason="needs a list of the own descriptors and close_range",
)


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    """A journal with an operation at sequence 1, opened for reading and writing."""
    with open_written_journal(path) as journal:
        assert read_sequence(journal) == 1
        yield journal


def _read_from_another_process(path: Path) -> str:
    return run(
        """
import sys
from pathlib import Path
from otel_progress.journal import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]), read_only=True)
found = journal.get("friday-42")
print(found.root.sequence, len(found.levels))
journal.close()
""",
        path,
    ).strip()


def _write_all(journal: SqliteJournal, sequence: int) -> None:
    levels = (snapshot(sequence=sequence), snapshot("song:1", sequence=sequence))
    with suppress(JournalError):
        journal.write(make_change_set(*levels))
    journal.write(make_change_set(*levels))


def _check_integrity(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- descriptors ---------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("files", [0, 1, 3, 20])
def test_closed_descriptors_of_journal_are_opened_again(path: Path, files: int) -> None:
    """Files that the program opened at the same numbers keep their content."""
    output = run(
        """
import os, sys
from pathlib import Path
from tests.support.factories import WALL, make_change_set, snapshot
from otel_progress.journal import SqliteJournal
path, files = Path(sys.argv[1]), int(sys.argv[2])
journal = SqliteJournal(path, now=lambda: WALL)
journal.write(make_change_set(snapshot()))
journal.get("friday-42")
os.closerange(3, 64)
mine = [open(path.parent / f"mine{n}", "wb+", buffering=0) for n in range(files)]
for file in mine:
    file.write(b"before ")
for n in range(2, 30):
    levels = [snapshot(f"song:{k}", sequence=n) for k in range(n)]
    journal.write(make_change_set(snapshot(sequence=n), *levels))
assert journal.get("friday-42").root.sequence == 29
journal.close()
for file in mine:
    file.write(b"after")
    file.close()
    assert Path(file.name).read_bytes() == b"before after", file.name
print("intact")
""",
        path,
        files,
    )
    assert output == "intact\n"
    assert _read_from_another_process(path) == "29 29"
    _check_integrity(path)


@pytest.mark.process
def test_journal_with_foreign_descriptors_is_closed_without_touching_them(path: Path) -> None:
    """Also when the interpreter exits without a use in between."""
    output = run(
        """
import os, sys
from pathlib import Path
from tests.support.factories import make_change_set, snapshot
from otel_progress.journal import SqliteJournal
path = Path(sys.argv[1])
journal = SqliteJournal(path)
journal.write(make_change_set(snapshot()))
os.closerange(3, 64)
mine = [os.open(path.parent / f"mine{n}", os.O_CREAT | os.O_RDWR) for n in range(5)]
journal.close()
for number in mine:
    os.write(number, b"mine")
print([os.path.getsize(path.parent / f"mine{n}") for n in range(5)])
""",
        path,
    )
    assert output == "[4, 4, 4, 4, 4]\n"


@pytest.mark.process
def test_foreign_descriptors_without_own_table_disable_the_journal(path: Path) -> None:
    """Without the system call close_range, the process never uses the journal again."""
    output = run(
        """
import os, sys
from pathlib import Path
from tests.support.factories import make_change_set, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import open_files
open_files._CLOSE_RANGE = 100_000  # no such system call
path = Path(sys.argv[1])
journal = SqliteJournal(path)
journal.write(make_change_set(snapshot()))
os.closerange(3, 64)
mine = [os.open(path.parent / f"mine{n}", os.O_CREAT | os.O_RDWR) for n in range(5)]
for _ in range(2):
    try:
        journal.write(make_change_set(snapshot(sequence=2)))
    except JournalError as error:
        print("closerange" in str(error))
journal.close()
print([os.path.getsize(path.parent / f"mine{n}") for n in range(5)])
""",
        path,
    )
    assert output == "True\nTrue\n[0, 0, 0, 0, 0]\n"


def test_close_releases_all_descriptors(path: Path, journal: SqliteJournal) -> None:
    """A connection that was opened again after a problem leaks nothing."""
    assert len(list_descriptors(path) or {}) >= 3
    os.truncate(f"{path}-shm", 0)
    assert read_sequence(journal) == 1
    journal.close()
    assert list_descriptors(path) == {}


# --- truncated and removed files -----------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("size", [0, 10, 32, 5_000, 20_000])
def test_truncated_log_is_reset_and_live_state_written_again(
    path: Path, journal: SqliteJournal, size: int
) -> None:
    """The loss is reported, so that the caller writes everything again."""
    os.truncate(f"{path}-wal", size)
    with pytest.raises(JournalError, match="truncated while in use") as caught:
        journal.write(make_change_set(snapshot(sequence=2)))
    assert caught.value.has_lost_changes
    journal.write(make_change_set(snapshot(sequence=3), snapshot("song:1", sequence=3)))
    assert read_sequence(journal) == 3
    assert _read_from_another_process(path) == "3 1"
    journal.close()
    _check_integrity(path)


@pytest.mark.process
def test_truncated_log_is_repaired_by_another_process(path: Path, journal: SqliteJournal) -> None:
    """The process that has it open continues, and data merged before is kept."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    journal.write(make_change_set(snapshot(sequence=2)))
    os.truncate(f"{path}-wal", 0)
    assert _read_from_another_process(path) == "1 1"
    _write_all(journal, 3)
    assert _read_from_another_process(path) == "3 1"


@pytest.mark.process
def test_reader_of_truncated_log_does_not_raise(path: Path, journal: SqliteJournal) -> None:
    """A reading process repairs the index too."""
    reader = SqliteJournal(path, limits=PATIENT, read_only=True, now=lambda: WALL)
    assert read_sequence(reader) == 1
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    journal.write(make_change_set(snapshot(sequence=2)))
    os.truncate(f"{path}-wal", 0)
    assert read_sequence(reader) == 1
    _write_all(journal, 3)
    assert read_sequence(reader) == 3
    reader.close()


@pytest.mark.process
@pytest.mark.parametrize("change", [lambda name: os.truncate(name, 0), os.unlink], ids=["truncate", "remove"])
def test_lost_index_is_recovered_without_a_loss(path: Path, change: Callable[[str], None]) -> None:
    """SQLite alone would be killed by SIGBUS."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(make_change_set(snapshot(), snapshot("song:1")))
    change(f"{path}-shm")
    assert read_sequence(journal) == 1
    change(f"{path}-shm")
    journal.write(make_change_set(snapshot(sequence=2)))
    assert _read_from_another_process(path) == "2 1"
    journal.close()
    _check_integrity(path)


@pytest.mark.process
def test_removed_log_is_merged_without_a_loss(path: Path, journal: SqliteJournal) -> None:
    """The open descriptor still has its content."""
    os.unlink(f"{path}-wal")  # noqa: PTH108
    journal.write(make_change_set(snapshot(sequence=2)))
    assert _read_from_another_process(path) == "2 1"
    journal.close()
    _check_integrity(path)


@pytest.mark.process
def test_journal_truncated_while_its_log_is_complete_is_restored(path: Path, journal: SqliteJournal) -> None:
    """Nothing is lost."""
    os.truncate(path, 0)
    journal.write(make_change_set(snapshot(sequence=2)))
    assert _read_from_another_process(path) == "2 1"
    assert not path.with_name("progress.db.damaged").exists()
    journal.close()
    _check_integrity(path)


@pytest.mark.process
@pytest.mark.parametrize("size", [0, 4096, 10_000, 50_000])
def test_truncated_journal_is_set_aside_and_started_again(
    path: Path, journal: SqliteJournal, size: int
) -> None:
    """The loss is reported once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    journal.write(make_change_set(snapshot(sequence=2)))
    os.truncate(path, size)
    with pytest.raises(JournalError, match="truncated while in use") as caught:
        journal.write(make_change_set(snapshot(sequence=3)))
    assert caught.value.has_lost_changes
    journal.write(make_change_set(snapshot(sequence=4), snapshot("song:1", sequence=4)))
    assert _read_from_another_process(path) == "4 1"
    assert path.with_name("progress.db.damaged").stat().st_size >= size
    journal.close()
    _check_integrity(path)


def test_journal_truncated_while_closed_is_set_aside(path: Path) -> None:
    """A file of another program with the same damage is kept (see test_files)."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot()))
    os.truncate(path, 20_000)
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        with pytest.raises(JournalError, match=r"is now .*progress\.db\.damaged"):
            journal.write(make_change_set(snapshot(sequence=2)))
        journal.write(make_change_set(snapshot(sequence=3)))
        assert read_sequence(journal) == 3


def test_replaced_journal_keeps_its_new_log(path: Path, journal: SqliteJournal) -> None:
    """Closing the old connection must not delete the log of the new file."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    other = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    other.write(make_change_set(snapshot(sequence=5)))
    assert read_sequence(journal) == 5
    assert Path(f"{path}-wal").stat().st_size > 0
    other.close()


def test_repeated_growth_of_journal_is_no_problem(path: Path, journal: SqliteJournal) -> None:
    """Other connections merge, vacuum and restart the log."""
    other = sqlite3.connect(path, isolation_level=None)
    for n in range(2, 60):
        levels = (snapshot(f"song:{k}", sequence=n, message="x" * 900) for k in range(n % 7 * 20))
        journal.write(make_change_set(snapshot(sequence=n), *levels))
        kind = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[n % 4]
        other.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        if n % 5 == 0:
            other.execute("DELETE FROM states WHERE level > 1")
            other.execute("DELETE FROM levels WHERE key > 1")
            other.executescript("PRAGMA incremental_vacuum(1000)")
        assert read_sequence(journal) == n
    other.close()
    assert not path.with_name("progress.db.damaged").exists()


# --- errors that are no damage -------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="creates a device")
def test_journal_at_device_or_pipe_raises_clear_error(tmp_path: Path) -> None:
    """Neither is opened."""
    os.mkfifo(tmp_path / "pipe")
    try:
        os.mknod(tmp_path / "device", 0o600 | 0o020000, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("may not create a device here")
    for name in ("pipe", "device"):
        journal = SqliteJournal(tmp_path / name, limits=PATIENT)
        with pytest.raises(JournalError, match="is a device, pipe or socket"):
            journal.write(make_change_set())
        with pytest.raises(JournalError, match="is a device, pipe or socket"):
            SqliteJournal(tmp_path / name, read_only=True).active()


# --- files that other connections open and close at the same time --------------------------------


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("has_reserve", [True, False], ids=["reused descriptor", "new descriptor"])
def test_connection_opened_by_the_program_at_the_same_time_may_be_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool, has_reserve: bool
) -> None:
    """Its descriptors are not those of the journal, although both are new."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as first:
        first.write(make_change_set(snapshot()))
        with ExitStack() as stack:
            if has_reserve:
                # SQLite keeps the descriptor of a closed connection next to this one.
                stack.enter_context(closing(_open_raw(path)))
                first.close()
            opened: list[sqlite3.Connection] = []

            def open_both(path: Path, connect: Connect) -> OpenedFile:
                opened.extend([_open_raw(path)] if is_first else [])
                file = open_to_write(path, connect)
                opened.extend([] if is_first else [_open_raw(path)])
                return file

            monkeypatch.setattr(connection, "open_to_write", open_both)
            errors = internal_error_counts.copy()
            second = stack.enter_context(closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)))
            second.write(make_change_set(snapshot(sequence=2)))
            assert read_sequence(second) == 2
            assert len(opened) == 2
            for other in opened:
                other.close()
            second.write(make_change_set(snapshot(sequence=3)))
            assert read_sequence(second) == 3
    assert internal_error_counts == errors
    assert list_descriptors(path) == {}


def _open_raw(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(path)
    raw.execute("SELECT count(*) FROM operations").fetchall()
    return raw


def test_index_that_remains_after_its_log_was_merged_is_no_loss(path: Path) -> None:
    """A process was killed while it closed the journal as the last one."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot()))
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            index = Path(f"{path}-shm").read_bytes()
    Path(f"{path}-shm").write_bytes(index)
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot("song:1")))
        found = journal.get("friday-42")
        assert found is not None
        assert len(found.levels) == 1


def _patch_sleep(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, wake: Callable[[float], object]
) -> None:
    """Let another process do something while a module waits."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wake))


def test_journal_that_grows_while_it_is_opened_is_not_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that merges its log writes the header before the other pages."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot()))
    content = path.read_bytes()
    os.truncate(path, 20_000)
    _patch_sleep(monkeypatch, repair, lambda _: path.write_bytes(content))
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot(sequence=2)))
        assert read_sequence(journal) == 2
    assert not path.with_name("progress.db.damaged").exists()


def test_journal_that_grows_while_it_is_used_is_not_set_aside(
    path: Path, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error is reported, because the pages arrive a moment later."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    journal.write(make_change_set(snapshot(sequence=2)))
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read()
    os.truncate(path, size - 8192)

    def grow(_: float) -> None:
        with path.open("r+b") as file:
            file.seek(size - 8192)
            file.write(content[size - 8192 :])

    _patch_sleep(monkeypatch, connection, grow)
    errors = internal_error_counts.copy()
    journal.write(make_change_set(snapshot(sequence=3)))
    assert read_sequence(journal) == 3
    assert internal_error_counts == errors
    assert not path.with_name("progress.db.damaged").exists()


_HOLD_MERGE_LOCK = """
import fcntl, sys
file = open(sys.argv[1] + "-shm", "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 1, 121)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_incomplete_journal_is_not_set_aside_while_another_process_merges(
    path: Path, journal: SqliteJournal
) -> None:
    """On a slow disk that takes longer than the time to wait."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    journal.write(make_change_set(snapshot(sequence=2)))
    content = path.read_bytes()
    with running(_HOLD_MERGE_LOCK, path) as process:
        assert read_line(process) == "locked"
        os.truncate(path, len(content) - 8192)
        with pytest.raises(JournalError, match="merges its write-ahead log") as caught:
            journal.write(make_change_set(snapshot(sequence=3)))
        assert caught.value.is_temporary
        path.write_bytes(content)
    journal.write(make_change_set(snapshot(sequence=4)))
    assert read_sequence(journal) == 4
    assert not path.with_name("progress.db.damaged").exists()


def test_error_of_a_file_during_the_opening_is_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported if it does not end."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot()))
        log = Path(f"{path}-wal")
        journal.close()
        log.mkdir()
        with pytest.raises(JournalError, match="unable to open"):
            journal.write(make_change_set(snapshot(sequence=2)))
        _patch_sleep(monkeypatch, connection, lambda _: log.rmdir())
        journal.write(make_change_set(snapshot(sequence=3)))
        assert read_sequence(journal) == 3
