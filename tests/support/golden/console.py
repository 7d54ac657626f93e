"""Terminals and command lines for golden files.

This is the only module here that imports the helpers of the CLI tests.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click
from click.testing import Result

from otel_progress.cli import cli
from tests.support.command_line import run
from tests.support.terminal import Clock, Terminal

__all__ = ["Clock", "Terminal", "commands", "help_of", "invoke"]

NOW: Final = re.compile(r'"(read_at|clock)": ?[0-9.]+')
"""Fields of JSON documents that contain the time of reading."""


def invoke(store: Path, *arguments: str, columns: int = 120) -> str:
    """Return exit code, output and errors of a command line as one text.

    The journal's path is replaced.
    """
    result: Result = run(
        "--store", f"sqlite:///{store}", *arguments, env={"COLUMNS": str(columns), "TZ": "UTC"}
    )
    text = f"exit code {result.exit_code}\n--- stdout\n{result.stdout}--- stderr\n{result.stderr}"
    return NOW.sub(r'"\1": NOW', text.replace(str(store.parent), "FOLDER"))


def commands() -> list[str]:
    """Return the names of all commands."""
    return list(cli.list_commands(click.Context(cli)))


def help_of(*arguments: str) -> str:
    """Return the output of ``--help``."""
    return run(*arguments, "--help", env={"COLUMNS": "80"}).output
