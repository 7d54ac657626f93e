"""``serve``: the server and its page for every operation of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from otel_progress.cli.context import CliContext
from otel_progress.cli.output import echo
from otel_progress.errors import MissingExtraError
from otel_progress.settings.parsing import DEFAULT_PORT

if TYPE_CHECKING:
    from otel_progress.server.uvicorn_server import Server


@click.command(
    epilog="""\b
Examples:
  otel-progress serve
  otel-progress serve --port 8080
  otel-progress serve --host 0.0.0.0 --token-file /etc/otel-progress/token
"""
)
@click.option(
    "--host",
    help="Address to listen on; others than loopback need a token. [env: OTEL_PROGRESS_SERVER_HOST; default: 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port; 0 takes a free one. [env: OTEL_PROGRESS_SERVER_PORT; default: {DEFAULT_PORT}]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File that holds the token to ask for. [env: OTEL_PROGRESS_TOKEN_FILE; the token itself: OTEL_PROGRESS_TOKEN]",
)
@click.option("--allow-public-without-token", is_flag=True, help="Answer anybody who reaches the address.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Another name clients may call the server by; can be repeated.",
)
@click.option(
    "--allow-origin", multiple=True, metavar="ORIGIN", help="Web origin whose pages may ask; can be repeated."
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="Prefix that a proxy in front takes off, such as /progress.",
)
@click.pass_obj
def serve(
    scope: CliContext,
    host: str | None,
    port: int | None,
    token_file: Path | None,
    allow_public_without_token: bool,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    root_path: str,
) -> None:
    """Serve the live page, REST and streams until interrupted."""
    settings = scope.settings().with_arguments(server_host=host, server_port=port, token_file=token_file)
    token = settings.read_token()
    with scope.reader() as reader:
        server = _imported()(
            reader,
            host=settings.server_host,
            port=DEFAULT_PORT if settings.server_port is None else settings.server_port,
            token=token,
            controller=_Asked(scope),
            allow_public=allow_public_without_token,
            allowed_hosts=allow_host,
            allowed_origins=allow_origin,
            root_path=root_path,
            public_url=settings.public_url,
            previews=scope.previews(),
        )
        try:
            echo(f"Serving on {server.url} (REST: {server.url}docs). Ctrl-C ends it.")
            if token is not None:
                echo("Clients have to send the token; a browser is asked for it.")
            server.run()
        finally:
            server.close()


class _Asked:
    """A Controller that opens the journal for writing when something is asked of it: serving by itself writes nothing."""

    def __init__(self, scope: CliContext) -> None:
        self._scope = scope

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Ask the worker of the active run of this id to stop."""
        with self._scope.controller() as controller:
            return controller.request_cancel(operation_id, reason)

    def delete(self, operation_id: str) -> int:
        """Forget the runs of this id that are over."""
        with self._scope.controller() as controller:
            return controller.delete(operation_id)


def _imported() -> type[Server]:
    try:
        from otel_progress.server.uvicorn_server import Server
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("otel_progress"):
            raise
        feature = "The server"
        raise MissingExtraError(feature, "server") from exc
    return Server
