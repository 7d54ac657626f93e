"""Errors of the command line: one line, an exit code and no traceback."""

from __future__ import annotations

import json
from importlib.metadata import metadata
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
        (("watch", "--exit-status"), "expected at least one ID"),
        (("run", "--id=", "--", "true"), "Invalid id '' for --id: expected at least one visible character"),
        (("level", "--start", " "), "Invalid type ' ' for TYPE: expected at least one visible character"),
        (("--store", "ftp://x", "ls"), "expected the URL of a journal"),
        (("--store", "memory:", "ls"), "Invalid store 'memory:'"),
        (("--store", "", "ls"), "expected a text that is not empty"),
    ],
)
def test_invalid_command_line_exits_with_2(arguments: tuple[str, ...], expected: str) -> None:
    """The error is one line on stderr."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_store_option_precedes_environment(store: str) -> None:
    """An invalid variable is named in the error."""
    assert "friday-42" in run("ls", env={"OTEL_PROGRESS_STORE": store}).stdout
    assert (
        "friday-42" in run("--store", store, "ls", env={"OTEL_PROGRESS_STORE": "sqlite:///nowhere.db"}).stdout
    )
    result = run("ls", env={"OTEL_PROGRESS_TICK": "soon"})
    assert result.exit_code == 2
    assert "OTEL_PROGRESS_TICK" in result.stderr


def test_commands_without_default_journal_find_no_operations() -> None:
    result = run("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "No active operations. Try: otel-progress demo\n"
    assert documents(run("ls", "--json"))[0]["operations"] == []
    assert run("show", "x").exit_code == 1
    assert run("watch", "--once").exit_code == 0


def test_unreadable_journal_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be mistaken for one " * 20)
    for name in ("missing.db", "text.db"):
        result = run("--store", url_of(tmp_path / name), "ls")
        assert result.exit_code == 3, name
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "missing.db").exists()


def test_doctor_with_valid_journal_exits_with_0(store: str) -> None:
    result = run("--store", store, "doctor")
    assert result.exit_code == 0, result.stdout
    assert "integrity_check found no problem" in result.stdout
    assert "is running" in result.stdout
    assert "operations whose process has exited (abandoned): 1" in result.stdout


def test_doctor_with_any_extra_reports_it(store: str) -> None:
    """The extras are those of the installed package."""
    extras = metadata("otel-progress").get_all("Provides-Extra")
    findings = json.loads(run("--store", store, "doctor", "--json").output)["findings"]
    reported = {each["text"].split()[0] for each in findings if each["check"] == "extra"}
    assert reported == {*(extras or ())} - {"all"}


def test_doctor_with_misspelt_variable_suggests_setting() -> None:
    result = run("doctor", env={"OTEL_PROGRESS_PROMETEUS_PORT": "1", "OTEL_PROGRESS_TICK": "100ms"})
    assert result.exit_code == 1
    assert (
        "OTEL_PROGRESS_PROMETEUS_PORT is not a setting; did you mean OTEL_PROGRESS_PROMETHEUS_PORT?"
        in result.stdout
    )
    assert "OTEL_PROGRESS_TICK=100ms" in result.stdout


def test_doctor_with_invalid_setting_or_journal_exits_with_1(tmp_path: Path) -> None:
    result = run("doctor", "--json", env={"OTEL_PROGRESS_TICK": "soon"})
    assert result.exit_code == 1
    assert [entry["check"] for entry in documents(result)[0]["findings"] if entry["state"] == "problem"] == [
        "settings"
    ]
    (tmp_path / "text.db").write_text("not a database at all " * 100)
    result = run("--store", url_of(tmp_path / "text.db"), "doctor")
    assert result.exit_code == 1
    assert "problem" in result.stdout


def test_doctor_with_damaged_journal_exits_with_1(store: str, tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.close()
    with (tmp_path / "progress.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)
    assert run("--store", store, "doctor").exit_code == 1


def test_doctor_with_used_port_writes_note() -> None:
    """The port may belong to the user's own program."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = run("doctor", env={"OTEL_PROGRESS_PROMETHEUS_PORT": port})
    assert "Address already in use" in result.stdout
    assert result.exit_code == 0


def test_serve_with_used_port_exits_with_1(store: str) -> None:
    """Serving is the only purpose of the command. The error is one line."""
    import socket

    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = run("--store", store, "serve", "--port", port)
    assert result.exit_code == 1
    assert f"Port {port} of 127.0.0.1 is in use" in result.stderr
    assert result.stderr.count("\n") == 1
