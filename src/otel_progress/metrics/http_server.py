"""A small HTTP server for ``/metrics``: loopback by default, threads that end with the process, no time spent while nobody asks.

It belongs to the process that started it. A forked child closes its copy of the socket at once, so that the port is free when
the parent ends, and serves nothing; it can start a server of its own on another port.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from otel_progress.errors import ConfigurationError
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.metrics.exposition import metrics_app

if TYPE_CHECKING:
    from otel_progress.metrics.collector import ProgressCollector


logger = logging.getLogger(__name__)


REQUEST_TIMEOUT_S: Final = 10.0
"""How long a client may take to send or take the next bytes."""


MAX_CONNECTIONS: Final = 32
"""Connections served at a time; one more is closed at once, so that idle clients cost a bounded number of threads."""


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """A running server. ``host`` and ``port`` are what it listens on; a context manager that closes it."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._pid = os.getpid()
        self._closing = False
        self.host = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=self._serve, name="otel-progress-metrics", daemon=True)
        self._thread.start()
        # Why: no thread serves the inherited socket in a child, yet it would hold the port.
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=MetricsServer.close)

    @property
    def url(self) -> str:
        """Address of the metrics, as a client of this machine reaches them."""
        host = _reachable(self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop answering and free the port. Can be called again, and in a forked child, where only the child's copy is closed."""
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
        # Not serve_forever(): that wakes up twice a second to look whether it should end. This sleeps until a client comes.
        with contextlib.suppress(OSError, ValueError):  # the socket was closed under it
            while not self._closing:
                self._server.handle_request()

    def _wake(self) -> None:
        """Be the client that lets the thread see that it is to end."""
        try:
            socket.create_connection((_reachable(self.host), self.port), timeout=1.0).close()
        except OSError:
            logger.debug("The metrics server could not be woken to close.", exc_info=True)


def serve_metrics(collector: ProgressCollector, port: int = 0, host: str = "127.0.0.1") -> MetricsServer:
    """Serve ``collector`` on ``http://host:port/metrics`` and return the running server; port 0 takes a free one.

    ``/healthz`` answers ``ok``, every other path 404. Raises ConfigurationError when that address cannot be listened on.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        msg = f"The port for metrics is {port!r}: expected a whole number from 0 (any free port) to 65535."
        raise ConfigurationError(msg)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = _Server(family, address, _routes(metrics_app(collector)))
    except (OSError, UnicodeError) as exc:
        raise ConfigurationError(_describe_bind_error(exc, host, port)) from exc
    return MetricsServer(server)


class _Handler(WSGIRequestHandler):
    """One connection, one request: no log lines, and a limit on how long the client may keep silent."""

    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def get_stderr(self) -> Any:
        """Give wsgiref a place for its tracebacks of broken connections that is not the user's terminal."""
        return io.StringIO()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a connection, so that a client that is slow or silent delays nobody."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS
    # On Windows the option would let two processes share the port.
    allow_reuse_address: ClassVar[bool] = os.name != "nt"  # type: ignore[misc]

    def __init__(self, family: int, address: Any, application: _Application) -> None:
        self.address_family = family
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host's name that the base class makes, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; without the pause a process out of file descriptors would ask again and again at full speed."""
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
        except BaseException:  # no thread could be started, so none will give the slot back
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class passes them
        """Keep a client's broken connection out of the user's terminal."""
        logger.debug("A request for metrics failed.", exc_info=True)


def _routes(metrics: _Application) -> _Application:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            try:
                return metrics(environ, start_response)
            except Exception:
                logger.warning("The metrics could not be rendered.", exc_info=True)
                return _text(
                    start_response,
                    "500 Internal Server Error",
                    "The metrics could not be rendered; see the log.\n",
                )
        if path == "/healthz":
            return _text(start_response, "200 OK", "ok\n")
        return _text(start_response, "404 Not Found", "There is nothing here. The metrics are at /metrics.\n")

    return application


def _text(start_response: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    start_response(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    )
    return [text.encode()]


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _describe_bind_error(error: Exception, host: str, port: int) -> str:
    code = error.errno if isinstance(error, OSError) else None
    fix = "use another port, or 0 for a free one"
    if code == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use, so metrics cannot be served there: stop what listens on it, {fix}."
    if code == errno.EACCES:
        return f"Port {port} of {host} needs rights that this process does not have: {fix}; ports from 1024 up need none."
    return f"Metrics cannot be served on {host!r}, port {port} ({error}): the host has to be an address of this machine."
