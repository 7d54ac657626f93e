"""Runs the examples like a user, and reads their results through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"


class Runner:
    """Python with its own state directory and with warnings as errors.

    It inherits no settings.
    """

    def __init__(self, state: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self._environ = environ | {
            "XDG_STATE_HOME": str(state),
            "PYTHONWARNINGS": "error",
            "PYTHONIOENCODING": "utf-8",
        }

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python until it ends."""
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=self._environ,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start Python. The caller must stop it."""
        command = [sys.executable, *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self._environ,
        )

    def example(self, name: str, *arguments: object) -> str:
        """Run an example and return its output.

        A warning or an error on stderr fails the test.
        """
        done = self(EXAMPLES / name, *arguments)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done.stdout

    def document(self, *arguments: str) -> dict[str, Any]:
        """Return the output of an otel-progress command as JSON."""
        done = self("-m", "otel_progress", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def levels(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the levels of an operation's document by path."""
    return {level["path"]: level for level in operation["levels"]}
