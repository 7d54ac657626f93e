"""HTTP server for ``/metrics``, bound to the loopback interface by default.

Its daemon threads end with the process. It uses no time while no client connects. A forked child
closes its copy of the socket at once and serves nothing, so the port is free when the parent ends.
The child can start a server on another port.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from otel_progress.errors import ConfigurationError, build_bind_error, build_thread_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.metrics.exposition import build_metrics_app
from otel_progress.settings.defaults import DEFAULT_HOST, MAX_PORT

if TYPE_CHECKING:
    from otel_progress.metrics.collector import ProgressCollector


logger = logging.getLogger("otel_progress.metrics")


REQUEST_TIMEOUT_S: Final = 10.0
"""Maximum time to wait for the next bytes to or from a client, in seconds."""


MAX_CONNECTIONS: Final = 32
"""Maximum number of connections. One more is closed at once, which bounds the number of threads."""


GROUP_HEADER: Final = "X-Otel-Progress-Group"
"""Header of ``/healthz`` that names the processes whose metrics are served."""


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """A running server at ``host`` and ``port``.

    As a context manager it closes itself.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._pid = os.getpid()
        self._closing = False
        self.host = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=self._serve, name="otel-progress-metrics", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            server.server_close()
            raise build_thread_error(error) from error
        # Why: no thread serves the inherited socket in a child, yet it would hold the port.
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=MetricsServer.close)

    @property
    def url(self) -> str:
        """URL of the metrics, as a client on this machine reaches it."""
        return build_url(self.host, self.port)

    def close(self) -> None:
        """Stop the server and free the port. Safe to call twice.

        In a forked child, only the child's copy of the socket is closed.
        """
        if self._closing:
            return
        self._closing = True
        if self._pid == os.getpid():
            self._wake()
            self._thread.join(timeout=2.0)
        self._server.server_close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        # Why not serve_forever(): it wakes up twice per second. This waits for a client.
        with contextlib.suppress(OSError, ValueError):  # another thread closed the socket
            while not self._closing:
                self._server.handle_request()

    def _wake(self) -> None:
        """Connect to the server, so that its thread sees that it is closing."""
        try:
            socket.create_connection((_loopback_of_wildcard(self.host), self.port), timeout=1.0).close()
        except OSError:
            logger.debug("The metrics server could not be woken to close.", exc_info=True)


def serve_metrics(
    collector: ProgressCollector,
    port: int = 0,
    host: str = DEFAULT_HOST,
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
    group: str = "",
) -> MetricsServer:
    """Serve ``collector`` at ``http://host:port/metrics``. Return the server.

    Port 0 selects a free port. ``timeout_s`` is the maximum silence of a client in seconds.
    ``group`` are the processes whose metrics are served, see :func:`is_served_by_group`.
    ``/healthz`` answers ``ok``, every other path 404. Raises ConfigurationError if the address is
    invalid. Raises UnavailableError if it cannot be bound, or if no thread can be started.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
        msg = f"Invalid metrics port {port!r}: expected a whole number from 0 (any free port) to 65535."
        raise ConfigurationError(msg)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = _Server(family, address, _build_app(build_metrics_app(collector), group), timeout_s)
    except (OSError, UnicodeError) as exc:
        raise build_bind_error(exc, host, port, "metrics") from exc
    return MetricsServer(server)


def build_url(host: str, port: int) -> str:
    """Return the URL of the metrics at an address, for clients on this machine."""
    host = _loopback_of_wildcard(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def is_served_by_group(port: int, host: str, group: str, timeout_s: float) -> bool | None:
    """Return True if a process of ``group`` serves the metrics at an address.

    Return None without an answer within ``timeout_s`` seconds.
    """
    connection = http.client.HTTPConnection(_loopback_of_wildcard(host), port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().getheader(GROUP_HEADER) == group
    except OSError:  # also a process that ends while it answers
        return None
    except (ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _Handler(WSGIRequestHandler):
    """Handles one request per connection, without log lines and with a timeout."""

    server: _Server

    def setup(self) -> None:
        """Set the timeout of the connection."""
        super().setup()
        self.connection.settimeout(self.server.client_timeout_s)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def get_stderr(self) -> Any:
        """Return a buffer that keeps tracebacks of broken connections off the terminal."""
        return io.StringIO()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Server with one thread per connection. A slow client delays no other client."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS
    # On Windows the option would let two processes share the port.
    allow_reuse_address: ClassVar[bool] = os.name != "nt"  # type: ignore[misc]

    def __init__(self, family: int, address: Any, application: _Application, client_timeout_s: float) -> None:
        self.address_family = family
        self.client_timeout_s = client_timeout_s
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of the base class, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection.

        Without file descriptors it pauses, because the caller retries in a loop.
        """
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread started that would release the slot
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class passes them
        """Log a broken connection of a client only at level DEBUG."""
        logger.debug("A request for metrics failed.", exc_info=True)


def _build_app(metrics: _Application, group: str) -> _Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            try:
                return metrics(environ, start_response)
            except Exception:
                logger.warning("The metrics could not be rendered.", exc_info=True)
                return _respond(
                    start_response,
                    "500 Internal Server Error",
                    "The metrics could not be rendered; see the log.\n",
                )
        if path == "/healthz":
            return _respond(start_response, "200 OK", "ok\n", [(GROUP_HEADER, group)] if group else [])
        text = "There is nothing here. The metrics are at /metrics.\n"
        return _respond(start_response, "404 Not Found", text)

    return application


def _respond(
    start_response: Callable[..., Any], status: str, text: str, headers: Sequence[tuple[str, str]] = ()
) -> Iterable[bytes]:
    common = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    start_response(status, [*common, *headers])
    return [text.encode()]


def _loopback_of_wildcard(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
