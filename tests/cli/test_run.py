"""Commands as operations, with pipes: streams, signals, exit status and errors."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from otel_progress.model import Status
from otel_progress.testing import wait_until
from tests.support.command_line import TIMEOUT_S
from tests.support.command_runs import CommandRuns

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="commands run on POSIX systems"),
]

BYTES = bytes(range(256)) * 2000 + b"\r\n\x1b[31m 12/500 \r 37% \xff"
"""Output with all bytes, and with what parsers search."""


@pytest.fixture
def runs(tmp_path: Path) -> CommandRuns:
    """Runs with a journal of their own."""
    return CommandRuns(tmp_path)


@pytest.mark.parametrize(
    ("script", "code", "status", "error"),
    [
        ("exit 0", 0, Status.COMPLETED, None),
        ("echo one >&2; echo two >&2; exit 3", 3, Status.FAILED, "exit status 3: two"),
        ("kill -KILL $$", 137, Status.FAILED, "killed by SIGKILL"),
        ("kill -TERM $$", 143, Status.FAILED, "killed by SIGTERM"),
    ],
)
def test_run_ends_with_the_status_of_its_command(
    runs: CommandRuns, script: str, code: int, status: Status, error: str | None
) -> None:
    result = runs.run("--", "sh", "-c", script)
    root = runs.get().root
    assert result.returncode == code
    assert (root.status, root.metadata["exit_status"], root.info.type) == (status, code, "sh")
    assert (None if root.error is None else root.error.message) == error


def test_run_of_unknown_command_exits_with_127(runs: CommandRuns) -> None:
    result = runs.run("--", "no-such-command")
    assert (result.returncode, result.stdout) == (127, b"")
    assert result.stderr.startswith(b"error: Invalid command 'no-such-command': expected an executable file.")
    assert runs.get().status is Status.FAILED


def test_run_of_file_that_is_not_executable_exits_with_126(runs: CommandRuns) -> None:
    file = runs.folder / "data.txt"
    file.write_text("x")
    assert runs.run("--", str(file)).returncode == 126


def test_run_of_script_without_interpreter_uses_the_shell(runs: CommandRuns) -> None:
    script = runs.folder / "script"
    script.write_text('echo "$1"\n')
    script.chmod(0o755)
    assert runs.run("--", "./script", "hello").stdout == b"hello\n"


@pytest.mark.parametrize("format_name", ["auto", "none"])
def test_run_passes_all_bytes_unchanged(runs: CommandRuns, format_name: str) -> None:
    code = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    errors = f"{code}; sys.stderr.buffer.write(bytes(range(256)))"
    result = runs.run("--parse", format_name, "--", sys.executable, "-c", errors, stdin=BYTES)
    assert (result.returncode, result.stdout, result.stderr) == (0, BYTES, bytes(range(256)))


def test_run_keeps_the_order_of_both_outputs(runs: CommandRuns) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done; exit 1"
    result = subprocess.run(
        runs.build_command("--", "sh", "-c", script),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=runs.environ,
        cwd=runs.folder,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [f"{name} {number}" for number in range(1, 10) for name in ("out", "err")]
    assert result.stdout.decode().splitlines() == lines


def test_run_stores_redacted_end_of_stderr(runs: CommandRuns) -> None:
    script = "echo visible; for i in 1 2 3; do echo line $i >&2; done; echo password=hunter2 >&2; exit 9"
    result = runs.run("--", "sh", "-c", script)
    error = runs.get().root.error
    assert error is not None
    assert error.type == "ExitStatus"
    assert (error.details or "").startswith("line 1\nline 2\nline 3\n")
    assert "hunter2" not in error.message + (error.details or "")
    assert b"hunter2" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_run_forwards_signals_to_its_command(runs: CommandRuns, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = runs.start("--", "sh", "-c", f"trap 'echo caught {name}; exit 7' {name}; echo ready; read x")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    # Why first: communicate() closes the input, which ends the script as well.
    process.wait(TIMEOUT_S)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    root = runs.get().root
    assert (process.returncode, output) == (7, f"caught {name}\n".encode())
    assert (root.status, root.message) == (Status.CANCELLED, number.name)


def test_run_with_ignored_signal_leaves_it_ignored(runs: CommandRuns) -> None:
    """As below ``nohup``."""
    command = shlex.join(runs.build_command("--", "sh", "-c", "kill -HUP $$; echo alive"))
    result = subprocess.run(
        ["sh", "-c", f"trap '' HUP; exec {command}"],
        capture_output=True,
        env=runs.environ,
        cwd=runs.folder,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, b"alive\n")


def test_cancelled_run_kills_all_processes_after_the_grace_period(runs: CommandRuns) -> None:
    script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'; true"
    process = runs.start("--grace", "0.2", "--", "sh", "-c", script)
    assert process.stdout is not None
    inner = int(process.stdout.readline())
    with closing(SqliteJournal(runs.journal)) as journal:
        wait_until(lambda: journal.request_cancel("run-1", "wrong tempo"), timeout=TIMEOUT_S)
    process.communicate(timeout=TIMEOUT_S)
    root = runs.get().root
    assert process.returncode == 137
    assert (root.status, root.message) == (Status.CANCELLED, "wrong tempo")
    wait_until(lambda: not Path(f"/proc/{inner}").exists() or not is_running(inner), timeout=TIMEOUT_S)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def test_run_with_closed_reader_ends_its_command(runs: CommandRuns) -> None:
    process = runs.start("--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    process.communicate(timeout=TIMEOUT_S)
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGPIPE


def test_run_does_not_wait_for_processes_in_the_background(runs: CommandRuns) -> None:
    script = "sleep 300 & echo $!"
    process = runs.start("--", "sh", "-c", script)
    assert process.stdout is not None
    sleeper = int(process.stdout.readline())
    assert process.wait(TIMEOUT_S) == 0
    assert is_running(sleeper)
    os.kill(sleeper, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)


def test_run_with_closed_streams_does_not_reuse_their_numbers(runs: CommandRuns) -> None:
    command = shlex.join(runs.build_command("--", "sh", "-c", "echo lost; exit 4"))
    result = subprocess.run(
        ["sh", "-c", f"exec {command} <&- >&- 2>&-"],
        env=runs.environ,
        cwd=runs.folder,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == runs.get().root.metadata["exit_status"]
    assert b"lost" not in runs.journal.read_bytes()[:100]


def test_run_reads_counts_and_keeps_the_given_total(runs: CommandRuns) -> None:
    script = 'for i in 1 2 3; do echo "$i/3"; done'
    runs.run("--parse", "count", "--total", "6", "--unit", "file", "--", "sh", "-c", script)
    root = runs.get().root
    assert (root.current, root.total, root.info.unit) == (3, 6, "file")


def test_run_detects_refreshed_percentages(runs: CommandRuns) -> None:
    result = runs.run("--", "sh", "-c", "for i in 10 20 30; do printf '\\r %s%%' $i; done; echo")
    root = runs.get().root
    assert (root.current, root.total) == (30, 100)
    assert result.stdout == b"\r 10%\r 20%\r 30%\n"


def test_run_with_pty_gives_the_command_a_terminal(runs: CommandRuns) -> None:
    result = runs.run("--pty", "--", "sh", "-c", "test -t 1 && test -t 2 && test ! -t 0 && echo terminal")
    assert (result.returncode, result.stdout) == (0, b"terminal\n")


def test_run_below_script_updates_operation_and_levels(runs: CommandRuns) -> None:
    script = """
        set -e
        otel-progress update --total 10 --message starting
        otel-progress update --increment 2
        otel-progress update --increment 1 --message "item 3"
        otel-progress level song 7 --total 4 -- sh -c '
            otel-progress update --increment 3; exit 5' || echo "code $?"
        otel-progress level upload --start --total 3
        otel-progress update --path upload:1 --current 2
        otel-progress level upload 1 --end
        otel-progress update --current 11 || echo "code $?"
        otel-progress update --current x || echo "code $?"
    """
    result = runs.run("--", "sh", "-c", script)
    operation = runs.get()
    levels = {level.path: level for level in operation.levels}
    assert result.stdout.decode().splitlines() == ["code 5", "upload:1", "code 1", "code 2"]
    assert b"expected at most the total 10" in result.stderr
    assert (operation.root.current, operation.root.total, operation.root.message) == (3, 10, "item 3")
    assert (levels["song:7"].status, levels["song:7"].current) == (Status.FAILED, 3)
    assert (levels["upload:1"].status, levels["upload:1"].current) == (Status.COMPLETED, 2)


def test_run_with_updates_in_parallel_counts_each_once(runs: CommandRuns) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do otel-progress update --increment 1 & done; wait"
    assert runs.run("--", "sh", "-c", script).returncode == 0
    assert runs.get().root.current == 8


def test_python_program_below_run_is_part_of_its_level(runs: CommandRuns) -> None:
    program = runs.folder / "part.py"
    program.write_text(
        "import otel_progress as progress\n"
        "progress.configure(console=False)\n"
        "progress.operation('part', id='part-1').start().complete()\n"
    )
    runs.run("--", "otel-progress", "level", "song", "7", "--", sys.executable, str(program))
    parent, part = runs.get(), runs.get("part-1").root.info
    assert part.parent is not None
    assert tuple(part.parent) == ("run-1", parent.run, "song:7")
    assert part.trace_id == parent.root.info.trace_id


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["update", "--increment", "1"], 1),
        (["update", "--increment", "1", "--if-available"], 0),
        (["level", "song", "1", "--start"], 1),
        (["level", "song", "1", "--start", "--if-available"], 0),
        (["level", "song", "1", "--", "sh", "-c", "exit 4"], 1),
        (["level", "song", "1", "--if-available", "--", "sh", "-c", "exit 4"], 4),
    ],
)
def test_update_without_operation_fails_unless_it_is_optional(
    runs: CommandRuns, arguments: list[str], code: int
) -> None:
    result = subprocess.run(
        ["otel-progress", *arguments],
        capture_output=True,
        env=runs.environ,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == code
    assert (b"otel-progress run -- COMMAND" in result.stderr) is (code == 1)
    assert result.stderr.count(b"\n") == (1 if code == 1 else 0)
