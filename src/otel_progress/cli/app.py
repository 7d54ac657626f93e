"""The command ``otel-progress``: its options, its commands (each imported when used) and how errors and exits come out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

import click

from otel_progress.cli.context import CliContext
from otel_progress.cli.output import CliError, say_error
from otel_progress.errors import ConfigurationError, JournalError, ProgressError

EXIT_PROBLEM: Final = 1
"""Not found, problems found, or (with --exit-status) the operation did not complete."""


EXIT_USAGE: Final = 2
"""A wrong option, argument or setting."""


EXIT_UNREADABLE: Final = 3
"""The journal cannot be read."""


EXIT_INTERRUPTED: Final = 130
"""Ctrl-C, where the outcome that was asked for is not known."""


_COMMANDS: Final[Mapping[str, str]] = {
    "ls": "otel_progress.cli.commands.ls:ls",
    "show": "otel_progress.cli.commands.show:show",
    "watch": "otel_progress.cli.commands.watch:watch",
    "serve": "otel_progress.cli.commands.serve:serve",
    "history": "otel_progress.cli.commands.ls:history",
    "logs": "otel_progress.cli.commands.logs:logs",
    "cancel": "otel_progress.cli.commands.control:cancel",
    "rm": "otel_progress.cli.commands.control:rm",
    "export": "otel_progress.cli.commands.export:export",
    "dashboards": "otel_progress.cli.commands.export:dashboards",
    "rules": "otel_progress.cli.commands.export:rules",
    "demo": "otel_progress.cli.commands.demo:demo",
    "doctor": "otel_progress.cli.commands.doctor:doctor",
    "completion": "otel_progress.cli.commands.completion:completion",
}


_EPILOG: Final = """\b
Exit codes:
  0    all is well
  1    not found, problems found; with --exit-status: the operation did not complete
  2    a wrong option, argument or setting
  3    the journal cannot be read
  130  interrupted (watch without --exit-status ends with 0)

\b
Examples:
  otel-progress ls
  otel-progress watch
  otel-progress show friday-42 --errors
  otel-progress logs friday-42 --follow
"""


class App(click.Group):
    """A group whose commands are imported when they are used, and whose errors are one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the names of all commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, None when there is none of that name."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begin with. Raises UsageError with a near one when there is none."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The commands are {', '.join(_COMMANDS)}."
            msg = f"There is no command {args[0]!r}. {hint}"
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
        """Run the command line and exit; without ``standalone_mode`` return, and raise click's exceptions."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            where = f" See: {error.ctx.command_path} --help" if error.ctx is not None else ""
            code = _fail(f"{error.format_message()}{where}", EXIT_USAGE)
        except click.ClickException as error:
            code = _fail(error.format_message(), error.exit_code)
        except click.Abort:
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            code = _hang_up()
        sys.exit(code if isinstance(code, int) else 0)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line; --help and --version write here already."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise click.exceptions.Exit(_hang_up()) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of otel-progress become one line and an exit code."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # before click sees it, which would exit with 1
            raise click.exceptions.Exit(_hang_up()) from error
        except JournalError as error:
            raise CliError(str(error), EXIT_UNREADABLE) from error
        except ConfigurationError as error:
            raise CliError(str(error), EXIT_USAGE) from error
        except ProgressError as error:
            raise CliError(str(error), EXIT_PROBLEM) from error


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:  # noqa: ARG001 - the signature is click's
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"otel-progress {version('otel-progress')}")
        except PackageNotFoundError:  # run from its sources
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
    help="Journal to read: sqlite: (the default file) or sqlite:///PATH. [env: OTEL_PROGRESS_STORE]",
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours; auto honours NO_COLOR and FORCE_COLOR.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, store: str | None, color: str) -> None:
    """See long-running work while it runs: what every process of this machine is doing, and what it did."""
    ctx.obj = CliContext.of(store, color, os.environ)
    ctx.color = ctx.obj.color
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line of this process."""
    cli(prog_name="otel-progress")


def _fail(message: str, code: int) -> int:
    say_error(message)
    return code


def _hang_up() -> int:
    """End quietly when the reader of our output has gone (``| head -1``): nothing is left to be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
