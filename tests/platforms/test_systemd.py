"""systemd: status and watchdog on a real datagram socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.model import Eta, Status
from otel_progress.platforms.report import EndedOperations, PlatformReport, build_report
from otel_progress.platforms.systemd import (
    SystemdPlatform,
    format_status,
    read_watchdog_s,
    stop_watchdogs,
)
from tests.support.factories import CLOCK, ended, operation, snapshot
from tests.support.platform_servers import service_manager

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("the service manager has a Unix socket", allow_module_level=True)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of the service manager, and the variables of a service."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with service_manager(path) as bound:
        yield bound
    stop_watchdogs()
    for thread in threading.enumerate():
        if thread.name == "otel-progress-watchdog":
            thread.join(30.0)


def receive(manager: socket.socket, start: str) -> str:
    """Return the next message with a line that starts with a text."""
    while True:
        for line in manager.recv(4096).decode().splitlines():
            if line.startswith(start):
                return line


def report(
    *roots: progress.LevelSnapshot, clock: float = CLOCK + 60.0, final: bool = False
) -> PlatformReport:
    """Return the report of operations."""
    every = [operation(root, clock=clock) for root in roots]
    done = EndedOperations().add([each for each in every if each.status.finished])
    return build_report([each for each in every if not each.status.finished], done, is_final=final)


def test_service_without_work_keeps_its_watchdog(manager: socket.socket) -> None:
    """Also after a shutdown of the recording, until the next configuration."""
    for _ in range(2):
        with progress.configure(store="memory:", console=False, otlp=False, report_to=["systemd"]):
            assert manager.recv(4096) == b"WATCHDOG=1"
            assert manager.recv(4096) == b"WATCHDOG=1"
    for _ in range(3):
        assert manager.recv(4096) == b"WATCHDOG=1"


def test_status_follows_the_work(manager: socket.socket) -> None:
    with progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="auto"):
        with progress.operation("import", "daily import", total=4) as op:
            assert receive(manager, "STATUS=").startswith("STATUS=daily import 0/4 (0 %)")
            op.increment(4)
        progress.flush()
    assert receive(manager, "STATUS=daily import 4/4") == "STATUS=daily import 4/4 (100 %), completed"


def test_watchdog_is_withheld_only_while_all_work_is_stalled(manager: socket.socket) -> None:
    stalled = snapshot(run="a", advanced_at=0.0, advanced_clock=CLOCK, stall_after_s=30.0)
    active = snapshot(run="b", started_at=1.0, advanced_clock=CLOCK + 60.0)
    platform = SystemdPlatform(dict(os.environ))
    manager.setblocking(False)
    assert platform.send(report(stalled)) == pytest.approx(0.05)
    assert manager.recv(4096) == b"STATUS=Name of friday-42, stalled"
    platform.send(report(stalled))
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    platform.send(report(stalled, active))
    assert manager.recv(4096).splitlines()[-1] == b"WATCHDOG=1"
    platform.send(report())
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_full_queue_of_the_socket_does_not_block(manager: socket.socket) -> None:
    platform = SystemdPlatform(dict(os.environ))
    for number in range(200):
        platform.send(report(snapshot(current=number, total=1_000)))
    received = []
    manager.setblocking(False)
    try:
        while True:
            received.append(manager.recv(4096))
    except BlockingIOError:
        pass
    assert 0 < len(received) < 200
    platform.send(report(snapshot(current=199, total=1_000)))
    assert b"199/1000" in manager.recv(4096)


def test_manager_that_is_gone_is_an_error(manager: socket.socket) -> None:
    platform = SystemdPlatform(dict(os.environ))
    manager.close()
    with pytest.raises(ConnectionRefusedError):
        platform.send(report())


def test_abstract_socket_is_supported() -> None:
    address = f"@otel-progress-test-{os.getpid()}"
    with service_manager(address) as bound:
        SystemdPlatform({"NOTIFY_SOCKET": address}).send(report(snapshot(current=1, total=2)))
        assert bound.recv(4096).startswith(b"STATUS=Name of friday-42 1/2")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
    # Why: the id of the process would differ between the processes that run the tests.
    ids=["any", "this", "other", "zero", "text", "empty"],
)
def test_watchdog_of_another_process_is_ignored(usec: str, pid: str, expected: float | None) -> None:
    assert read_watchdog_s({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}) == expected


@pytest.mark.parametrize(
    ("roots", "expected"),
    [
        ([snapshot(current=3)], "Name of friday-42 3"),
        ([snapshot(name="a\nWATCHDOG=1")], "a\\nWATCHDOG=1"),
        ([ended(current=4, total=4)], "Name of friday-42 4/4 (100 %), completed"),
        ([ended(status=Status.FAILED)], "Name of friday-42, failed"),
        ([snapshot(run="a"), snapshot(run="b")], "Name of friday-42, 1 more running"),
    ],
)
def test_status_is_one_line(roots: list[progress.LevelSnapshot], expected: str) -> None:
    assert format_status(report(*roots, clock=CLOCK)) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "any moment"), (0.6, "about 1 s left")])
def test_status_has_the_remaining_time(seconds: float, expected: str) -> None:
    eta = Eta(seconds, None, None, "estimated", "rate", 0, CLOCK)
    assert format_status(report(snapshot(eta=eta), clock=CLOCK)) == f"Name of friday-42, {expected}"
