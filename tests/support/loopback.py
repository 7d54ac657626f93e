"""A loopback address per process, so that parallel tests cannot take its ports."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack


def own_host() -> str:
    """Return a loopback address of this process only, or 127.0.0.1."""
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
    """Return different TCP ports of ``host`` without a listener."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def listens(host: str, port: int) -> bool:
    """Return whether a server accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
