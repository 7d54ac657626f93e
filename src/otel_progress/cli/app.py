"""The command ``otel-progress``: global options, lazy commands and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from otel_progress.cli.context import CliContext
from otel_progress.cli.output import CliError, discard_output, echo_error, quote_id
from otel_progress.errors import ConfigurationError, JournalError, ProgressError, UnavailableError
from otel_progress.text import MAX_ID

EXIT_PROBLEM: Final = 1
"""Not found, a problem found, or (with ``--exit-status``) an operation that did not complete."""


EXIT_USAGE: Final = 2
"""An invalid option, argument or setting."""


EXIT_UNREADABLE: Final = 3
"""An unreadable journal."""


EXIT_INTERRUPTED: Final = 130
"""Ctrl-C in a command whose outcome is then not known."""


_COMMANDS: Final[Mapping[str, str]] = {
    "ls": "otel_progress.cli.commands.ls:ls",
    "show": "otel_progress.cli.commands.show:show_target",
    "watch": "otel_progress.cli.commands.watch:watch",
    "serve": "otel_progress.cli.commands.serve:serve",
    "history": "otel_progress.cli.commands.ls:history",
    "logs": "otel_progress.cli.commands.logs:logs",
    "cancel": "otel_progress.cli.commands.control:cancel",
    "fail": "otel_progress.cli.commands.control:fail",
    "rm": "otel_progress.cli.commands.control:rm",
    "close": "otel_progress.cli.commands.control:close",
    "run": "otel_progress.cli.commands.run:run",
    "update": "otel_progress.cli.commands.update:update",
    "level": "otel_progress.cli.commands.level:level",
    "export": "otel_progress.cli.commands.export:export",
    "dashboards": "otel_progress.cli.commands.export:dashboards",
    "rules": "otel_progress.cli.commands.export:rules",
    "mcp": "otel_progress.cli.commands.mcp:mcp",
    "demo": "otel_progress.cli.commands.demo:demo",
    "doctor": "otel_progress.cli.commands.doctor:doctor",
    "completion": "otel_progress.cli.commands.completion:completion",
}


_EPILOG: Final = """\b
Exit codes:
  0    success
  1    not found, or a problem found; with --exit-status: the operation did not complete
  2    invalid option, argument or setting
  3    unreadable journal
  4    with --exit-status: the operation is abandoned, its process has exited
  5    with show --exit-status: the operation sends no heartbeats and has not reported recently
  N    exit status of the command of run and level; 126 or 127 if it cannot be started
  130  interrupted (watch without --exit-status exits with 0)

\b
Examples:
  otel-progress ls
  otel-progress watch
  otel-progress show friday-42 --errors
  otel-progress logs friday-42 --follow
"""


class App(click.Group):
    """Command group with lazy imports that reports errors as one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command. None if the name is unknown."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command named first in ``args``.

        Raises UsageError with a similar name if the command is unknown.
        """
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            similar = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {similar[0]}?" if similar else ""
            msg = f"Invalid command {args[0][:100]!r}: expected one of {', '.join(_COMMANDS)}.{hint}"
            raise click.UsageError(msg, ctx)
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit. Without ``standalone_mode``, return or raise."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            message = error.format_message()
            if error.ctx is not None:
                end = "" if message.endswith((".", "?")) else "."
                hint = _suggest_separator(error, sys.argv[1:] if args is None else args)
                message = f"{message}{end}{hint} See: {error.ctx.command_path} --help"
            code = _report_error(message, EXIT_USAGE)
        except click.ClickException as error:
            code = _report_error(error.format_message(), error.exit_code)
        except click.Abort:
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            code = _discard_output()
        except OSError as error:  # for example stdout on a full disk
            code = _report_error(f"Input or output failed: {error}.", EXIT_PROBLEM)
            _discard_output()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                # Why: Python would report the error again when it exits, or exit with 120.
                discard_output(stream)
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line. ``--help`` and ``--version`` write their output here."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise click.exceptions.Exit(_discard_output()) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Errors of otel-progress become one line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would exit with 1
            raise click.exceptions.Exit(_discard_output()) from error
        except JournalError as error:
            raise CliError(str(error), EXIT_UNREADABLE) from error
        except UnavailableError as error:  # for example the port of ``serve`` is in use
            raise CliError(str(error), EXIT_PROBLEM) from error
        except ConfigurationError as error:
            raise CliError(str(error), EXIT_USAGE) from error
        except ProgressError as error:
            raise CliError(str(error), EXIT_PROBLEM) from error


def _print_version(ctx: click.Context, param: click.Parameter, is_requested: bool) -> None:  # noqa: ARG001
    if is_requested and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"otel-progress {version('otel-progress')}")
        except PackageNotFoundError:  # runs from a source tree
            click.echo("otel-progress (not installed)")
        ctx.exit()


@click.command(
    cls=App,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--store",
    metavar="URL",
    help="Journal: sqlite: (the default file), sqlite:///PATH or redis://HOST. [env: OTEL_PROGRESS_STORE]",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Use colours; auto follows NO_COLOR, FORCE_COLOR and the terminal.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, store: str | None, color: str) -> None:
    """Show the progress of long-running operations of all processes on this machine."""
    ctx.obj = CliContext.from_options(store, color, os.environ)
    ctx.color = ctx.obj.color
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line of this process."""
    # Why: Python sets a closed standard stream to None.
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    cli(prog_name="otel-progress")


def _suggest_separator(error: click.UsageError, args: Sequence[str]) -> str:
    """Return how to pass an ID that starts with ``-``.

    Empty if that is not the problem."""
    kinds = (click.NoSuchOption, click.BadOptionUsage, click.MissingParameter)
    if not isinstance(error, kinds) or error.ctx is None or "--" in args:
        return ""
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        return ""
    command = error.ctx.command
    if not any((param.name or "").startswith("operation_id") for param in command.params):
        return ""
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    unknown = [arg for arg in args if arg.startswith("-") and arg.partition("=")[0] not in known]
    if isinstance(error, (click.NoSuchOption, click.BadOptionUsage)):
        name = error.option_name
        unknown = [arg for arg in unknown if arg.startswith(name)] or [name]
    if not unknown:
        return ""
    suggested = f"{error.ctx.command_path} {quote_id(unknown[-1][:MAX_ID])}"
    return f" For an ID that starts with -, put -- before it: {suggested}."


def _report_error(message: str, code: int) -> int:
    echo_error(message)
    return code


def _discard_output() -> int:
    """Discard further output after the reader of stdout has exited. Return 0."""
    discard_output()
    return 0
