"""Client of the update server. It imports little, because its processes are short.

A request is a line of JSON, and so is the reply. The server replies after it has applied the
change. A request has an id, so a repeated one is applied once.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

ADDRESS_VARIABLE = "OTEL_PROGRESS_UPDATES"
"""Environment variable with the address of the server."""


PARENT_VARIABLE = "OTEL_PROGRESS_PARENT"
"""Environment variable with the level to which a request is relative."""


TIMEOUT_S = 10.0
"""Seconds in which the server has to reply. Beyond it the request fails."""


MAX_REPLY_BYTES = 1_048_576
"""Bytes of a reply. A longer reply is an error."""


MAX_TEXT_CHARACTERS = 4097
"""Characters of a text that are sent. The receiver truncates texts further, or rejects them."""


_RETRY_S = 0.05
"""Seconds between two attempts."""


class UpdateError(Exception):
    """The request was rejected or could not be delivered."""


class UnavailableServerError(UpdateError):
    """There is no server: no address, or its process has ended."""


class UpdateClient:
    """Connection to the update server of an environment.

    Use it in ``with``. Raises UnavailableServerError without an address.
    """

    def __init__(self, environ: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> None:
        self._address = environ.get(ADDRESS_VARIABLE, "")
        self._parent = environ.get(PARENT_VARIABLE, "")
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        if not self._address:
            raise UnavailableServerError(
                "No operation receives this update: expected to run below a command of otel-progress. "
                "Start it with: otel-progress run -- COMMAND, or add --if-available to ignore this."
            )

    def __enter__(self) -> UpdateClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(self, action: str, **values: Any) -> dict[str, Any]:
        """Send a request and return the reply. None values are left out.

        A request without a reply is repeated until the timeout. Raises UpdateError.
        """
        message = {
            key: value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else value
            for key, value in values.items()
            if value is not None
        }
        message.update(action=action, request=os.urandom(12).hex(), parent=self._parent)
        line = json.dumps(message).encode("ascii") + b"\n"
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                reply = self._exchange(line, deadline)
                break
            except (ConnectionRefusedError, FileNotFoundError) as error:
                raise self._build_unavailable_error() from error
            except OSError as error:
                self.close()
                if time.monotonic() + _RETRY_S >= deadline:
                    msg = (
                        f"The update was not confirmed within {self._timeout_s:g} s "
                        f"({error.strerror or type(error).__name__}). It may have been applied."
                    )
                    raise UpdateError(msg) from error
                time.sleep(_RETRY_S)
        if not reply.get("ok"):
            raise UpdateError(str(reply.get("error") or "The update was rejected."))
        return reply

    def request_end(self, environment: Mapping[str, str], status: str, message: str | None) -> None:
        """End a level. ``environment`` is that of the reply to its start."""
        parent, self._parent = self._parent, environment.get(PARENT_VARIABLE, "")
        try:
            self.request("end", status=status, message=message)
        finally:
            self._parent = parent

    def _exchange(self, line: bytes, deadline: float) -> dict[str, Any]:
        if self._socket is None:
            self._socket = connect(self._address, max(_RETRY_S, deadline - time.monotonic()))
        self._socket.settimeout(max(_RETRY_S, deadline - time.monotonic()))
        self._socket.sendall(line)
        data = b""
        while not data.endswith(b"\n"):
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise ConnectionResetError("closed by the receiver")
            data += chunk
            if len(data) > MAX_REPLY_BYTES:
                raise UpdateError("Invalid reply: expected at most 1 MiB. Check the address.")
        try:
            reply = json.loads(data)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise UpdateError("Invalid reply: expected a JSON object. Check the address.")
        return reply

    def _build_unavailable_error(self) -> UnavailableServerError:
        return UnavailableServerError(
            "No operation receives this update: its command, which otel-progress run started, has ended. "
            "Update before that, or add --if-available to ignore this."
        )


def connect(address: str, timeout_s: float) -> socket.socket:
    """Return a connection to ``unix:PATH`` or ``tcp:HOST:PORT:TOKEN``.

    Raises OSError, or UpdateError if the address is invalid.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest and hasattr(socket, "AF_UNIX"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(rest)
        except BaseException:
            connection.close()
            raise
        return connection
    host, _, port_and_token = rest.partition(":")
    port, _, token = port_and_token.partition(":")
    if scheme != "tcp" or not host or not port.isdigit() or not token:
        msg = (
            f"Invalid {ADDRESS_VARIABLE}: expected unix:PATH or tcp:HOST:PORT:TOKEN. "
            "Only otel-progress run sets it."
        )
        raise UpdateError(msg)
    connection = socket.create_connection((host, int(port)), timeout_s)
    connection.sendall(token.encode("ascii", "replace") + b"\n")
    return connection
