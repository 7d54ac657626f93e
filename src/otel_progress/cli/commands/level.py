"""``level``: a level below the operation of a command, from any language."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from otel_progress.cli.commands.update import NUMBER
from otel_progress.cli.options import parse_name
from otel_progress.cli.output import CliError, echo_error
from otel_progress.text import encode_segment
from otel_progress.updates.client import UnavailableServerError, UpdateClient, UpdateError

if TYPE_CHECKING:
    from otel_progress.runner.exit_status import ExitStatus


_COMMAND_KEY: Final = "otel_progress.command"


class WrappingCommand(click.Command):
    """Command whose arguments after ``--`` are a command to run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before ``--`` and store those after it."""
        if "--" in args:
            index = args.index("--")
            ctx.meta[_COMMAND_KEY] = args[index + 1 :]
            args = args[:index]
        return super().parse_args(ctx, args)


@click.command(
    cls=WrappingCommand,
    epilog="""\b
With a command, the level lasts as long as the command and fails if its exit status is not 0.
Updates of the command and its processes apply to the level. Otherwise start the level with
--start and end it with --end, with the same TYPE and ID.

\b
Examples:
  otel-progress level song 3 --total 12 -- ./master.sh 3
  otel-progress level upload --start --total 20
  otel-progress update --path upload:1 --increment 1
  otel-progress level upload 1 --end
""",
)
@click.argument("level_type", metavar="TYPE", callback=parse_name)
@click.argument("level_id", metavar="[ID]", required=False, callback=parse_name)
@click.option("--start", "is_start", is_flag=True, help="Start the level and print its path.")
@click.option("--end", "is_end", is_flag=True, help="End the level.")
@click.option("--name", metavar="TEXT", help="Display name.")
@click.option("--total", type=NUMBER, metavar="N", help="Units of work of the level.")
@click.option("--unit", metavar="TEXT", help="Name of one unit, such as file.")
@click.option("--weight", type=NUMBER, metavar="N", help="Units of its parent that the level counts for.")
@click.option("--message", metavar="TEXT", help="Current activity, or the reason of the end.")
@click.option(
    "--status",
    type=click.Choice(["completed", "failed", "cancelled", "skipped"]),
    default="completed",
    show_default=True,
    help="Status with --end.",
)
@click.option("--path", metavar="PATH", default="", help="Parent level, such as song:3.")
@click.option("--if-available", is_flag=True, help="Without an operation, only run the command.")
@click.pass_context
def level(
    context: click.Context,
    /,
    level_type: str,
    level_id: str | None,
    is_start: bool,
    is_end: bool,
    path: str,
    status: str,
    if_available: bool,
    **values: Any,
) -> None:
    """Run a command as a level, or start or end a level."""
    command: Sequence[str] = context.meta.get(_COMMAND_KEY, ())
    if (bool(command), is_start, is_end).count(True) != 1:
        raise click.UsageError("Invalid level: expected one of -- COMMAND, --start and --end.")
    if is_end and level_id is None:
        raise click.UsageError("Invalid level: expected an ID with --end.")
    try:
        with UpdateClient(os.environ) as client:
            if is_end:
                segment = encode_segment(level_type, level_id or "")
                target = f"{path}/{segment}" if path else segment
                client.request("end", path=target, status=status, message=values["message"])
                return
            start = {"type": level_type, "id": level_id, "path": path, "bound": bool(command), **values}
            reply = client.request("start", **start)
            if is_start:
                click.echo(reply["path"])
                return
            code = _run_level(client, command, reply)
    except UnavailableServerError as error:
        if not if_available:
            raise CliError(str(error)) from error
        if not command:
            return
        code = _replace_process(command)
    except UpdateError as error:
        raise CliError(str(error)) from error
    context.exit(code)


def _run_level(client: UpdateClient, command: Sequence[str], reply: dict[str, Any]) -> int:
    """Run the command of a level and end the level. Return the exit code."""
    from otel_progress.runner.exit_status import ExitStatus
    from otel_progress.runner.process import SpawnError

    environment = {**os.environ, **reply["environment"]}
    message: str | None = None
    try:
        status = _run_command(command, environment)
        message = status.reason if status.code else None
    except SpawnError as error:
        echo_error(str(error))
        status, message = ExitStatus(error.code), str(error)
    try:
        client.request_end(reply["environment"], "failed" if status.code else "completed", message)
    except UpdateError as error:
        echo_error(str(error))
    return status.code


def _run_command(command: Sequence[str], environment: dict[str, str]) -> ExitStatus:
    from otel_progress.runner.command import CommandChannel, CommandEvents, RunningCommand
    from otel_progress.runner.signals import SignalQueue
    from otel_progress.runner.streams import StreamPlan

    sys.stdout.flush()
    with SignalQueue() as signals:
        events = CommandEvents(lambda: False, lambda: None, lambda: None)
        plan = StreamPlan("inherit", "inherit", "inherit")
        channel = CommandChannel(plan, signals)
        running = RunningCommand(command, environment, channel, signals, None, events, grace_s=0.0)
        return running.wait().status


def _replace_process(command: Sequence[str]) -> int:
    """Replace this process by a command. Return the exit code if that is not possible."""
    from otel_progress.runner.exit_status import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
    from otel_progress.runner.signals import restore_default_signals

    restore_default_signals()
    try:
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        echo_error(f"Invalid command {command[0]!r}: expected an executable file. Check its name and PATH.")
        return EXIT_NOT_FOUND
    except OSError as error:
        echo_error(f"Invalid command {command[0]!r}: it cannot be executed ({error.strerror}).")
        return EXIT_NOT_EXECUTABLE
