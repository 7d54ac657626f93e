"""uvicorn server for the application, in a thread or blocking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import (
    ConfigurationError,
    MissingExtraError,
    UnavailableError,
    build_bind_error,
    build_thread_error,
)
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.server.app import create_app
from otel_progress.server.connections import build_protocols
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import (
    LOCAL_PROXIES,
    ConnectionLimits,
    ServerSettings,
    StreamLimits,
    is_loopback,
    is_unspecified,
)
from otel_progress.server.streams.hub import Hub
from otel_progress.settings.defaults import DEFAULT_HOST, DEFAULT_PORT, MAX_PORT

if TYPE_CHECKING:
    from otel_progress.metrics.counters import Totals
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader
    from otel_progress.receivers.receiver import Receiver
    from otel_progress.server.grpc_endpoint import GrpcEndpoint


GRACE_S: Final = 3
"""Time for running responses to finish when the server stops, in whole seconds."""


_MAX_WS_MESSAGE_BYTES: Final = 1024 * 1024
"""Larger WebSocket messages close the connection. Smaller messages that are too long get an error.
"""


_LISTEN_BACKLOG: Final = 2_048
"""Connections that the system queues until they are accepted."""


_ACCEPTED_AT_ONCE: Final = 64
"""Connections accepted before others are served. More in one step could use all open files."""


class Server:
    """Server of a reader on ``http://host:port``, in a thread or blocking.

    Every request needs ``token`` when it is set. An address that other machines can reach requires
    it, unless ``allow_public``. ``controller`` handles requests to cancel and to delete. ``totals``
    are the counters of a runtime for ``/metrics``. ``public_url`` is the address for users when it
    differs from the server's own. ``previews`` stores the content of previews. With ``receiver``,
    programs can send OTLP to the server, also on ``otlp_port``, where the same application listens,
    and over gRPC on ``otlp_grpc_port``.
    Without ``trusted_proxies``, proxies on this machine are trusted. The constructor binds the
    addresses.
    Raises ConfigurationError when a value is not valid, and UnavailableError when the address
    cannot be bound.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        token: str | None = None,
        controller: Controller | None = None,
        allow_public: bool = False,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        root_path: str = "",
        trusted_proxies: Sequence[str] | None = None,
        streams: StreamLimits | None = None,
        connections: ConnectionLimits | None = None,
        totals: Totals | None = None,
        public_url: str | None = None,
        previews: Store | None = None,
        receiver: Receiver | None = None,
        otlp_port: int | None = None,
        otlp_grpc_port: int | None = None,
    ) -> None:
        for checked in (port, otlp_port, otlp_grpc_port):
            if checked is not None:
                _check_address(host, checked, has_access_control=bool(token or allow_public))
        # Why: invalid settings are reported before the address is bound.
        settings = ServerSettings(
            host,
            port,
            token,
            tuple(allowed_hosts),
            tuple(allowed_origins),
            root_path,
            LOCAL_PROXIES if trusted_proxies is None else tuple(trusted_proxies),
        )
        self._sockets = [_bind(host, port)]
        self.host = host
        self.port = int(self._sockets[0].getsockname()[1])
        self.otlp_port: int | None = None if receiver is None else self.port
        if receiver is not None and otlp_port not in {None, self.port}:
            self.otlp_port = self._add_socket(host, otlp_port or 0)
        app = create_app(
            reader,
            settings=replace(settings, port=self.port),
            controller=controller,
            streams=streams,
            totals=totals,
            public_url=public_url or self.url,
            previews=previews,
            receiver=receiver,
        )
        self.hub: Hub = app.state.hub
        self.counts: ServerCounters = app.state.services.counts
        self.grpc = None
        if receiver is not None and otlp_grpc_port is not None:
            self.grpc = self._bind_grpc(receiver, otlp_grpc_port, token)
        self._uvicorn = _Uvicorn(
            _build_config(app, root_path, connections or ConnectionLimits(), self.counts), self.hub
        )
        self._thread: threading.Thread | None = None
        self._start_error: BaseException | None = None
        self._pid = os.getpid()
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=Server.give_up_after_fork)

    @property
    def url(self) -> str:
        """URL of the page for a client on this machine."""
        return f"{self._build_origin(self.port)}/"

    @property
    def otlp_url(self) -> str | None:
        """Endpoint for OTLP exporters on this machine, None without a receiver."""
        return None if self.otlp_port is None else self._build_origin(self.otlp_port)

    @property
    def otlp_grpc_url(self) -> str | None:
        """Endpoint for OTLP exporters over gRPC on this machine, None without one."""
        return None if self.grpc is None else self._build_origin(self.grpc.port)

    def _bind_grpc(self, receiver: Receiver, port: int, token: str | None) -> GrpcEndpoint:
        """Bind the port for gRPC. Frees the other ports on an error."""
        try:
            grpc_endpoint = _import_grpc_endpoint()
            return grpc_endpoint(receiver, self.counts, host=self.host, port=port, token=token)
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise

    def _build_origin(self, port: int) -> str:
        host = self.host.strip("[]")
        if is_unspecified(host):
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def _add_socket(self, host: str, port: int) -> int:
        """Bind a further port and return it. Frees the first one on an error."""
        try:
            self._sockets.append(_bind(host, port, "OTLP (otlp_port, --otlp-port)"))
        except BaseException:
            self._sockets[0].close()
            raise
        return int(self._sockets[1].getsockname()[1])

    def start(self) -> str:
        """Serve in a thread of this process and return the URL.

        Raises UnavailableError, and frees the port, if the server cannot be started.
        """
        thread = threading.Thread(target=self._serve_in_thread, name="otel-progress-server", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.close()
            raise build_thread_error(error) from error
        self._thread = thread
        while not self._uvicorn.started and thread.is_alive():
            time.sleep(0.005)
        if not self._uvicorn.started:
            self.close()
            raise self._build_start_error()
        return self.url

    def run(self) -> None:
        """Serve in the main thread until SIGTERM or SIGINT.

        Then end all streams and return. Raises UnavailableError if the server cannot be started.
        """
        with self._handle_signals():
            self._serve()
        if not self._uvicorn.started:
            raise self._build_start_error()

    def close(self, timeout: float = 5.0) -> None:
        """End all streams, stop serving and free the port. Repeated calls do nothing.

        After ``timeout`` seconds the serving thread closes the remaining connections immediately.
        """
        if self._pid != os.getpid():
            self.give_up_after_fork()
            return
        self._uvicorn.should_exit = True
        self.hub.close()
        if self._thread is not None:
            self._thread.join(max(0.0, timeout))
            if self._thread.is_alive():
                # The thread closes the socket itself, now without waiting for clients.
                self._uvicorn.force_exit = True
                return
        if self.grpc is not None:
            self.grpc.close()
        for sock in self._sockets:
            sock.close()

    def give_up_after_fork(self) -> None:
        """Close the inherited connections in a forked child.

        They would otherwise stay open for their clients until the child ends. Their file
        descriptors are redirected to the null device, because copies of the parent's objects will
        close them.
        """
        sockets: list[Any] = [*self._sockets]
        for connection in list(self._uvicorn.server_state.connections):
            transport = getattr(connection, "transport", None)
            sockets.append(None if transport is None else transport.get_extra_info("socket"))
        null_device = os.open(os.devnull, os.O_RDWR)
        for sock in sockets:
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):
                    os.dup2(null_device, sock.fileno(), inheritable=False)
        os.close(null_device)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _build_start_error(self) -> UnavailableError:
        cause = "its start-up failed" if self._start_error is None else str(self._start_error)
        return UnavailableError(
            f"The server of the API could not be started ({cause}). "
            "Check the limits of open files, threads and memory."
        )

    def _serve_in_thread(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            # Why: the caller of start() reports it. Later only the server's thread ends.
            self._start_error = error
            if self._uvicorn.started:
                report_internal_error("server", "The server of the API has failed", error=error)

    def _serve(self) -> None:
        serving = self._uvicorn.serve(sockets=self._sockets)
        try:
            if self.grpc is not None:
                self.grpc.start()
            asyncio.run(serving)
        finally:
            if self.grpc is not None:
                self.grpc.close()
            # Why: without an event loop it was never awaited, and Python would print a warning.
            serving.close()

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        """Stop the server on a signal."""
        # Why: uvicorn's own handlers raise the signal again at the end. That would change the
        # exit status.

        def end(number: int, frame: FrameType | None) -> None:
            del frame
            if self._uvicorn.should_exit and number == signal.SIGINT:
                self._uvicorn.force_exit = True
            self._uvicorn.should_exit = True

        previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class _Uvicorn(uvicorn.Server):
    """uvicorn server that handles no signals, and ends the streams first."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not change any signal handler."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        # Why: asyncio uses one value as the length of the queue and as the number of connections
        # that it accepts at once.
        for sock in sockets or ():
            sock.listen(_LISTEN_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all streams, wait until the clients have left, then close all connections."""
        for server in self.servers:
            server.close()
        self._hub.close()
        for _ in range(10 * GRACE_S):
            if self.force_exit or not self._hub.subscribers:
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _build_config(
    app: Any, root_path: str, limits: ConnectionLimits, counts: ServerCounters
) -> uvicorn.Config:
    http, ws = build_protocols(limits, counts)
    return uvicorn.Config(
        app,
        http=http,
        ws=ws,
        loop="asyncio",
        lifespan="on",
        backlog=_ACCEPTED_AT_ONCE,
        # Logging belongs to the application, which may run its own uvicorn.
        log_config=None,
        root_path=root_path,
        proxy_headers=False,
        server_header=False,
        ws_max_size=_MAX_WS_MESSAGE_BYTES,
        # Compression costs more time than it saves on one machine, and memory per client.
        ws_per_message_deflate=False,
        ws_ping_interval=10.0,
        ws_ping_timeout=20.0,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=GRACE_S,
    )


def _import_grpc_endpoint() -> type[GrpcEndpoint]:
    try:
        from otel_progress.server.grpc_endpoint import GrpcEndpoint
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grpc":
            raise
        feature = "OTLP over gRPC"
        raise MissingExtraError(feature, "grpc") from error
    return GrpcEndpoint


def _check_address(host: str, port: object, *, has_access_control: bool) -> None:
    """Raise ConfigurationError for an invalid port or an unprotected public address."""
    if not (is_loopback(host) or has_access_control):
        msg = (
            f"Invalid host {host or 'all addresses'}: other machines can reach it without a token. "
            "Set a token (OTEL_PROGRESS_TOKEN or --token-file), use the host 127.0.0.1, "
            "or allow public access (allow_public, --allow-public-without-token)."
        )
        raise ConfigurationError(msg)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
        msg = f"Invalid port {port!r}: expected an integer from 0 to 65535. Use 0 for any free port."
        raise ConfigurationError(msg)


def _bind(host: str, port: int, service: str = "the API") -> socket.socket:
    name = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise build_bind_error(exc, host, port, service) from exc
    try:
        # On Windows the option would let two processes share the port.
        if os.name != "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise build_bind_error(exc, host, port, service) from exc
    return sock
