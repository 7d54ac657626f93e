"""A loopback address of one process's own: ports there are not taken in between by tests that run beside it."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack


def own_host() -> str:
    """Return a loopback address that no other process of the tests uses; 127.0.0.1 where there is but one."""
    pid = os.getpid()
    host = f"127.{1 + (pid >> 16) % 254}.{pid >> 8 & 255}.{pid & 255}"
    if sys.platform != "linux":
        return "127.0.0.1"
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return "127.0.0.1"
    return host


def free_ports(host: str, count: int) -> list[int]:
    """Return different TCP ports of ``host`` that nothing listens on at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def listens(host: str, port: int) -> bool:
    """Tell whether something takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
