"""Faults for the soak: TCP proxies, real servers, the network and file locks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

HOST: Final = "127.0.0.1"

Mode: TypeAlias = Literal["open", "refuse", "stall", "stall-requests", "stall-answers"]

_POLL_S: Final = 0.02
_CHUNK_BYTES: Final = 65_536
_START_S: Final = 60.0


def find_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Proxy:
    """TCP proxy to a port of the loopback address.

    Its mode cuts connections, or holds the data of one direction or both. The connections of a
    fault are reset at its end, so answers of executed requests are lost.
    """

    def __init__(self, target: int) -> None:
        self.port = find_port()
        self._target = target
        self._mode: Mode = "open"
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def set_mode(self, mode: Mode) -> None:
        """Start or end a fault."""
        before, self._mode = self._mode, mode
        if mode == "refuse" and self._listener is not None:
            listener, self._listener = self._listener, None
            listener.close()
        if mode == "refuse" or before != "open":
            with self._lock:
                connections, self._connections = self._connections, set()
            for connection in connections:
                _reset(connection)
        if mode != "refuse" and self._listener is None:
            self._listen()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(64)
        listener.settimeout(0.2)
        self._listener = listener

    def _accept(self) -> None:
        while True:
            listener = self._listener
            try:
                if listener is None:
                    raise OSError
                client, _ = listener.accept()
                client.settimeout(None)
            except OSError:
                time.sleep(_POLL_S)
                continue
            try:
                server = socket.create_connection((HOST, self._target), 5.0)
                server.settimeout(None)
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._connections |= {client, server}
            for pair in ((client, server, "stall-requests"), (server, client, "stall-answers")):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, stalled: Mode) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                while self._mode in {"stall", stalled}:
                    time.sleep(_POLL_S)
                target.sendall(data)
        for each in (source, target):
            with self._lock:
                self._connections.discard(each)
            with suppress(OSError):
                each.close()


def _reset(connection: socket.socket) -> None:
    """Close a connection with a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()


class ServerProcess:
    """Real server that can be killed, terminated, suspended and started again."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self._command = command
        self._port = port
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((HOST, self._port), 1.0):
                return
            time.sleep(_POLL_S)
        msg = f"{self._command[0]} did not start: {self._log.read_text()[-2000:]}"
        raise RuntimeError(msg)

    def send(self, number: int) -> None:
        """Send a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the server and wait for its exit."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Faults:
    """Random faults, one after the other, with a seed.

    ``counts`` are those that were made.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._faults: list[tuple[str, Callable[[float], None]]] = []
        self.counts: dict[str, int] = {}

    def add(self, name: str, fault: Callable[[float], None]) -> None:
        """Add a fault, a function of its duration in seconds."""
        self._faults.append((name, fault))
        self.counts[name] = 0

    def add_proxy(self, name: str, proxy: Proxy) -> None:
        """Add the faults of a proxy."""
        for mode in ("refuse", "stall", "stall-requests", "stall-answers"):
            self.add(f"{name} {mode}", lambda seconds, mode=mode: _hold(proxy, mode, seconds))

    def add_server(self, name: str, server: ServerProcess) -> None:
        """Add the faults of a server."""
        for number in (signal.SIGKILL, signal.SIGTERM):
            self.add(
                f"{name} {number.name}", lambda seconds, number=number: _restart(server, number, seconds)
            )
        self.add(f"{name} SIGSTOP", lambda seconds: suspend(server.send, seconds))

    def run(self, seconds: float) -> None:
        """Make faults for some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # Why not at random: each fault occurs, also in a short run.
            least = min(self.counts.values())
            rare = [fault for fault in self._faults if self.counts[fault[0]] == least]
            name, fault = self._random.choice(rare)
            fault(min(self._random.uniform(0.3, 6.0), max(0.3, deadline - time.monotonic())))
            self.counts[name] += 1
            time.sleep(self._random.uniform(0.2, 1.5))


def _hold(proxy: Proxy, mode: Mode, seconds: float) -> None:
    proxy.set_mode(mode)
    time.sleep(seconds)
    proxy.set_mode("open")


def _restart(server: ServerProcess, number: int, seconds: float) -> None:
    server.stop(number)
    time.sleep(seconds)
    server.start()


def suspend(send: Callable[[int], None], seconds: float) -> None:
    """Suspend a process for some time."""
    send(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        send(signal.SIGCONT)


def lock_journal(path: Path, seconds: float) -> None:
    """Lock an SQLite journal against all writers."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30.0)
    with suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    connection.close()


def cut_network(seconds: float) -> None:
    """Disable the loopback interface of this network namespace for some time."""
    _set_loopback("down")
    try:
        time.sleep(seconds)
    finally:
        _set_loopback("up")


def enter_network_namespace(arguments: Sequence[str]) -> bool:
    """Run the program again in a network namespace of its own, if permitted.

    Return True if this process is already in one. Does not return if it is replaced.
    """
    if os.environ.get("SOAK_NAMESPACE") == "1":
        _set_loopback("up")
        return True
    unshare, ip = shutil.which("unshare"), shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if unshare is None or ip is None:
        return False
    command = [unshare, "-rn", ip, "link", "set", "lo", "up"]
    permitted = subprocess.run(command, check=False, capture_output=True)
    if permitted.returncode:
        return False
    os.environ["SOAK_NAMESPACE"] = "1"
    os.execv(unshare, [unshare, "-rn", *arguments])
    return False


def _set_loopback(state: str) -> None:
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
    subprocess.run([ip, "link", "set", "lo", state], check=True)
