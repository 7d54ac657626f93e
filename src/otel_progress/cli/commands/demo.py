"""``demo``: a survey of Python files with all features enabled."""

from __future__ import annotations

import click

from otel_progress.cli.context import CliContext
from otel_progress.settings.defaults import MAX_PORT


@click.command(
    epilog="""\b
Examples:
  otel-progress demo
  otel-progress demo ~/project/src
  otel-progress demo --quick
"""
)
@click.argument("path", required=False, type=click.Path(exists=True))
@click.option("--quick", is_flag=True, help="Survey only a part, in less than five seconds.")
@click.option(
    "--port",
    type=click.IntRange(0, MAX_PORT),
    help="Port of /metrics during the survey; 0: a free port. [env: OTEL_PROGRESS_PROMETHEUS_PORT]",
)
@click.option(
    "--server-port",
    type=click.IntRange(0, MAX_PORT),
    help="Port of the page during the survey; 0: a free port. [env: OTEL_PROGRESS_SERVER_PORT]",
)
@click.pass_obj
def demo(
    context: CliContext, path: str | None, quick: bool, port: int | None, server_port: int | None
) -> None:
    """Survey Python source files with live progress.

    Surveys the files below PATH, or the files of this Python.
    Shows progress here, in a browser and as metrics.
    """
    from otel_progress.demo import run

    raise click.exceptions.Exit(
        run(path, quick=quick, store=context.store, prometheus_port=port, server_port=server_port)
    )
