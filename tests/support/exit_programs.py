"""Programs that run in a process of their own and leave operations in a journal."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

from otel_progress.journal import open_journal
from otel_progress.protocols import HistoryQuery

PATIENCE_S: Final = 900.0
"""Maximum time of a program, in seconds. Only a program that hangs reaches it."""


def start(tmp_path: Path, code: str, *prefix: str) -> subprocess.Popen[str]:
    """Start a program that imports this package as ``progress``.

    Its journal is in ``tmp_path``.
    """
    program = tmp_path / "program.py"
    # Why: the time limits are for machines that are not busy.
    patient = (
        "from otel_progress.runtime import exit_hooks, terminate_signals\n"
        "exit_hooks.EXIT_S = terminate_signals.TERMINATE_S = 60.0\n"
    )
    program.write_text("import otel_progress as progress\n" + patient + textwrap.dedent(code), "utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ["OTEL_PROGRESS_STORE"] = f"sqlite:///{tmp_path / 'progress.db'}"
    return subprocess.Popen(
        # Why: from Python 3.12 on, forks of programs with threads print a warning.
        [*prefix, sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit status, the output and the errors of a program."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output, errors


def run(tmp_path: Path, code: str, *prefix: str) -> tuple[int, str, str]:
    """Run a program, and return its exit status, output and errors."""
    return finish(start(tmp_path, code, *prefix))


def read_ends(tmp_path: Path) -> dict[str, tuple[str, str | None]]:
    """Return status and message of all operations. None of them is active."""
    journal = open_journal(f"sqlite:///{tmp_path / 'progress.db'}", read_only=True)
    assert list(journal.active()) == []
    found = {one.operation_id: (one.status.value, one.message) for one in journal.history(HistoryQuery())}
    journal.close()
    return found
