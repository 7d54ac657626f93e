"""Commands as processes: interrupts, pipes, encodings and imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from otel_progress.protocols import ChangeSet
from tests.support.cli_process import finish, interrupt, start
from tests.support.command_line import TIMEOUT_S, clean_environ, present
from tests.support.factories import ended, local_instance, make_change_set, snapshot

pytestmark = pytest.mark.process


def change_running(**fields: object) -> ChangeSet:
    """Return a change of the running operation of ``fill``."""
    return present(snapshot(sequence=9, current=22, instance=local_instance(os.getpid()).id, **fields))


def test_watch_interrupted_exits_with_0(store: str, tmp_path: Path) -> None:
    process = start(store, "watch")
    assert process.stdout is not None
    lines = process.stdout.readline() + process.stdout.readline()
    end = ended(
        operation_id="short", run="short", ended_at=time.time(), instance=local_instance(os.getpid()).id
    )
    errors = interrupt(process, tmp_path / "progress.db", present(end))
    assert "running 42% 21/50 songs" in lines
    assert (process.returncode, errors) == (0, "")


def test_watch_with_exit_status_interrupted_exits_with_130(store: str, tmp_path: Path) -> None:
    process = start(store, "watch", "friday-42", "--exit-status", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    errors = interrupt(process, tmp_path / "progress.db", change_running())
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_watch_with_id_follows_operation_to_the_end(store: str, tmp_path: Path) -> None:
    """Each change is one line of JSON."""
    process = start(store, "watch", "lost", "--json", "--interval", "0.05", "--exit-status")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["condition"] == "abandoned"
    journal = SqliteJournal(tmp_path / "progress.db")
    names = {"run": "r4", "operation_id": "lost", "id": "lost"}
    journal.write(make_change_set(snapshot(sequence=2, ratio=0.9, **names)))
    assert json.loads(process.stdout.readline())["ratio"] == 0.9
    # The end is now, because an older one would be past retention.
    journal.write(make_change_set(ended(sequence=3, ratio=1.0, ended_at=time.time(), **names)))
    journal.close()
    rest, errors = finish(process)
    assert [json.loads(line)["status"] for line in rest.splitlines()] == ["completed"]
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [("ls", "--all"), ("export", "friday-42", "--format", "csv"), ("--help",), ("watch", "--json")],
)
def test_command_with_closed_pipe_exits_with_0(
    store: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """An example is ``| head -1``."""
    process = start(store, *arguments)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    if arguments[0] == "watch":
        with closing(SqliteJournal(tmp_path / "progress.db")) as journal:
            journal.write(change_running())
    errors = finish(process)[1]
    assert (process.returncode, errors) == (0, "")


def test_command_with_ascii_output_escapes_text(store: str) -> None:
    commands = (("ls", "--json", "--all"), ("show", "backup-1"), ("watch", "--once"), ("export", "friday-42"))
    for process in [start(store, *arguments, PYTHONIOENCODING="ascii:strict") for arguments in commands]:
        output, errors = finish(process)
        assert (process.returncode, errors) == (0, "")
        assert output.isascii()


IMPORTS = """
import sys
from otel_progress.cli import cli
cli([*sys.argv[1:]], standalone_mode=False)
heavy = ("opentelemetry.sdk", "prometheus_client", "opentelemetry.exporter", "rich.live", "rich.progress",
    "grpc")
print(sorted(name for name in sys.modules if name in heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("ls",), ("show", "friday-42"), ("watch", "--once"), ("history",)])
def test_reading_command_imports_no_sdk(store: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", IMPORTS, "--store", store, *arguments]
    run = subprocess.run(
        command, env=clean_environ(), capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert run.stderr == "[]\n"


@pytest.mark.parametrize("has_file", [False, True], ids=["no file", "empty file"])
def test_watch_without_journal_waits_for_first_operation(tmp_path: Path, has_file: bool) -> None:
    path = tmp_path / "fresh" / "otel-progress" / "progress.db"
    if has_file:
        path.parent.mkdir(parents=True)
        path.touch()
    process = start(
        "sqlite:", "watch", "--json", "--interval", "0.05", XDG_STATE_HOME=str(tmp_path / "fresh")
    )
    first = {"operation_id": "first", "instance": local_instance(os.getpid()).id}
    with closing(SqliteJournal(path)) as journal:
        journal.write(present(snapshot(**first)))
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["operation_id"] == "first"
    errors = interrupt(process, path, present(snapshot(sequence=2, **first)))
    assert (process.returncode, errors) == (0, "")


def test_demo_stores_operation_and_writes_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "good.py").write_text("x = 1\n")
    (tmp_path / "sources" / "bad.py").write_text("x = = 1\n")
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    process = start(store, "demo", str(tmp_path / "sources"), "--quick", "--port", "0")
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert "\x1b" not in errors
    assert "bad.py" in output
    listed, _ = finish(start(store, "history", "--json"))
    assert [entry["status"] for entry in json.loads(listed)["operations"]] == ["completed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
def test_command_on_full_disk_reports_one_line(store: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "otel_progress", "--store", store, "show", "friday-42"],
            env=clean_environ(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    assert process.returncode == 1
    assert process.stderr == "error: Input or output failed: [Errno 28] No space left on device.\n"


@pytest.mark.skipif(os.name == "nt", reason="requires a POSIX shell")
def test_command_with_closed_stdout_succeeds_silently(store: str) -> None:
    command = [sys.executable, "-m", "otel_progress", "--store", store, "ls"]
    process = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command],
        env=clean_environ(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (process.returncode, process.stderr) == (0, "")
