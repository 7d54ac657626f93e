"""Programs that run under ``opentelemetry-instrument``, and their outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import free_port, poll

LIMIT_S = 60.0
COMMAND = Path(sys.executable).with_name("opentelemetry-instrument")

FILE = """
file_format: "1.1"
resource: {attributes: [{name: service.name, value: nightly}]}
tracer_provider:
  processors:
    - simple: {exporter: {otlp_http: {endpoint: "ENDPOINT/v1/traces"}}}
  sampler: {SAMPLER: }
instrumentation/development:
  python: {progress: {OPTIONS}}
"""


def build_environ(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a program: no exporters, and state in ``folder``."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONWARNINGS": "default",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        **variables,
    }


def export_to(port: int) -> dict[str, str]:
    """Return variables that export all signals to a receiver."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
    }


def write_file(
    folder: Path, *, port: int = 1, options: str = "", sampler: str = "always_on"
) -> dict[str, str]:
    """Write a configuration file. Return the variable that names it."""
    pytest.importorskip("opentelemetry.configuration", reason="the declarative configuration is optional")
    text = FILE.replace("ENDPOINT", f"http://127.0.0.1:{port}")
    path = folder / "otel.yaml"
    path.write_text(text.replace("OPTIONS", options).replace("SAMPLER", sampler), encoding="utf-8")
    return {"OTEL_CONFIG_FILE": str(path)}


def write_program(folder: Path, text: str) -> Path:
    """Write a program."""
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    return path


def run(program: Path, environ: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. It must succeed."""
    done = subprocess.run(
        [str(COMMAND), *options, sys.executable, str(program)],
        capture_output=True,
        text=True,
        env=dict(environ),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


class LiveProgram:
    """A running program that serves the page and the metrics."""

    def __init__(self, process: subprocess.Popen[str], page: int, metrics: int) -> None:
        self.process = process
        self.page = page
        self.metrics = metrics

    def get_json(self, path: str) -> Any:
        """Return a document of the REST API."""
        return json.loads(self._get(f"http://127.0.0.1:{self.page}/api/v1/{path}"))

    def scrape(self) -> str:
        """Return the text for Prometheus."""
        return self._get(f"http://127.0.0.1:{self.metrics}/metrics")

    def wait_for_operation(self, operation_type: str) -> dict[str, Any]:
        """Wait until an operation of a type is active. Return its document."""
        found: list[dict[str, Any]] = []

        def is_active() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            try:
                operations = self.get_json("operations")["operations"]
            except OSError:
                return False
            found[:] = [one for one in operations if one["operation_type"] == operation_type]
            return bool(found)

        poll(is_active, LIMIT_S, "an active operation")
        return found[0]

    def finish(self) -> None:
        """Let the program end."""
        output, errors = self.process.communicate("\n" * 10, timeout=LIMIT_S)
        assert self.process.returncode == 0, (output, errors)

    def _get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return str(answer.read().decode())


@contextmanager
def running_live(program: Path, environ: Mapping[str, str]) -> Iterator[LiveProgram]:
    """Run a program that reads a line per step, with the page and the metrics."""
    page, metrics = free_port(), free_port()
    ports = {"OTEL_PROGRESS_SERVER_PORT": str(page), "OTEL_PROGRESS_PROMETHEUS_PORT": str(metrics)}
    with subprocess.Popen(
        [str(COMMAND), sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, **ports},
    ) as process:
        try:
            yield LiveProgram(process, page, metrics)
        finally:
            process.kill()
