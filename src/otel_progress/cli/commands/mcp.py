"""``mcp``: tools for assistants, over the Model Context Protocol."""

from __future__ import annotations

from collections.abc import Callable

import click

from otel_progress.cli.context import CliContext


@click.command(
    epilog="""\b
Needs the extra mcp: pip install 'otel-progress[mcp]'

\b
Examples:
  otel-progress mcp
  otel-progress --store redis://progress.internal mcp
"""
)
@click.option(
    "--allow-cancel",
    is_flag=True,
    help="Add a tool that requests the cancellation of an operation. Without it, the tools change nothing.",
)
@click.pass_obj
def mcp(context: CliContext, allow_cancel: bool) -> None:
    """Serve tools that read progress to an assistant, on standard input and output.

    The assistant starts this command. Enter it in the configuration of its MCP servers.
    """
    from otel_progress.integrations.mcp import create_server

    with context.reader(missing_ok=True) as reader:
        create_server(reader, cancel=_make_cancel(context) if allow_cancel else None).run("stdio")


def _make_cancel(context: CliContext) -> Callable[[str, str], bool]:
    """Return a function that opens the journal for writing only during a request."""

    def cancel(operation_id: str, reason: str) -> bool:
        with context.controller() as controller:
            return controller.request_cancel(operation_id, reason)

    return cancel
