"""Processes of the alerting tests: worker, server, Prometheus and Alertmanager."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.alerting.fast_configuration import write_alertmanager
from tests.support.journals import make_journal
from tests.support.listen_address import ANY, find_port, is_ready
from tests.support.programs import PROGRAMS
from tests.support.servers import accepts, require, running


class Alertmanager:
    """A running Alertmanager and its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._url = f"http://127.0.0.1:{port}/api/v2/alerts"

    def post(self, *alerts: dict[str, str]) -> None:
        """Raise alerts with these labels."""
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()

    def inhibited(self) -> dict[str, bool]:
        """Return whether each alert is inhibited, by its label ``case``."""
        with urllib.request.urlopen(self._url, timeout=60) as answer:
            found = json.load(answer)
        return {
            one["labels"]["case"]: bool(one["status"]["inhibitedBy"])
            for one in found
            if "case" in one["labels"]
        }


@contextmanager
def alertmanager(folder: Path, webhook: int) -> Iterator[Alertmanager]:
    """Run Alertmanager with the shipped configuration and the port ``webhook``."""
    log = folder / "alertmanager.log"
    command = [
        require("prometheus-alertmanager"),
        f"--config.file={write_alertmanager(folder, webhook)}",
        f"--storage.path={folder / 'alertmanager'}",
        ANY,
        "--cluster.listen-address=",
    ]
    with running(command, ready=lambda: is_ready(log), log=log):
        port = find_port(log)
        assert port is not None
        yield Alertmanager(port)


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[None]:
    """Run Prometheus with that configuration."""
    log = folder / "prometheus.log"
    command = [
        require("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        ANY,
        # Prometheus finds Alertmanager some seconds after the start. Earlier alerts are sent again
        # after this time (default: one minute).
        "--rules.alert.resend-delay=1s",
    ]
    with running(command, ready=lambda: is_ready(log), log=log):
        yield


@contextmanager
def serving_journal(store: str, token_file: Path, folder: Path) -> Iterator[int]:
    """Run `otel-progress serve` on the journal ``store`` and yield its port."""
    make_journal(store)
    log = folder / "server.log"
    serve = ["serve", "--port", "0", "--token-file", str(token_file)]
    command = [sys.executable, "-u", "-m", "otel_progress", "--store", store, *serve]

    def read_port() -> int | None:
        found = re.search(r"http://127\.0\.0\.1:([0-9]+)/", log.read_text(encoding="utf-8", errors="replace"))
        return int(found[1]) if found else None

    with running(command, ready=lambda: (port := read_port()) is not None and accepts(port), log=log):
        port = read_port()
        assert port is not None
        yield port


@contextmanager
def working(id: str, store: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the stalling worker with a pipe to its stdin.

    Yield it with its metrics port.
    """
    command = [sys.executable, str(PROGRAMS / "stalling_worker.py"), id, store]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()
