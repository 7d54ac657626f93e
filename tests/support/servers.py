"""Real servers for tests, started on a free loopback port, stopped by pid."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

REQUIRED = "OTEL_PROGRESS_TEST_REQUIRE_SERVERS"
"""Set to 1, a missing program fails the test instead of skipping it."""
START_TIMEOUT_S = 30.0
"""Deadline for a server to become ready."""

_FIRST_PORT, _PORTS, _WORKERS = 20_000, 700, 16
_number = itertools.count(os.getpid())

T = TypeVar("T")


def require(binary: str) -> str:
    """Return the path of a program.

    Without it, skip the test, or fail if the environment requires servers.
    """
    found = shutil.which(
        binary, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    )
    if found is not None:
        return found
    reason = f"{binary} is not installed: this test runs the real one"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1")
    pytest.skip(reason)


def free_port() -> int:
    """Return a loopback TCP port without a listener.

    It is outside of the range from which the system assigns ports (on Linux from 32,768), in a
    range of this xdist worker, and differs from the previous one. So no other program takes it
    before the server starts.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS
    for _ in range(_PORTS):
        port = _FIRST_PORT + worker * _PORTS + next(_number) % _PORTS
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port of the loopback address is free")


def accepts(port: int) -> bool:
    """Return whether a server accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Return whether a GET of ``url`` succeeds now."""
    try:
        with urllib.request.urlopen(url, timeout=START_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, reset, or an error response
        return False


def poll(ask: Callable[[], T | None], timeout: float = START_TIMEOUT_S, what: str = "an answer") -> T:
    """Return the first true result of ``ask``.

    Fail the test after ``timeout`` seconds.
    """
    # Generous, because the machine may be busy.
    timeout = max(timeout, START_TIMEOUT_S)
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} within {timeout:g} s")
        time.sleep(0.05)


@contextmanager
def running(
    command: Sequence[str],
    *,
    ready: Callable[[], object],
    log: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = START_TIMEOUT_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block, from the time ``ready()`` is true.

    Its output is written to the file ``log``. If it ends early or is not ready in time, the test
    fails with the end of that output. It is stopped by its pid.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
        )
    try:
        _wait(process, ready, log, timeout)
        yield process
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], object], log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            why = f"ended with {ended}" if ended is not None else f"was not ready within {timeout:g} s"
            tail = log.read_text(errors="replace")[-2000:]
            pytest.fail(f"{process.args!r} {why}:\n{tail}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
