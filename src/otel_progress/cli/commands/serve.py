"""``serve``: the server and its page for all operations of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from otel_progress.cli.context import CliContext
from otel_progress.cli.output import echo_if_possible
from otel_progress.errors import MissingExtraError
from otel_progress.settings.defaults import DEFAULT_OTLP_PORT, DEFAULT_PORT, MAX_PORT

if TYPE_CHECKING:
    from otel_progress.receivers.receiver import Receiver
    from otel_progress.server.uvicorn_server import Server


@click.command(
    epilog="""\b
Examples:
  otel-progress serve
  otel-progress serve --port 8080
  otel-progress serve --host 0.0.0.0 --token-file /etc/otel-progress/token
  otel-progress serve --otlp
"""
)
@click.option(
    "--host",
    help="Address to listen on; an address other than loopback requires a token. "
    "[env: OTEL_PROGRESS_SERVER_HOST; default: 127.0.0.1]",
)
@click.option(
    "--port",
    type=click.IntRange(0, MAX_PORT),
    help=f"Port to listen on; 0: a free port. [env: OTEL_PROGRESS_SERVER_PORT; default: {DEFAULT_PORT}]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token that clients must send. "
    "[env: OTEL_PROGRESS_TOKEN_FILE; the token itself: OTEL_PROGRESS_TOKEN]",
)
@click.option(
    "--allow-public-without-token", is_flag=True, help="Serve every client that can reach the address."
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Additional host name that clients may use for the server; can be repeated.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Web origin whose pages may send requests; can be repeated.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="Path prefix that a proxy in front removes, such as /progress.",
)
@click.option(
    "--trusted-proxy",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-For and X-Forwarded-Proto headers are used; "
    "can be repeated. [default: this machine]",
)
@click.option(
    "--otlp",
    is_flag=True,
    help="Receive OTLP over HTTP from programs in any language, and store their progress.",
)
@click.option(
    "--otlp-port",
    type=click.IntRange(0, MAX_PORT),
    default=DEFAULT_OTLP_PORT,
    show_default=True,
    help="Additional port for OTLP, by default that of exporters; the number of --port: no additional one; "
    "0: a free port.",
)
@click.option(
    "--otlp-grpc-port",
    type=click.IntRange(0, MAX_PORT),
    help="With --otlp: port for OTLP over gRPC; 4317 is that of exporters; 0: a free port. Needs the extra "
    "grpc. [default: none]",
)
@click.pass_obj
def serve(
    context: CliContext,
    host: str | None,
    port: int | None,
    token_file: Path | None,
    allow_public_without_token: bool,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    root_path: str,
    trusted_proxy: tuple[str, ...],
    otlp: bool,
    otlp_port: int,
    otlp_grpc_port: int | None,
) -> None:
    """Serve the live page, the REST API and the streams until interrupted."""
    settings = context.settings().with_arguments(server_host=host, server_port=port, token_file=token_file)
    token = settings.read_token()
    with context.reader(missing_ok=True) as reader, _open_receiver(context, otlp) as receiver:
        server = _import_server()(
            reader,
            host=settings.server_host,
            port=DEFAULT_PORT if settings.server_port is None else settings.server_port,
            token=token,
            controller=_JournalController(context),
            allow_public=allow_public_without_token,
            allowed_hosts=allow_host,
            allowed_origins=allow_origin,
            root_path=root_path,
            trusted_proxies=trusted_proxy or None,
            public_url=settings.public_url,
            previews=context.previews(),
            receiver=receiver,
            otlp_port=otlp_port if otlp else None,
            otlp_grpc_port=otlp_grpc_port if otlp else None,
        )
        try:
            echo_if_possible(f"Serving on {server.url} (REST API: {server.url}docs). Stop with Ctrl-C.")
            if server.otlp_url is not None:
                echo_if_possible(f"Receiving OTLP: OTEL_EXPORTER_OTLP_ENDPOINT={server.otlp_url}")
            if server.otlp_grpc_url is not None:
                echo_if_possible(f"Receiving OTLP over gRPC: {server.otlp_grpc_url}")
            if token is not None:
                echo_if_possible("Clients must send the token. A browser shows a form for it.")
            server.run()
        finally:
            server.close()


@contextmanager
def _open_receiver(context: CliContext, is_enabled: bool) -> Iterator[Receiver | None]:
    """Open the journal for the progress of programs that send OTLP, if enabled."""
    if not is_enabled:
        yield None
        return
    from otel_progress.receivers.receiver import Receiver

    with context.journal() as journal:
        journal.prepare()
        receiver = Receiver(journal, stall_after_s=context.settings().stall_after)
        try:
            yield receiver
        finally:
            receiver.close()


class _JournalController:
    """Controller that opens the journal for writing only during a request."""

    def __init__(self, context: CliContext) -> None:
        self._context = context

    def request_cancel(self, operation_id: str, reason: str) -> bool:
        """Request cancellation of the active run of this ID. False if no run is active."""
        with self._context.controller() as controller:
            return controller.request_cancel(operation_id, reason)

    def delete(self, operation_id: str) -> int:
        """Delete the finished and abandoned runs of this ID. Return their number."""
        with self._context.controller() as controller:
            return controller.delete(operation_id)

    def fail_abandoned(self, operation_id: str, reason: str) -> bool:
        """Mark the abandoned run of this ID as failed. False if its process may still run."""
        with self._context.controller() as controller:
            return controller.fail_abandoned(operation_id, reason)

    def close_batch(self, batch_id: str) -> bool:
        """Close a batch. False if it is unknown or was closed before."""
        with self._context.journal() as journal:
            return journal.close_batch(batch_id)

    def cancel_batch(self, batch_id: str, reason: str) -> int:
        """Request cancellation of all active operations of a batch. Return their number."""
        with self._context.journal() as journal:
            return journal.cancel_batch(batch_id, reason)

    def delete_batch(self, batch_id: str) -> bool:
        """Delete a batch with its operations. False if one may still run."""
        with self._context.journal() as journal:
            return journal.delete_batch(batch_id)


def _import_server() -> type[Server]:
    try:
        from otel_progress.server.uvicorn_server import Server
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("otel_progress"):
            raise
        feature = "The server"
        raise MissingExtraError(feature, "server") from exc
    return Server
