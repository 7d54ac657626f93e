"""systemd: the status of the service, and its watchdog.

The status is shown by ``systemctl status``. With ``WatchdogSec=`` in the unit, systemd restarts a
service that does not report in time. Reports are withheld only while work is running and all of it
is stalled. So a service without work is not restarted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Mapping
from typing import Final

from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.platforms.report import (
    PlatformReport,
    format_counts,
    format_seconds,
    get_percentage,
)
from otel_progress.semconv import SinkName
from otel_progress.suppression import run_suppressed
from otel_progress.text import escape_controls, truncate

SOCKET: Final = "NOTIFY_SOCKET"


WATCHDOG: Final = "WATCHDOG_USEC"


_WATCHDOG_PID: Final = "WATCHDOG_PID"


_WATCHDOG_SHARE: Final = 3.0
"""Reports to the watchdog per time limit. Why 3: one may be late or lost."""


_MAX_STATUS: Final = 200
"""Longest status. Longer ones are cut."""


_keepers: Final[list[threading.Event]] = []
"""Stops the watchdog of an earlier configuration, which was shut down."""


class SystemdPlatform:
    """Sends ``STATUS=`` and ``WATCHDOG=1`` to the socket of the service manager."""

    name: SinkName = "platforms.systemd"
    interval_s = 1.0

    def __init__(self, environ: Mapping[str, str]) -> None:
        stop_watchdogs()
        self._address = environ[SOCKET]
        watchdog_s = read_watchdog_s(environ)
        self._repeat_s = None if watchdog_s is None else watchdog_s / _WATCHDOG_SHARE
        self.is_always_active = watchdog_s is not None
        self._status = ""

    def send(self, report: PlatformReport) -> float | None:
        """Send a changed status, and a report to the watchdog unless all is stalled."""
        status = "" if report.operation is None else format_status(report)
        messages = [] if status in ("", self._status) else [f"STATUS={status}"]
        if self._repeat_s is not None and not report.is_stalled:
            messages.append("WATCHDOG=1")
        if messages and self._notify("\n".join(messages)):
            self._status = status or self._status
        if report.is_final and self._repeat_s is not None:
            self._keep_watchdog(self._repeat_s)
        return self._repeat_s

    def _notify(self, text: str) -> bool:
        """Send a datagram. Return False if the queue is full. Raises OSError."""
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            try:
                client.sendto(text.encode(), address)
            except BlockingIOError:
                # The next report includes it.
                return False
        return True

    def _keep_watchdog(self, repeat_s: float) -> None:
        """Continue the reports to the watchdog after a shutdown.

        Why: the process may continue without recorded work. The end of the process ends the thread.
        """
        stopped = threading.Event()

        def run_watchdog() -> None:
            while not stopped.wait(repeat_s):
                with contextlib.suppress(OSError):
                    self._notify("WATCHDOG=1")

        thread = threading.Thread(
            target=run_suppressed(run_watchdog), name="otel-progress-watchdog", daemon=True
        )
        _keepers.append(stopped)
        # Why suppress: no thread starts while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            thread.start()


def stop_watchdogs() -> None:
    """Stop the watchdogs that earlier configurations continue."""
    while _keepers:
        _keepers.pop().set()


def read_watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return the time limit of the watchdog in seconds, or None without one.

    It may belong to another process of the service.
    """
    pid = environ.get(_WATCHDOG_PID, "").strip()
    text = environ.get(WATCHDOG, "").strip()
    if not text.isdecimal() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1_000_000


def has_watchdog(environ: Mapping[str, str]) -> bool:
    """Return True if the service manager expects reports of this process."""
    return bool(environ.get(SOCKET)) and read_watchdog_s(environ) is not None


def format_status(report: PlatformReport) -> str:
    """Return the status as a line: ``training 42/300 (14 %), about 5 min 2 s left``."""
    operation = report.operation
    assert operation is not None
    root = operation.root
    parts = [escape_controls(truncate(operation.name, 80))]
    counts = format_counts(root)
    percentage = get_percentage(operation)
    if counts:
        parts.append(counts)
    if percentage is not None:
        parts.append(f"({percentage} %)")
    text = " ".join(parts) + _format_state(operation)
    if report.running > 1:
        text += f", {report.running - 1} more running"
    return truncate(text, _MAX_STATUS)


def _format_state(operation: OperationSnapshot) -> str:
    if operation.status.finished:
        return f", {operation.status.value}"
    if operation.condition in (Condition.STALLED, Condition.PAUSED):
        return f", {operation.condition.value}"
    remaining_s = operation.remaining_seconds
    if remaining_s is None:
        return ""
    return ", any moment" if remaining_s < 0.5 else f", about {format_seconds(remaining_s)} left"
