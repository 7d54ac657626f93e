"""Terminals and command lines; the only place here that imports the helpers of their tests."""

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
"""Moments of reading in JSON documents."""


def invoke(store: Path, *arguments: str, columns: int = 120) -> str:
    """Return exit code, output and errors of a command line in one text, without the path of the journal."""
    result: Result = run(
        "--store", f"sqlite:///{store}", *arguments, env={"COLUMNS": str(columns), "TZ": "UTC"}
    )
    text = f"exit code {result.exit_code}\n--- stdout\n{result.stdout}--- stderr\n{result.stderr}"
    return NOW.sub(r'"\1": NOW', text.replace(str(store.parent), "FOLDER"))


def commands() -> list[str]:
    """Return the names of all commands."""
    return list(cli.list_commands(click.Context(cli)))


def help_of(*arguments: str) -> str:
    """Return what ``--help`` shows."""
    return run(*arguments, "--help", env={"COLUMNS": "80"}).output
