"""The command as a process: interrupts, pipes, what it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factories import batch, ended, snapshot
from otel_progress.journal import SqliteJournal

COMMAND = [sys.executable, "-m", "otel_progress"]


def start(store: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """Start a command with pipes."""
    return subprocess.Popen(
        [*COMMAND, "--store", store, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
            "PYTHONUNBUFFERED": "1",
            **environ,
        },
    )


def test_ctrl_c_ends_watch_with_0(store: str) -> None:
    """It is how a watch is ended: no traceback, no complaint."""
    process = start(store, "watch")
    assert process.stdout is not None
    lines = process.stdout.readline() + process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "running 42% 21/50 songs" in lines
    assert (process.returncode, errors) == (0, "")


def test_ctrl_c_with_exit_status_ends_with_130(store: str) -> None:
    """The outcome that was asked for is not known."""
    process = start(store, "watch", "friday-42", "--exit-status")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_watch_follows_another_process_to_the_end(store: str, tmp_path: Path) -> None:
    """One line of JSON a change; with an id it ends when the operation does, once told."""
    process = start(store, "watch", "lost", "--json", "--interval", "0.05", "--exit-status")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["condition"] == "abandoned"
    journal = SqliteJournal(tmp_path / "progress.db")
    names = {"run": "r4", "operation_id": "lost", "id": "lost"}
    journal.write(batch(snapshot(sequence=2, ratio=0.9, **names)))
    assert json.loads(process.stdout.readline())["ratio"] == 0.9
    journal.write(batch(ended(sequence=3, ratio=1.0, **names)))
    journal.close()
    rest, errors = process.communicate(timeout=20)
    assert [json.loads(line)["status"] for line in rest.splitlines()] == ["completed"]
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    "arguments", [("ls", "--all"), ("export", "friday-42", "--format", "csv"), ("--help",), ("watch", "--json")]
)
def test_a_reader_that_leaves_early_is_no_error(store: str, arguments: tuple[str, ...]) -> None:
    """``| head -1``: nothing is said, nothing is left to be flushed."""
    process = start(store, *arguments)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    if arguments[0] == "watch":
        process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 0
    assert errors == ""


def test_an_encoding_that_cannot_carry_it_is_no_error(store: str) -> None:
    """Under ASCII, JSON escapes and text is spelt out."""
    for arguments in (("ls", "--json", "--all"), ("show", "backup-1"), ("watch", "--once"), ("export", "friday-42")):
        process = start(store, *arguments, PYTHONIOENCODING="ascii:strict")
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert output.isascii()


IMPORTS = """
import sys
from otel_progress.cli import cli
cli([*sys.argv[1:]], standalone_mode=False)
heavy = ("opentelemetry.sdk", "prometheus_client", "opentelemetry.exporter", "rich.live", "rich.progress", "grpc")
print(sorted(name for name in sys.modules if name in heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("ls",), ("show", "friday-42"), ("watch", "--once"), ("history",)])
def test_looking_imports_no_sdk(store: str, arguments: tuple[str, ...]) -> None:
    """Commands that only read start fast."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS, "--store", store, *arguments], capture_output=True, text=True, check=True
    )
    assert run.stderr == "[]\n"


def test_watch_waits_for_the_first_work_of_a_machine(tmp_path: Path) -> None:
    """Started before there is a journal, it shows the first operation all the same."""
    process = start("sqlite:", "watch", "--json", "--interval", "0.05", XDG_STATE_HOME=str(tmp_path / "fresh"))
    journal = SqliteJournal(tmp_path / "fresh" / "otel-progress" / "progress.db")
    journal.write(batch(snapshot(operation_id="first")))
    journal.close()
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["operation_id"] == "first"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_the_demo_runs_and_can_be_looked_at(tmp_path: Path) -> None:
    """Real work in the journal that --store names; its progress goes to stderr as plain lines, since that is a pipe."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "good.py").write_text("x = 1\n")
    (tmp_path / "sources" / "bad.py").write_text("x = = 1\n")
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    process = start(store, "demo", str(tmp_path / "sources"), "--quick", "--port", "0")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "\x1b" not in errors
    assert "bad.py" in output
    listed, _ = start(store, "history", "--json").communicate(timeout=20)
    assert [entry["status"] for entry in json.loads(listed)["operations"]] == ["completed"]
