"""Commands of the stack without Docker: token, health checks, server, worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
import yaml

from otel_progress import semconv
from tests.support import servers
from tests.support.listen_address import ANY, find_port, is_ready
from tests.support.otlp_receiver import receiving
from tests.support.redis_servers import running_redis
from tests.support.stack.files import DEPLOY, load, services

pytestmark = pytest.mark.stack

IMAGE = DEPLOY / "image"
WORKER = DEPLOY / "worker" / "worker.py"


def script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the image as its container does."""
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(),
    )


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a container: only given settings, no writable home."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {**plain, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", **more}


def test_token_is_created_at_the_first_start_only(tmp_path: Path) -> None:
    """The server accepts the token, and every installation has another one."""
    first, second = tmp_path / "a", tmp_path / "b"
    assert script(IMAGE / "make_token.py", str(first)).stdout.endswith(": created\n")
    token = first.read_text(encoding="ascii")
    assert len(token) == 43
    assert first.stat().st_mode & 0o777 == 0o444
    assert script(IMAGE / "make_token.py", str(first)).stdout.endswith(": exists\n")
    assert first.read_text(encoding="ascii") == token
    script(IMAGE / "make_token.py", str(second))
    assert second.read_text(encoding="ascii") != token
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_token_file_that_is_empty_is_replaced(tmp_path: Path) -> None:
    """A full disk may leave an empty file."""
    (tmp_path / "token").touch()
    assert script(IMAGE / "make_token.py", str(tmp_path / "token")).returncode == 0
    assert len((tmp_path / "token").read_text(encoding="ascii")) == 43


def test_health_check_without_a_server_fails() -> None:
    """The message has the URL."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # Why no listen(): no other process can listen on this port.
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/healthz"
        done = script(IMAGE / "healthcheck.py", url)
    assert done.returncode == 1
    assert url in done.stderr


@dataclass(frozen=True)
class Stack:
    """A server and a worker over one journal, as in the compose file."""

    server: int
    worker: int
    process: subprocess.Popen[bytes]
    token: str
    folder: Path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start the server before the journal exists, then the worker."""
    folder = tmp_path_factory.mktemp("stack")
    state, token = folder / "state", folder / "token"
    state.mkdir()
    assert script(IMAGE / "make_token.py", str(token)).returncode == 0
    server, worker = servers.free_port(), servers.free_port()
    command = [str(token) if word.startswith("/") else word for word in services()["server"]["command"]]
    serving = [sys.executable, "-m", "otel_progress", *command, "--port", str(server)]
    shared = environment(XDG_STATE_HOME=str(state))
    working = [sys.executable, str(WORKER), "--pause", "0.1"]
    with running_redis(folder / "redis") as redis:
        local = {"OTEL_PROGRESS_STORE": redis.url, "OTEL_PROGRESS_PREVIEWS": str(state / "previews")}
        one = {**shared, **read_settings("server"), **local}
        other = {**shared, **read_settings("worker"), **local, "OTEL_PROGRESS_PROMETHEUS_PORT": str(worker)}
        with (
            servers.running(serving, ready=lambda: healthy(server), log=folder / "server.log", env=one),
            servers.running(
                working, ready=lambda: healthy(worker), log=folder / "worker.log", env=other
            ) as process,
        ):
            yield Stack(server, worker, process, token.read_text(encoding="ascii"), folder)


def read_settings(name: str) -> dict[str, str]:
    """Return the settings of otel-progress of a service."""
    given = services()[name]["environment"]
    return {each: given[each] for each in given if each.startswith("OTEL_PROGRESS_")}


def healthy(port: int) -> bool:
    """Run the health check of the image."""
    return script(IMAGE / "healthcheck.py", f"http://127.0.0.1:{port}/healthz").returncode == 0


def ask(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Return status and text of a response."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_server_metrics_require_token_and_host_name(stack: Stack) -> None:
    """Prometheus sends the token and uses the service's name."""
    bearer = f"Bearer {stack.token}"
    status, text = servers.poll(lambda: _with_series(stack, bearer), what="series in the server's metrics")
    assert status == 200
    assert "progress_operation_info" in text
    assert ask(stack.server, "/metrics", Host="server:7764")[0] == 401
    assert ask(stack.server, "/metrics", Host="elsewhere:7764", Authorization=bearer)[0] == 421


def _with_series(stack: Stack, bearer: str) -> tuple[int, str] | None:
    found = ask(stack.server, "/metrics", Host="server:7764", Authorization=bearer)
    return found if "progress_operation_info{" in found[1] else None


def test_server_shows_the_work_of_the_worker(stack: Stack) -> None:
    """The API reads the journal that the worker writes."""
    bearer = f"Bearer {stack.token}"

    def types() -> set[str] | None:
        _, text = ask(stack.server, "/api/v1/operations", Authorization=bearer)
        found = {one["operation_type"] for one in json.loads(text)["operations"]}
        return found if "encoding_check" in found else None

    assert servers.poll(types, what="a check in the API") <= {"code_survey", "compression", "encoding_check"}


def test_prometheus_with_shipped_configuration_scrapes_both(stack: Stack) -> None:
    """Only addresses in deploy/prometheus are changed."""
    folder = stack.folder / "prometheus"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "token").write_text(stack.token, encoding="ascii")
    configuration = load(DEPLOY / "prometheus" / "prometheus.yml")
    ports = {"otel-progress-server": stack.server, "otel-progress-worker": stack.worker}
    jobs = [job for job in configuration["scrape_configs"] if job["job_name"] in ports]
    for job in jobs:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    made = {
        "global": {**configuration["global"], "scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(made), encoding="utf-8")
    log = folder / "log"
    command = [
        servers.require("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        ANY,
    ]
    with servers.running(command, ready=lambda: is_ready(log), log=log):
        servers.poll(
            lambda: _up(find_port(log) or 0) == {"otel-progress-server", "otel-progress-worker"},
            what="both targets",
        )


def _up(port: int) -> set[str]:
    """Return the jobs whose last scrape succeeded, ignoring a single timeout."""
    _, text = ask(port, f"/api/v1/query?query={quote('up == 1')}")
    return {one["metric"]["job"] for one in json.loads(text)["data"]["result"]}


def test_worker_with_sigterm_cancels_its_work(stack: Stack) -> None:
    """``docker compose stop`` sends SIGTERM. Nothing is left abandoned."""
    assert (
        services()["worker"]["stop_grace_period"] == "20s"
    )  # Docker's 10 s may be too short on a loaded machine.
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(timeout=120) == 0
    _, text = ask(stack.server, "/api/v1/operations", Authorization=f"Bearer {stack.token}")
    assert {one["status"] for one in json.loads(text)["operations"]} <= {"completed", "failed", "cancelled"}


def test_job_with_one_round_pushes_metrics_and_exits(tmp_path: Path) -> None:
    """The result is in the journal, and the exit code is 0."""
    command = [sys.executable, str(WORKER), *services()["job"]["command"]]
    with receiving() as receiver:
        shared = environment(XDG_STATE_HOME=str(tmp_path), OTEL_PROGRESS_CONSOLE="false")
        pushing = {
            "OTEL_METRICS_EXPORTER": services()["job"]["environment"]["OTEL_METRICS_EXPORTER"],
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "no_proxy": "*",
        }
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env={**shared, **pushing}
        )
        assert done.returncode == 0, done.stderr
        finished = [
            metric for _, metric in receiver.metrics() if metric.name == semconv.OPERATIONS_FINISHED.name
        ][-1]
    listed = [sys.executable, "-m", "otel_progress", "history", "--json"]
    shown = subprocess.run(listed, capture_output=True, text=True, check=True, timeout=120, env=shared).stdout
    found = json.loads(shown)["operations"]
    assert {one["operation_type"] for one in found} == {"encoding_check"}
    assert found
    assert {one["status"] for one in found} <= {
        "completed",
        "failed",
    }  # It depends on the installed packages.
    assert sum(point.as_int for point in finished.sum.data_points) == len(found)
