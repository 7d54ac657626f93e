"""Runs of commands with ``otel-progress run`` in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from otel_progress.journal import SqliteJournal
from otel_progress.operations import OperationSnapshot
from tests.support.command_line import TIMEOUT_S, clean_environ, url_of

COMMAND = (sys.executable, "-m", "otel_progress")


class CommandRuns:
    """Runs of commands that record in one journal, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last_result: subprocess.CompletedProcess[bytes] | None = None
        self.journal = folder / "progress.db"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        script = bin_folder / "otel-progress"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m otel_progress "$@"\n')
        script.chmod(0o755)
        self.environ = {
            **clean_environ(),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "OTEL_PROGRESS_STORE": url_of(self.journal),
        }

    def build_command(self, *arguments: str, id: str = "run-1") -> list[str]:
        """Return the command line of a run."""
        return [*COMMAND, "run", "--id", id, *arguments]

    def run(
        self, *arguments: str, id: str = "run-1", stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, with pipes as its input and output."""
        self.last_result = subprocess.run(
            self.build_command(*arguments, id=id),
            input=stdin,
            capture_output=True,
            env=self.environ,
            cwd=self.folder,
            timeout=TIMEOUT_S,
            check=False,
        )
        return self.last_result

    def start(self, *arguments: str, id: str = "run-1") -> subprocess.Popen[bytes]:
        """Start a command with pipes."""
        return subprocess.Popen(
            self.build_command(*arguments, id=id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=self.folder,
        )

    def get(self, operation_id: str = "run-1") -> OperationSnapshot:
        """Return a stored operation."""
        # Why first: if the disk was slow, the process left the end in a file. A close stores it.
        SqliteJournal(self.journal).close()
        with closing(SqliteJournal(self.journal)) as journal:
            operation = journal.get(operation_id)
        assert operation is not None, self.last_result
        return operation
