"""``update``: progress of the operation of a command, from any language."""

from __future__ import annotations

import os
from typing import Any

import click

from otel_progress.cli.direct_update import parse_number, send_update


class NumberType(click.ParamType[Any]):
    """Number of at least 0, whole or not."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of a text."""
        number = parse_number(value) if isinstance(value, str) else value
        if number is None:
            self.fail(f"{value!r} is not a number of at least 0.", param, ctx)
        return number


NUMBER = NumberType()
"""Type of options with an amount of work."""


@click.command(
    epilog="""\b
The command that otel-progress run started, and every process below it, can send updates. They are
applied when the command returns. --path names a level that was started with otel-progress level,
relative to the level of the environment.

\b
Examples:
  otel-progress update --total 500
  otel-progress update --current 5 --message "encoding a.wav"
  otel-progress update --increment 1 --if-available
"""
)
@click.option("--current", type=NUMBER, metavar="N", help="Units of work that are done.")
@click.option("--increment", type=NUMBER, metavar="N", help="Further units that are done.")
@click.option("--total", type=NUMBER, metavar="N", help="Units of work in all.")
@click.option("--message", metavar="TEXT", help="Current activity.")
@click.option("--path", metavar="PATH", help="Level to update, such as song:3.")
@click.option("--if-available", is_flag=True, help="Exit with 0 if no operation receives updates.")
def update(
    current: Any, increment: Any, total: Any, message: str | None, path: str | None, if_available: bool
) -> None:
    """Update the operation or level that this process is part of.

    Exits with 1 if the update was not applied.
    """
    if current is not None and increment is not None:
        raise click.UsageError("Invalid options --current and --increment: expected one of them.")
    values = {
        "current": current,
        "increment": increment,
        "total": total,
        "message": message,
        "path": path,
    }
    if all(value is None for name, value in values.items() if name != "path"):
        msg = "Invalid update: expected --current, --increment, --total or --message."
        raise click.UsageError(msg)
    code = send_update(values, os.environ, is_optional=if_available)
    click.get_current_context().exit(code)
