"""The real processes of the alerting tests: a worker, the server over its journal, Debian's Prometheus and Alertmanager."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rules.quick import write_alertmanager
from tests.servers import accepts, answers, free_port, poll, require, running


class Alertmanager:
    """A running Alertmanager, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"http://127.0.0.1:{port}/api/v2/alerts"

    def post(self, *alerts: dict[str, str]) -> None:
        """Raise alerts with these labels."""
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).close()

    def inhibited(self) -> dict[str, bool]:
        """Return whether each alert is inhibited, by its label ``case``."""
        with urllib.request.urlopen(self._url, timeout=5) as answer:
            found = json.load(answer)
        return {one["labels"]["case"]: bool(one["status"]["inhibitedBy"]) for one in found if "case" in one["labels"]}


@contextmanager
def alertmanager(folder: Path, webhook: int) -> Iterator[Alertmanager]:
    """Run Alertmanager with the shipped configuration, sending to the port ``webhook``."""
    binary, port = require("prometheus-alertmanager"), free_port()
    command = [
        binary,
        f"--config.file={write_alertmanager(folder, webhook)}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(command, ready=lambda: answers(f"http://127.0.0.1:{port}/-/ready"), log=folder / "alertmanager.log"):
        yield Alertmanager(port)


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[None]:
    """Run Prometheus with that configuration."""
    binary, port = require("prometheus"), free_port()
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Alertmanager is found some seconds after the start; what fires before is sent again after this time (a minute by default).
        "--rules.alert.resend-delay=1s",
    ]
    with running(command, ready=lambda: answers(f"http://127.0.0.1:{port}/-/ready"), log=folder / "prometheus.log"):
        yield


@contextmanager
def serving_journal(port: int, store: str, token_file: Path, folder: Path) -> Iterator[None]:
    """Run `otel-progress serve` over the journal at ``store``, asking for the token in that file."""
    serve = ["serve", "--port", str(port), "--token-file", str(token_file)]
    command = [sys.executable, "-m", "otel_progress", "--store", store, *serve]
    with running(command, ready=lambda: accepts(port), log=folder / "server.log"):
        yield


@contextmanager
def working(id: str, port: int, store: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the worker that stalls, with a pipe to its stdin, from the moment it serves metrics; it is killed by its own id."""
    command = [sys.executable, str(Path(__file__).with_name("stalling_worker.py")), id, str(port), store]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            poll(lambda: accepts(port), what="a worker with metrics")
            yield process
        finally:
            process.kill()
