"""``run``: a command as an operation."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import click

from otel_progress.cli.commands.update import NUMBER
from otel_progress.cli.context import CliContext
from otel_progress.cli.options import parse_name
from otel_progress.cli.output import CliError, echo_error
from otel_progress.parsers.formats import FORMATS, UNITS, create_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_progress.instrument.level import Level
    from otel_progress.runner.command import CommandChannel, CommandEnd
    from otel_progress.runner.recording import OutputRecorder
    from otel_progress.runner.signals import SignalQueue
    from otel_progress.runner.streams import StreamPlan


DEFAULT_GRACE_S: Final = 10.0
"""Default seconds from SIGTERM to SIGKILL after a request to cancel."""


_INTERRUPTS: Final = {
    128 + number: number
    for number in (getattr(signal, name, None) for name in ("SIGINT", "SIGHUP"))
    if number is not None
}
"""Exit codes after Ctrl-C and after the end of the terminal, and the signals."""


@click.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    epilog="""\b
The command has the same input, output and terminal as without otel-progress, receives the same
signals, and its exit status is that of otel-progress: 128+N after signal N, 127 if it was not
found, 126 if it cannot be executed. otel-progress cancel sends SIGTERM to it and the processes
below it, and SIGKILL after the grace period.

\b
The command and the processes below it can send updates with otel-progress update and
otel-progress level. Their Python programs that call configure() are part of the operation.

\b
Examples:
  otel-progress run -- rsync -a --info=progress2 photos/ backup:/photos
  otel-progress run --name nightly --total 500 -- ./nightly.sh
  otel-progress run --parse ffmpeg -- ffmpeg -i in.mkv -progress pipe:1 out.mp4
""",
)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--total", type=NUMBER, metavar="N", help="Units of work in all.")
@click.option(
    "--name", callback=parse_name, metavar="TEXT", help="Display name. Its earlier runs predict its duration."
)
@click.option(
    "--type",
    "operation_type",
    callback=parse_name,
    metavar="TEXT",
    help="Kind of work. [default: the program]",
)
@click.option(
    "--id",
    "operation_id",
    callback=parse_name,
    metavar="ID",
    help="ID of the operation. [default: generated]",
)
@click.option("--unit", callback=parse_name, metavar="TEXT", help="Name of one unit, such as file.")
@click.option("--batch", callback=parse_name, metavar="ID", help="Batch that the operation belongs to.")
@click.option(
    "--parse",
    "format_name",
    type=click.Choice([*FORMATS, "none"]),
    default="auto",
    show_default=True,
    help="Format of the progress that the command prints.",
)
@click.option("--pty", "has_pty", is_flag=True, help="Give the command a terminal, also in a pipe or file.")
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0, 86_400),
    default=DEFAULT_GRACE_S,
    show_default=True,
    metavar="SECONDS",
    help="Time from SIGTERM to SIGKILL after a cancellation.",
)
@click.pass_context
def run(context: click.Context, /, command: Sequence[str], **options: Any) -> None:
    """Run a command as an operation."""
    if os.name != "posix":
        raise CliError("Invalid system: expected a POSIX system to run a command. Use configure() instead.")
    from otel_progress.runner.command import CommandChannel
    from otel_progress.runner.signals import SignalQueue
    from otel_progress.runner.streams import reserve_standard_streams

    reserve_standard_streams()
    sys.stdout.flush()
    # Why first: threads that start later inherit the blocked signals, and the session is forked.
    with SignalQueue() as signals:
        channel = CommandChannel(_plan_streams(options), signals)
        code = _run_operation(context.obj, command, options, channel, signals)
    context.exit(code)


def _run_operation(
    context: CliContext,
    command: Sequence[str],
    options: dict[str, Any],
    channel: CommandChannel,
    signals: SignalQueue,
) -> int:
    from otel_progress import config
    from otel_progress.instrument.tracer import operation
    from otel_progress.model import Failure
    from otel_progress.runner.exit_status import ExitStatus
    from otel_progress.runner.process import SpawnError
    from otel_progress.runner.recording import OutputRecorder

    program = PurePath(command[0]).name or command[0]
    format_name = options["format_name"]
    # Why no console: the terminal belongs to the command.
    with config.start({"store": context.store, "console": False}):
        level = operation(
            options["operation_type"] or program,
            options["name"] or program,
            id=options["operation_id"],
            total=options["total"],
            unit=options["unit"] or UNITS.get(format_name),
            batch=options["batch"],
            eta_key=options["name"],
            program=program,
        ).start()
        parser = None if format_name == "none" else create_parser(format_name)
        recorder = OutputRecorder(
            level,
            parser,
            has_total=options["total"] is not None,
            is_automatic=format_name == "auto",
        )
        try:
            end = _wait_for_command(level, command, options, channel, signals, recorder)
        except SpawnError as error:
            level.fail(Failure("CommandNotStarted", str(error)))
            echo_error(str(error))
            return error.code
        except BaseException as error:
            level.fail(error)
            raise
        _end_operation(level, end, recorder)
        status: ExitStatus = end.status
        return status.code


def _wait_for_command(
    level: Level,
    command: Sequence[str],
    options: dict[str, Any],
    channel: CommandChannel,
    signals: SignalQueue,
    recorder: OutputRecorder,
) -> CommandEnd:
    """Run the command with its environment. Raises SpawnError if it cannot be started."""
    from otel_progress.runner.command import CommandEvents, RunningCommand
    from otel_progress.updates.client import ADDRESS_VARIABLE

    pause = level.paused("stopped")
    events = CommandEvents(
        lambda: level.cancel_requested,
        lambda: _enter_pause(pause),
        lambda: pause.__exit__(None, None, None),
    )
    with ExitStack() as stack:
        environment = stack.enter_context(level.environment())
        if level.recording:
            address = _serve_updates(stack, level, recorder)
            if address is not None:
                environment[ADDRESS_VARIABLE] = address
        running = RunningCommand(
            command,
            environment,
            channel,
            signals,
            recorder,
            events,
            grace_s=options["grace_s"],
        )
        return running.wait()


def _serve_updates(stack: ExitStack, level: Level, recorder: OutputRecorder) -> str | None:
    """Start the server of updates and return its address.

    None if the environment does not permit it. The command runs nevertheless.
    """
    from otel_progress.diagnostics import report_internal_error
    from otel_progress.updates.levels import RemoteLevels
    from otel_progress.updates.server import UpdateServer

    levels = RemoteLevels(level, on_update=recorder.stop_parsing)
    try:
        server = stack.enter_context(UpdateServer(levels.apply, levels.end_abandoned, levels.end_remaining))
    except (OSError, RuntimeError) as error:  # no folder or port, or no further thread
        report_internal_error("server", "Updates of other processes are not received", error=error)
        return None
    return server.address


def _enter_pause(pause: Any) -> None:
    """Pause the operation and store that, because this process stops as well."""
    from otel_progress import queries

    pause.__enter__()
    queries.flush(timeout=1.0)


def _plan_streams(options: dict[str, Any]) -> StreamPlan:
    from otel_progress.runner.streams import find_terminals, plan_streams, shares_output

    terminals = find_terminals()
    is_parsing = options["format_name"] != "none"
    return plan_streams(
        terminals=terminals,
        is_parsing=is_parsing,
        shares_output=shares_output(),
        forces_terminal=options["has_pty"],
    )


def _end_operation(level: Level, end: CommandEnd, recorder: OutputRecorder) -> None:
    """End the operation with the status of its command."""
    from otel_progress.instrument.iteration import make_cancelled_error
    from otel_progress.model import Failure
    from otel_progress.runner.exit_status import get_signal_name

    status, tail = end.status, recorder.tail
    interrupt = end.interrupted_by or _INTERRUPTS.get(status.code)
    level.update(exit_status=status.code)
    if end.is_cancelled:
        level.cancel(str(make_cancelled_error(level._node)))
    elif status.code == 0:
        level.complete()
    elif interrupt is not None:
        level.cancel(get_signal_name(interrupt))
    else:
        kind = "ExitStatus" if status.signal_number is None else get_signal_name(status.signal_number)
        message = status.reason if tail.last_line is None else f"{status.reason}: {tail.last_line}"
        level.fail(Failure(kind, message, tail.text))
