"""``demo``: real work on real files, with everything switched on."""

from __future__ import annotations

import click

from otel_progress.cli.context import CliContext


@click.command(
    epilog="""\b
Examples:
  otel-progress demo
  otel-progress demo ~/project/src
  otel-progress demo --quick
"""
)
@click.argument("path", required=False, type=click.Path(exists=True))
@click.option("--quick", is_flag=True, help="A part of it, in less than five seconds.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Serve /metrics there while it runs; 0: any free one. [env: OTEL_PROGRESS_PROMETHEUS_PORT]",
)
@click.option(
    "--server-port",
    type=click.IntRange(0, 65535),
    help="Serve the page there while it runs; 0: any free one. [env: OTEL_PROGRESS_SERVER_PORT]",
)
@click.pass_obj
def demo(scope: CliContext, path: str | None, quick: bool, port: int | None, server_port: int | None) -> None:
    """Survey Python sources (this interpreter's own, or those in PATH): watch it in a browser, here, and by its metrics."""
    from otel_progress.demo import run

    raise click.exceptions.Exit(
        run(path, quick=quick, store=scope.store, prometheus_port=port, server_port=server_port)
    )
