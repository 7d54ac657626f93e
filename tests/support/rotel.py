"""A running collector (rotel) that forwards all signals to an OTLP endpoint."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support import loopback, servers

_START_S = 60.0


def find_rotel() -> str:
    """Return the path of the collector's binary in its package.

    It needs the shared library of the interpreter it was made for: where that is missing it is as
    good as not installed.
    """
    result = importlib.util.find_spec("rotel")
    binary = Path(result.origin).with_name("rotel-agent") if result is not None and result.origin else None
    if (
        binary is not None
        and subprocess.run([str(binary), "--version"], capture_output=True, check=False).returncode == 0
    ):
        return str(binary)
    return servers.require("rotel-agent")


@contextmanager
def running_rotel(folder: Path, endpoint: str) -> Iterator[Mapping[str, str]]:
    """Run a collector for the length of the block. Yield its endpoints by protocol."""
    host = loopback.own_host()
    grpc, http = loopback.free_ports(host, 2)
    command = [
        find_rotel(),
        "start",
        *("--otlp-grpc-endpoint", f"{host}:{grpc}"),
        *("--otlp-http-endpoint", f"{host}:{http}"),
        *("--exporter", "otlp"),
        *("--otlp-exporter-protocol", "http"),
        *("--otlp-exporter-endpoint", endpoint),
        *("--batch-timeout", "50ms"),
        *("--pid-file", str(folder / "rotel.pid")),
        *("--log-file", str(folder / "rotel.log")),
    ]

    def ready() -> bool:
        return all(loopback.listens(host, one) for one in (grpc, http))

    with servers.running(command, ready=ready, log=folder / "out", timeout=_START_S):
        yield {"grpc": f"http://{host}:{grpc}", "http/protobuf": f"http://{host}:{http}"}
