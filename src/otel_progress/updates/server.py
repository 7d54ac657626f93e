"""Server of updates, on a Unix socket or on a loopback port with a token."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import selectors
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.updates.requests import MAX_REQUEST_BYTES, InvalidRequestError, parse_request

if TYPE_CHECKING:
    from otel_progress.updates.requests import UpdateRequest


MAX_CONNECTIONS: Final = 400
"""Open connections. Further ones wait in the queue of the system until one is closed."""


MAX_BOUND_LEVELS: Final = 300
"""Levels that end with their connection. Further ones are rejected, so that updates get through."""


MAX_SOCKET_PATH_BYTES: Final = 100
"""Bytes of the path of a Unix socket, which systems limit. A longer one is not used."""


IDLE_S: Final = 10.0
"""Seconds after which a connection without a complete request is closed."""


CLOSE_S: Final = 2.0
"""Seconds for the requests that have arrived when the server closes. Others are rejected."""


_BACKLOG: Final = 128


_IDLE_ROUNDS: Final = 5
_ROUND_S: Final = 0.05
"""Rounds without a request, and their seconds, after which a closing server ends."""


class _Connection:
    """One client: its buffer, and the level that ends with it."""

    __slots__ = ("active_at", "buffer", "is_authorized", "level", "socket")

    def __init__(self, connection: socket.socket, is_authorized: bool) -> None:
        self.socket = connection
        self.buffer = bytearray()
        self.is_authorized = is_authorized
        self.level: str | None = None
        self.active_at = time.monotonic()


class UpdateServer:
    """Context manager that serves updates in a thread of its own.

    ``apply`` returns the reply to a request or raises InvalidRequestError. ``end_abandoned``
    receives the path of a level whose connection was closed before its end. ``end_remaining`` is
    called after the last request.
    """

    def __init__(
        self,
        apply: Callable[[UpdateRequest], dict[str, Any]],
        end_abandoned: Callable[[str], None],
        end_remaining: Callable[[], None] = lambda: None,
        *,
        uses_unix_socket: bool = hasattr(socket, "AF_UNIX"),
        max_connections: int = MAX_CONNECTIONS,
        max_bound_levels: int = MAX_BOUND_LEVELS,
    ) -> None:
        self._max_connections = max_connections
        self._max_bound_levels = max_bound_levels
        self._apply = apply
        self._end_abandoned = end_abandoned
        self._end_remaining = end_remaining
        self._folder: Path | None = None
        self._token: bytes | None = None
        self._is_closing = False
        self._pid = os.getpid()
        self._connections: dict[int, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self.address = ""
        self._listener = self._listen(uses_unix_socket)
        self._listener.setblocking(False)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="otel-progress updates", daemon=True)

    def _listen(self, uses_unix_socket: bool) -> socket.socket:
        if uses_unix_socket:
            self._folder = Path(tempfile.mkdtemp(prefix="otel-progress-"))
            path = str(self._folder / "updates")
            if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    listener.bind(path)
                    listener.listen(_BACKLOG)
                except OSError:
                    listener.close()
                else:
                    self.address = f"unix:{path}"
                    return listener
            self._remove_folder()
        token = secrets.token_hex(16)
        self._token = token.encode("ascii")
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.address = f"tcp:127.0.0.1:{listener.getsockname()[1]}:{token}"
        return listener

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()

    def __enter__(self) -> UpdateServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Apply the requests that have arrived, then close, within CLOSE_S seconds."""
        if self._pid != os.getpid():
            # Why: in a forked child it is the server of the parent.
            return
        self._is_closing = True
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"x")
        self._thread.join(CLOSE_S + 1)
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._serve_once(1.0)
            self._close_gracefully()
        except Exception as error:
            report_internal_error("server", "Updates of other processes are not received", error=error)
        finally:
            for connection in list(self._connections.values()):
                # Why: its process may be alive, so the level has not failed.
                connection.level = None
                self._drop(connection)
            self._end_remaining_levels()
            self._selector.close()
            for each in (self._listener, self._wake_reader, self._wake_writer):
                each.close()

    def _end_remaining_levels(self) -> None:
        try:
            self._end_remaining()
        except Exception as error:
            report_internal_error("server", "Levels of other processes were not ended", error=error)

    def _close_gracefully(self) -> None:
        """Serve what has arrived. A client that connects later finds no server."""
        # Why first: a client either is in the queue now, or is refused.
        self._remove_folder()
        deadline = time.monotonic() + CLOSE_S
        idle_rounds = 0
        while idle_rounds < _IDLE_ROUNDS and time.monotonic() < deadline:
            # Why: a client that has connected may be about to send its request.
            is_expecting = any(connection.level is None for connection in self._connections.values())
            has_served = self._serve_once(_ROUND_S if is_expecting else 0.0)
            idle_rounds = 0 if has_served else idle_rounds + 1

    def _serve_once(self, timeout_s: float) -> bool:
        """Handle all sockets that are ready. Return False if there was none."""
        events = self._selector.select(timeout_s)
        has_served = False
        for key, _ in events:
            if key.fileobj is self._listener:
                self._accept()
                has_served = True
            elif key.fileobj is self._wake_reader:
                with contextlib.suppress(OSError):
                    self._wake_reader.recv(16)
            else:
                self._read(key.data)
                has_served = True
        self._close_idle_connections()
        return has_served

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        connection = _Connection(client, self._token is None)
        self._connections[client.fileno()] = connection
        self._selector.register(client, selectors.EVENT_READ, connection)
        if len(self._connections) >= self._max_connections:
            self._selector.unregister(self._listener)

    def _drop(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if self._connections.pop(number, None) is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.socket.close()
        if len(self._connections) == self._max_connections - 1:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.register(self._listener, selectors.EVENT_READ)
        if connection.level is not None:
            self._end_abandoned(connection.level)

    def _close_idle_connections(self) -> None:
        oldest = time.monotonic() - IDLE_S
        idle = [
            connection
            for connection in self._connections.values()
            if connection.level is None and connection.active_at < oldest
        ]
        for connection in idle:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.buffer += data
        while b"\n" in connection.buffer:
            line, _, rest = bytes(connection.buffer).partition(b"\n")
            connection.buffer = bytearray(rest)
            if not self._handle_line(connection, line):
                self._drop(connection)
                return
        if len(connection.buffer) > MAX_REQUEST_BYTES:
            self._reply(connection, {"ok": False, "error": "Invalid request: expected at most 64 KiB."})
            self._drop(connection)

    def _handle_line(self, connection: _Connection, line: bytes) -> bool:
        """Handle one request. Return False if the connection has to be closed."""
        if not connection.is_authorized:
            connection.is_authorized = hmac.compare_digest(line.strip(), self._token or b"")
            return connection.is_authorized
        connection.active_at = time.monotonic()
        try:
            request = parse_request(line)
            if request.is_bound and connection.level is None:
                self._check_bound_levels()
            reply = self._apply(request)
            if request.action == "start" and request.is_bound:
                self._bind(connection, reply["path"])
            elif request.action == "end" and reply["path"] == connection.level:
                connection.level = None
        except InvalidRequestError as error:
            reply = {"ok": False, "error": str(error)}
        except Exception as error:
            report_internal_error("server", "An update of another process failed", error=error)
            reply = {"ok": False, "error": "The update failed. See the log of otel-progress run."}
        return self._reply(connection, reply)

    def _check_bound_levels(self) -> None:
        if sum(other.level is not None for other in self._connections.values()) >= self._max_bound_levels:
            raise InvalidRequestError(
                f"Invalid level: expected at most {self._max_bound_levels} levels with a command at the same "
                "time. Run fewer commands in parallel."
            )

    def _bind(self, connection: _Connection, path: str) -> None:
        """End a level with its connection."""
        for other in self._connections.values():
            if other.level == path:  # the client has repeated its request
                other.level = None
        connection.level = path

    def _reply(self, connection: _Connection, reply: dict[str, Any]) -> bool:
        try:
            # Why no queue: a reply is small, so it fits into the buffer of a new socket.
            connection.socket.sendall(json.dumps(reply).encode("ascii") + b"\n")
        except OSError:
            return False
        return True
