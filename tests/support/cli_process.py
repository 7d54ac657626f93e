"""The command line in its own process: start, wait, interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from otel_progress.journal import SqliteJournal
from otel_progress.protocols import ChangeSet
from tests.support.command_line import TIMEOUT_S, clean_environ

COMMAND = [sys.executable, "-m", "otel_progress"]


def start(store: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """Start a command with pipes."""
    return subprocess.Popen(
        [*COMMAND, "--store", store, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**clean_environ(), "PYTHONIOENCODING": "utf-8", **environ},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a command and return the rest of its output.

    A command that does not end is killed.
    """
    try:
        return process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


def interrupt(process: subprocess.Popen[str], path: Path, news: ChangeSet) -> str:
    """Press Ctrl-C once ``news`` are in the journal and shown by the command.

    Return its stderr.

    It waits for more than the first line: while modules are imported, an interrupt may hit a
    callback of the interpreter, where it is only printed.
    """
    with closing(SqliteJournal(path)) as journal:
        journal.write(news)
    assert process.stdout is not None
    assert process.stdout.readline() != "", finish(process)
    process.send_signal(signal.SIGINT)
    return finish(process)[1]
