"""Real Redis servers for tests, on a free loopback port, stopped by pid."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers import START_TIMEOUT_S, free_port, poll, require

_names = itertools.count()


class RedisServer:
    """A server that a test can stop, suspend and start again with its data."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, is_ready: bool = True) -> None:
        """Start the server, and wait until it answers."""
        command = [
            require("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.folder), "--save", "", "--enable-debug-command", "yes", *self.options,
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        if is_ready:
            poll(self.answers, what="an answer of the server")

    def connect(self, **options: Any) -> redis.Redis:
        """Return a client of the test."""
        given = {"socket_timeout": 10, "retry": Retry(NoBackoff(), 0), **options}
        return redis.Redis(host="127.0.0.1", port=self.port, **given)

    def answers(self) -> bool:
        """Return whether the server answers now."""
        try:
            with self.connect(socket_timeout=1) as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ResponseError as error:
            return "NOAUTH" in str(error)
        except redis.RedisError:
            return False
        return True

    def execute(self, *words: Any) -> Any:
        """Execute a command of the test."""
        with self.connect() as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """Kill the server without a warning."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def suspend(self) -> None:
        """Stop the execution of the server, which keeps its connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a suspended server."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server, also a suspended one."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.resume()
        self.process.terminate()
        try:
            self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a server for the length of the block."""
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def create_name() -> str:
    """Return the name of a journal that no other test uses."""
    return f"test-{os.getpid()}-{next(_names)}"
