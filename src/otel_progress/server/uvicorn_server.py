"""Serving: an application on an address, in a thread of a worker or as a whole process, with limits and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from otel_progress.errors import ConfigurationError
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.server.app import create_app
from otel_progress.server.connections import protocols
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import (
    ConnectionLimits,
    ServerSettings,
    StreamLimits,
    is_loopback,
    is_unspecified,
)
from otel_progress.server.streams.hub import Hub
from otel_progress.settings.parsing import DEFAULT_PORT

if TYPE_CHECKING:
    from otel_progress.metrics.counters import Totals
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader


GRACE_S: Final = 3
"""How long answers that are being given may take when the server ends, in whole seconds."""


_MOST_MESSAGE: Final = 1024 * 1024
"""Size from which a WebSocket message ends the connection; smaller ones that are too long are answered by an error."""


class Server:
    """Serves a reader on ``http://host:port``. Either :meth:`start` it in a thread, or :meth:`run` it as this process's work.

    ``token`` is asked of every client, and needed for an address other machines reach, unless ``allow_public``. ``controller`` takes
    requests to cancel and to delete, ``totals`` are a runtime's counters for ``/metrics``, ``public_url`` is where people reach the
    server when that is not its own address, ``previews`` where the content of previews is kept. The address is taken when the server
    is made: raises ConfigurationError when it cannot be.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        token: str | None = None,
        controller: Controller | None = None,
        allow_public: bool = False,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        root_path: str = "",
        streams: StreamLimits | None = None,
        connections: ConnectionLimits | None = None,
        totals: Totals | None = None,
        public_url: str | None = None,
        previews: Store | None = None,
    ) -> None:
        if not (is_loopback(host) or token or allow_public):
            msg = (
                f"The server would answer anybody on {host or 'all addresses'}: set a token (OTEL_PROGRESS_TOKEN or --token-file), "
                "use the host 127.0.0.1, or allow it by name (allow_public, --allow-public-without-token)."
            )
            raise ConfigurationError(msg)
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            msg = f"The port of the server is {port!r}: expected a whole number from 0 (any free port) to 65535."
            raise ConfigurationError(msg)
        # Refused before anything is bound.
        ServerSettings(host, port, token, tuple(allowed_hosts), tuple(allowed_origins), root_path)
        self._socket = _bind(host, port)
        self.host = host
        self.port = int(self._socket.getsockname()[1])
        settings = ServerSettings(
            host, self.port, token, tuple(allowed_hosts), tuple(allowed_origins), root_path
        )
        public = public_url or self.url
        app = create_app(
            reader,
            settings=settings,
            controller=controller,
            streams=streams,
            totals=totals,
            public_url=public,
            previews=previews,
        )
        self.hub: Hub = app.state.hub
        self.counts: ServerCounters = app.state.services.counts
        self._uvicorn = _Uvicorn(
            _config(app, root_path, connections or ConnectionLimits(), self.counts), self.hub
        )
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        on_fork(phase=ForkPhase.OUTPUTS, owner=self, after_in_child=Server.give_up_after_fork)

    @property
    def url(self) -> str:
        """Address of the page, as a client of this machine reaches it."""
        host = self.host.strip("[]")
        if is_unspecified(host):
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> str:
        """Serve from a thread of this process and return the address."""
        self._thread = threading.Thread(target=self._serve, name="otel-progress-server", daemon=True)
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            time.sleep(0.005)
        return self.url

    def run(self) -> None:
        """Serve from the main thread until SIGTERM or SIGINT, then end all streams and return."""
        with self._signals():
            self._serve()

    def close(self, timeout: float = 5.0) -> None:
        """End all streams, stop answering and free the port, within ``timeout`` seconds. Can be called again.

        What is not over by then is cut off at once, by the thread that serves.
        """
        if self._pid != os.getpid():
            self.give_up_after_fork()
            return
        self._uvicorn.should_exit = True
        self.hub.close()
        if self._thread is not None:
            self._thread.join(max(0.0, timeout))
            if self._thread.is_alive():  # it closes the socket itself, now without waiting for anybody
                self._uvicorn.force_exit = True
                return
        self._socket.close()

    def give_up_after_fork(self) -> None:
        """In a forked child, let go of the inherited connections, which would stay open for their clients as long as the child lives.

        Their numbers are kept in use, as the parent's objects, which are here as well, will close them some day.
        """
        sockets: list[Any] = [self._socket]
        for connection in list(self._uvicorn.server_state.connections):
            transport = getattr(connection, "transport", None)
            sockets.append(None if transport is None else transport.get_extra_info("socket"))
        nothing = os.open(os.devnull, os.O_RDWR)
        for sock in sockets:
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):
                    os.dup2(nothing, sock.fileno(), inheritable=False)
        os.close(nothing)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        asyncio.run(self._uvicorn.serve(sockets=[self._socket]))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """End cleanly on a signal. uvicorn's own handlers would raise it again in the end, and the exit code would tell of a death."""

        def end(number: int, frame: FrameType | None) -> None:
            del frame
            if self._uvicorn.should_exit and number == signal.SIGINT:
                self._uvicorn.force_exit = True
            self._uvicorn.should_exit = True

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Uvicorn(uvicorn.Server):
    """uvicorn, but signals are not its business, and streams end before the connections do."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell every client that this is the end, give them a moment to hear it, then close all connections."""
        for server in self.servers:
            server.close()
        self._hub.close()
        for _ in range(10 * GRACE_S):
            if self.force_exit or not self._hub.followers:
                break
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _config(app: Any, root_path: str, limits: ConnectionLimits, counts: ServerCounters) -> uvicorn.Config:
    http, ws = protocols(limits, counts)
    return uvicorn.Config(
        app,
        http=http,
        ws=ws,
        loop="asyncio",
        lifespan="on",
        log_config=None,  # logging belongs to the application, which may run a uvicorn of its own
        root_path=root_path,
        proxy_headers=False,
        server_header=False,
        ws_max_size=_MOST_MESSAGE,
        ws_per_message_deflate=False,  # costs more than it saves on one machine, and memory for each client
        ws_ping_interval=10.0,
        ws_ping_timeout=20.0,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=GRACE_S,
    )


def _bind(host: str, port: int) -> socket.socket:
    name = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise ConfigurationError(_describe_bind_error(exc, host, port)) from exc
    try:
        if os.name != "nt":  # there it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as exc:
        sock.close()
        raise ConfigurationError(_describe_bind_error(exc, host, port)) from exc
    return sock


def _describe_bind_error(error: Exception, host: str, port: int) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use: stop what listens on it, or use another port, or 0 for a free one."
    if code == errno.EACCES:
        return f"Port {port} of {host} needs rights that this process does not have: use one from 1024 up, or 0 for a free one."
    return f"Nothing can be served on {host!r}, port {port} ({error}): the host has to be an address of this machine."
