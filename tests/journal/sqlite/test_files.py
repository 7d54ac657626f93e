"""File of an SQLite journal: path, permissions, versions and errors."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_progress.errors import ConfigurationError, JournalError, MissingExtraError
from otel_progress.journal import SqliteJournal, default_path, open_journal
from otel_progress.journal.sqlite import schema
from tests.support.factories import ended, make_change_set, preview, snapshot
from tests.support.journal_processes import PATIENT, read_line, run, running, send_line


def test_default_path_is_in_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An absolute XDG_STATE_HOME has precedence."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "otel-progress" / "progress.db"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert default_path() == tmp_path / "home" / ".local" / "state" / "otel-progress" / "progress.db"


def test_sqlite_url_names_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names are percent-decoded, and a later chdir does not move the journal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    expected = {
        "sqlite:": default_path(),
        "SQLite:": default_path(),
        "sqlite:///": default_path(),
        "sqlite:///a.db": tmp_path / "a.db",
        "sqlite:///sub/a%20b%3F%23%25.db": tmp_path / "sub" / "a b?#%.db",
        f"sqlite:///{tmp_path}/ü.db": tmp_path / "ü.db",
    }
    for url, path in expected.items():
        journal = open_journal(url)
        assert isinstance(journal, SqliteJournal)
        assert journal.path == path
        journal.write(make_change_set(snapshot()))
        journal.close()
        assert path.is_file()


REFUSED = """
sqlite memory: sqlite:a.db sqlite:/a.db sqlite://host/a.db sqlite:///a.db?x=1 sqlite:///a%00 sqlite:///dir/
file:///x postgresql://x
"""


@pytest.mark.parametrize("url", ["", "x\x1b[2J:y", *REFUSED.split()])
def test_invalid_url_raises_configuration_error(url: str) -> None:
    """The error shows the URL without control characters."""
    with pytest.raises(ConfigurationError, match=r"sqlite:////absolute/path\.db") as caught:
        open_journal(url)
    assert str(caught.value).isprintable()


def test_redis_url_raises_specific_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error names the extra."""
    monkeypatch.setattr("otel_progress.journal.registry.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"otel-progress\[redis\]"):
        open_journal("redis://localhost")


@pytest.mark.parametrize("options", [{"retention_s": -1.0}, {"retention_s": float("nan")}, {"max_bytes": 0}])
def test_invalid_limits_raise_configuration_error(options: dict[str, float]) -> None:
    """The retention must not be negative, and the size must suffice."""
    with pytest.raises(ConfigurationError, match=r"Invalid .* expected"):
        open_journal("sqlite:", **options)  # type: ignore[arg-type]


def test_journal_files_are_private(path: Path) -> None:
    """The umask does not matter."""
    before = os.umask(0)
    try:
        journal = SqliteJournal(path, limits=PATIENT)
        journal.write(make_change_set(snapshot()))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        journal.close()
    finally:
        os.umask(before)
    assert modes == {"progress.db": 0o600, "progress.db-wal": 0o600, "progress.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_reader_of_missing_file_creates_nothing(path: Path) -> None:
    """The error says that nothing was recorded."""
    with pytest.raises(JournalError, match=r"Nothing has been recorded yet at .*progress\.db"):
        open_journal(f"sqlite:///{path}", read_only=True)
    assert not path.parent.exists()


@pytest.mark.parametrize("is_empty_file", [False, True])
def test_missing_file_with_missing_ok_is_empty_until_created(path: Path, is_empty_file: bool) -> None:
    """Queries, the size and a watch work, and create no file."""
    if is_empty_file:
        path.parent.mkdir()
        path.touch()
    reader = SqliteJournal(path, limits=PATIENT, read_only=True, missing_ok=True, sleep=lambda _: None)
    reader.check()
    watch = reader.watch()
    assert reader.get("friday-42") is reader.batch("thumbnails") is None
    assert [*reader.active(), *reader.history(), *reader.events("friday-42"), *reader.batches()] == []
    assert [next(watch), next(watch)] == [[], []]
    assert path.exists() == is_empty_file
    writer = SqliteJournal(path, limits=PATIENT)
    writer.write(make_change_set(snapshot()))
    assert [operation.operation_id for operation in reader.active()] == ["friday-42"]
    assert [operation.operation_id for operation in next(watch)] == ["friday-42"]
    watch.close()  # type: ignore[attr-defined]
    writer.close()
    reader.close()


def test_diagnosis_of_missing_sound_and_damaged_file_reports_findings(path: Path) -> None:
    """The diagnosis creates and changes nothing."""
    journal = SqliteJournal(path, limits=PATIENT)
    assert journal.location == path
    assert [(finding.check, finding.state) for finding in journal.diagnose()] == [("writable", "ok")]
    assert not path.exists()
    journal.write(make_change_set(snapshot()))
    journal.close()
    states = [(finding.check, finding.state) for finding in journal.diagnose()]
    assert states == [(check, "ok") for check in ("writable", "schema", "integrity", "rows")]
    path.write_bytes(b"no database, but long enough to be read as the header of one" * 20)
    writable, integrity = journal.diagnose()
    assert (writable.state, integrity.check, integrity.state) == ("ok", "integrity", "problem")
    assert "Move it away" in integrity.text


def test_reader_of_empty_file_raises_nothing_recorded(path: Path) -> None:
    """The file is not changed."""
    path.parent.mkdir()
    path.touch()
    with pytest.raises(JournalError, match="Nothing has been recorded yet"):
        open_journal(f"sqlite:///{path}", read_only=True)
    assert path.stat().st_size == 0


def test_read_only_journal_rejects_writes(path: Path) -> None:
    """Queries work."""
    writer = SqliteJournal(path, limits=PATIENT)
    writer.write(make_change_set(snapshot()))
    reader = open_journal(f"sqlite:///{path}", read_only=True)
    assert reader.get("friday-42") is not None
    assert len(next(reader.watch())) == 1
    with pytest.raises(JournalError, match="for reading only"):
        reader.write(make_change_set())
    reader.close()
    writer.close()


@pytest.mark.parametrize("content", [b"not a database " * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_file_without_database_is_not_changed(path: Path, content: bytes) -> None:
    """The error says how to fix it."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalError, match="Move it away"):
        open_journal(f"sqlite:///{path}", read_only=True)
    with pytest.raises(JournalError, match="Move it away"):
        SqliteJournal(path, limits=PATIENT).write(make_change_set(snapshot()))
    assert path.read_bytes() == content


def test_database_of_another_program_is_not_changed(path: Path) -> None:
    """No tables are created."""
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE users (name)")
    other.close()
    for read_only in (True, False):
        with pytest.raises(JournalError, match="of something else"):
            open_journal(f"sqlite:///{path}", read_only=read_only).active()
    other = sqlite3.connect(path)
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    other.close()


def test_journal_of_newer_version_raises_error(path: Path) -> None:
    """The file is not changed."""
    _execute(path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(JournalError, match=r"newer otel-progress.*Upgrade"):
        open_journal(f"sqlite:///{path}", read_only=True)
    with pytest.raises(JournalError, match=r"newer otel-progress.*Upgrade"):
        SqliteJournal(path, limits=PATIENT).write(make_change_set(snapshot()))


def test_older_journal_is_migrated_once(path: Path) -> None:
    """Its content is kept."""
    _execute(path, "SELECT 1")
    steps = (
        *schema.MIGRATIONS,
        ("ALTER TABLE levels ADD COLUMN colour TEXT", "UPDATE levels SET colour = 'red'"),
    )
    connection = sqlite3.connect(path, isolation_level=None)
    for _ in range(2):
        schema.migrate(connection, path, steps)
    assert connection.execute("SELECT path, colour FROM levels").fetchall() == [("", "red")]
    assert connection.execute("PRAGMA user_version").fetchone() == (len(steps),)
    connection.close()


def test_failed_migration_changes_nothing(path: Path) -> None:
    """All steps run in one transaction."""
    _execute(path, "SELECT 1")
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(
            connection, path, (*schema.MIGRATIONS, ("ALTER TABLE levels ADD COLUMN colour TEXT", "NO SQL"))
        )
    assert connection.execute("SELECT * FROM levels").description[-1][0] == "info"
    assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    connection.close()


@pytest.mark.process
def test_processes_starting_together_create_one_journal(path: Path) -> None:
    """No process raises an error."""
    program = """
import sys
from pathlib import Path
from tests.support.factories import make_change_set, instance, snapshot
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT
print("ready", flush=True)
sys.stdin.readline()
for n in range(2):
    journal = SqliteJournal(Path(sys.argv[1]), limits=PATIENT)
    root = snapshot(operation_id=sys.argv[2], run=sys.argv[2], sequence=n)
    journal.write(make_change_set(root, instance=instance(sys.argv[2])))
    journal.close()
"""
    with ExitStack() as stack:
        processes = [stack.enter_context(running(program, path, f"p{n}")) for n in range(6)]
        for process in processes:
            assert read_line(process) == "ready"
        for process in processes:
            send_line(process, "go")
        assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 6
    journal = SqliteJournal(path, limits=PATIENT)
    assert {operation.operation_id for operation in journal.active()} == {f"p{n}" for n in range(6)}
    journal.close()


@pytest.mark.process
@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="has to be root to become somebody else"
)
def test_directory_without_permission_raises_clear_error() -> None:
    """Every write raises the same error."""
    program = """
import os, sys
from pathlib import Path
from tests.support.factories import make_change_set, ended, preview, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT
journal = SqliteJournal(Path(sys.argv[1]), limits=PATIENT)
os.chdir("/")
os.setuid(65534)
for _ in range(2):
    try:
        journal.write(make_change_set(snapshot()))
    except JournalError as exc:
        print(exc)
"""
    # Why not tmp_path: only root can access the parent directories of pytest.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        first, second = run(program, Path(directory, "progress.db")).splitlines()
    assert first == second
    assert "cannot be created (Permission denied)" in first


def test_path_through_a_file_raises_clear_error(tmp_path: Path) -> None:
    """The error names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"file/progress\.db cannot be created"):
        SqliteJournal(tmp_path / "file" / "progress.db").write(make_change_set())
    with pytest.raises(JournalError, match="is a directory"):
        SqliteJournal(tmp_path).write(make_change_set())


def _execute(path: Path, statement: str) -> None:
    journal = SqliteJournal(path, limits=PATIENT)
    journal.write(make_change_set(snapshot()))
    journal.close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.close()


def test_size_includes_write_ahead_log(path: Path) -> None:
    """Reading the size creates no file."""
    journal = SqliteJournal(path, limits=PATIENT)
    assert journal.size_bytes() is None
    assert not path.exists()
    journal.write(make_change_set(snapshot()))
    files = {file.name: file.stat().st_size for file in path.parent.iterdir()}
    assert set(files) == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert journal.size_bytes() == sum(files.values())
    journal.close()
    assert journal.size_bytes() == path.stat().st_size > 0


def test_open_journal_passes_on_deleted_callback(path: Path) -> None:
    """Deleted locations are reported."""
    told: list[str] = []
    journal = open_journal(f"sqlite:///{path}", on_deleted=told.extend)
    journal.write(make_change_set(ended(), previews=[preview()]))
    journal.delete("friday-42")
    assert told == [preview().location]
    journal.close()
