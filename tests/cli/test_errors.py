"""What the command line does when something is wrong: one line, an exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.command_line import documents, run, url_of


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("lss",), "Did you mean ls?"),
        (("ls", "--status", "broken"), "'broken' is not one of"),
        (("history", "--limit", "0"), "not in the range"),
        (("show",), "Missing argument 'ID'"),
        (("watch", "--exit-status"), "needs the ID"),
        (("--store", "ftp://x", "ls"), "expected the URL of a journal"),
        (("--store", "memory:", "ls"), "can only be read in its own process"),
        (("--store", "", "ls"), "expected a text that is not empty"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...], expected: str) -> None:
    """What was wrong and where to look, on one line of stderr."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_the_environment_names_the_store(store: str) -> None:
    """An option comes before it; a bad variable is told by its name."""
    assert "friday-42" in run("ls", env={"OTEL_PROGRESS_STORE": store}).stdout
    assert (
        "friday-42" in run("--store", store, "ls", env={"OTEL_PROGRESS_STORE": "sqlite:///nowhere.db"}).stdout
    )
    result = run("ls", env={"OTEL_PROGRESS_TICK": "soon"})
    assert result.exit_code == 2
    assert "OTEL_PROGRESS_TICK" in result.stderr


def test_before_the_first_work_there_is_nothing_and_no_error() -> None:
    """A fresh machine has no journal yet."""
    result = run("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "No operation is under way. Try: otel-progress demo\n"
    assert documents(run("ls", "--json"))[0]["operations"] == []
    assert run("show", "x").exit_code == 1
    assert run("watch", "--once").exit_code == 0


def test_a_journal_that_cannot_be_read_ends_with_3(tmp_path: Path) -> None:
    """One that was named and is not there, and one that is something else."""
    (tmp_path / "text.db").write_text("this is no database, but long enough to be mistaken for one " * 20)
    for name in ("missing.db", "text.db"):
        result = run("--store", url_of(tmp_path / name), "ls")
        assert result.exit_code == 3, name
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "missing.db").exists()


def test_doctor_finds_nothing_wrong(store: str) -> None:
    """On a machine where all is well it ends with 0, and says which processes are at work."""
    result = run("--store", store, "doctor")
    assert result.exit_code == 0, result.stdout
    assert "quick_check finds nothing" in result.stdout
    assert "is at work" in result.stdout
    assert "1 operations were abandoned" in result.stdout


def test_doctor_knows_every_setting_and_the_near_misses() -> None:
    """A misspelt variable is a problem, with the name that was meant."""
    result = run("doctor", env={"OTEL_PROGRESS_PROMETEUS_PORT": "1", "OTEL_PROGRESS_TICK": "100ms"})
    assert result.exit_code == 1
    assert (
        "OTEL_PROGRESS_PROMETEUS_PORT is not a setting; did you mean OTEL_PROGRESS_PROMETHEUS_PORT?"
        in result.stdout
    )
    assert "OTEL_PROGRESS_TICK=100ms" in result.stdout


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    """A value that cannot be used, a file that is not a journal, a damaged one."""
    result = run("doctor", "--json", env={"OTEL_PROGRESS_TICK": "soon"})
    assert result.exit_code == 1
    assert [entry["check"] for entry in documents(result)[0]["findings"] if entry["state"] == "problem"] == [
        "settings"
    ]
    (tmp_path / "text.db").write_text("not a database at all " * 100)
    result = run("--store", url_of(tmp_path / "text.db"), "doctor")
    assert result.exit_code == 1
    assert "problem" in result.stdout


def test_doctor_sees_damage_inside(store: str, tmp_path: Path) -> None:
    """A page of the file overwritten with rubbish."""
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.close()
    with (tmp_path / "progress.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)
    assert run("--store", store, "doctor").exit_code == 1


def test_doctor_sees_a_port_in_use() -> None:
    """It may be one's own work, so it is worth knowing and not wrong."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = run("doctor", env={"OTEL_PROGRESS_PROMETHEUS_PORT": port})
    assert "Address already in use" in result.stdout
    assert result.exit_code == 0
