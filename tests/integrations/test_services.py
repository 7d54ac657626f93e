"""Services with several processes: one port, and one tree per request."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from otel_progress import semconv
from otel_progress.journal import Journal, open_journal
from otel_progress.protocols import HistoryQuery
from tests.support.redis_servers import running_redis
from tests.support.servers import answers, free_port, poll, running

pytestmark = pytest.mark.process

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]
REQUESTS = 120
TRACE = "0af7651916cd43dd8448eb211c80319c"
LINKED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "otel-progress-parent": "1;run-1;client;step:2"}


def require_library(name: str) -> None:
    """Skip the test without a library of the test requirements."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: this test runs the real one")


class Service:
    """A running service: its ports, its journal, and its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.metrics_port = free_port(), free_port()
        self.store = f"sqlite:////{str(folder / 'progress.db').lstrip('/')}"
        self.log = folder / "service.log"
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {
            "OTEL_PROGRESS_STORE": self.store,
            "OTEL_PROGRESS_PROMETHEUS_PORT": str(self.metrics_port),
            "OTEL_PROPAGATORS": "tracecontext,baggage,progress",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    @contextmanager
    def started(self, *command: str, is_ready: bool = True) -> Iterator[subprocess.Popen[bytes]]:
        """Run the service for the length of the block, from its first answer."""

        def is_serving() -> bool:
            return not is_ready or answers(f"http://127.0.0.1:{self.port}/")

        arguments = [sys.executable, "-m", *command]
        with running(
            arguments, ready=is_serving, log=self.log, env=self.environ, timeout=PATIENCE_S
        ) as process:
            yield process

    def request(self, path: str, headers: Mapping[str, str] = {}) -> int:
        """Send a request. Return the process that answered."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers))
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return int(answer.read())

    def scrape(self) -> dict[str, Counter[tuple[str, ...]]]:
        """Scrape the metrics. Return the values by name and labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        values: dict[str, Counter[tuple[str, ...]]] = {}
        for family in parse_text(text):
            for sample in family.samples:
                values.setdefault(sample.name, Counter())[tuple(sample.labels.values())] += sample.value
        return values

    def count_finished(self, operation_type: str) -> float:
        """Return the number of completed operations in a scrape, -1 without an answer."""
        try:
            found = self.scrape()
        except OSError:
            return -1
        return found.get(semconv.OPERATIONS_FINISHED.prometheus, Counter())[operation_type, "completed"]

    def wait_for_finished(self, operation_type: str, expected: int) -> None:
        """Wait until the scrapes count exactly these operations. They never count more."""

        def is_complete() -> bool:
            found = self.count_finished(operation_type)
            assert found <= expected
            return found == expected

        poll(is_complete, PATIENCE_S, f"{expected} finished operations")

    def read_log(self) -> str:
        """Return the output of the service so far."""
        return self.log.read_text("utf-8", "replace")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service that is not started yet."""
    return Service(tmp_path)


def check_trees(journal: Journal, operation_type: str, count: int, level_paths: set[str]) -> None:
    """Check that each operation has exactly its own levels, all completed."""
    query = HistoryQuery(operation_type=operation_type, limit=count + 10)
    # Why: the counts of a process may be stored one tick before the end of an operation.
    poll(lambda: len(journal.history(query)) >= count, PATIENCE_S, f"{count} ended operations")
    found = journal.history(query)
    assert len(found) == count
    assert len({each.operation_id for each in found}) == count
    for each in found:
        tree = journal.get(each.operation_id)
        assert tree is not None
        assert {level.path for level in tree.levels} == level_paths
        assert {level.status.value for level in (tree.root, *tree.levels)} == {"completed"}
        assert {level.info.instance for level in (tree.root, *tree.levels)} == {tree.root.info.instance}


def check_service(service: Service) -> set[int]:
    """Send requests at once, check metrics and trees, and return the processes."""
    with ThreadPoolExecutor(8) as threads:
        pids = set(threads.map(lambda number: service.request(f"/{number}"), range(REQUESTS)))
    first = 1 + REQUESTS  # with the request that found the service ready
    service.wait_for_finished("request", first)
    found = service.scrape()
    assert found[semconv.ITEMS.prometheus]["part", "request", "completed"] >= 0
    durations = f"{semconv.OPERATION_DURATION.prometheus}_count"
    assert found[durations]["request", "completed"] == first
    statuses = found[semconv.OPERATIONS.prometheus]
    assert sum(count for labels, count in statuses.items() if "completed" in labels) == first
    service.request("/linked", LINKED)
    service.wait_for_finished("request", first + 1)
    journal = open_journal(service.store, read_only=True)
    check_trees(journal, "request", first + 1, {"part:0", "part:1", "part:2"})
    (linked,) = [
        each for each in journal.history(HistoryQuery(limit=500)) if each.root.info.name == "/linked"
    ]
    parent = linked.root.info.parent
    assert parent is not None
    assert (parent.operation_id, parent.path, linked.root.info.trace_id) == ("client", "step:2", TRACE)
    journal.close()
    return pids


def check_held_requests(service: Service) -> None:
    """Check that running requests of several processes have series at the same time."""
    mark = service.folder / "go"
    threads = [threading.Thread(target=service.request, args=(f"/hold?{mark}",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:

        def has_all() -> bool:
            operations = service.scrape()[semconv.OPERATIONS.prometheus]
            return sum(count for labels, count in operations.items() if "running" in labels) == 3

        poll(has_all, PATIENCE_S, "three running requests")
    finally:
        mark.touch()
        for thread in threads:
            thread.join(PATIENCE_S)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorn_serves_all_processes_at_one_port(service: Service, options: tuple[str, ...]) -> None:
    """The sums are exact, and no worker warns or restarts."""
    require_library("gunicorn")
    command = ["gunicorn", "-w", "4", *options, "-b", f"127.0.0.1:{service.port}", "--no-control-socket"]
    with service.started(*command, "tests.support.programs.web_service:app"):
        assert len(check_service(service)) > 1
        check_held_requests(service)
        assert service.read_log().count("Booting worker") == 4
    assert "otel_progress" not in service.read_log()
    assert "Traceback" not in service.read_log()


def test_gunicorn_whose_workers_are_killed_continues_to_serve_their_counts(service: Service) -> None:
    """One of the others serves the port within seconds, and no counter decreases."""
    require_library("gunicorn")
    command = ["gunicorn", "-w", "3", "-b", f"127.0.0.1:{service.port}", "--no-control-socket"]
    with service.started(*command, "tests.support.programs.web_service:app"):
        pids: set[int] = set()
        count = 1
        while len(pids) < 3:
            with ThreadPoolExecutor(8) as threads:
                pids |= set(threads.map(lambda number: service.request(f"/{number}"), range(40)))
            count += 40
        service.wait_for_finished("request", count)
        # Why: a process loses what it has not stored when it is killed.
        journal = open_journal(service.store, read_only=True)
        query = HistoryQuery(limit=count + 10)
        poll(lambda: len(journal.history(query)) == count, PATIENCE_S, f"{count} stored operations")
        journal.close()
        for pid in sorted(pids):
            os.kill(pid, signal.SIGKILL)
            poll(lambda: service.count_finished("request") >= 0, PATIENCE_S, "a scrape")
            # At once after the takeover, as Prometheus would see it.
            assert service.count_finished("request") == count
        service.request("/")
        service.wait_for_finished("request", count + 1)
    assert "otel_progress" not in service.read_log()


def test_uvicorn_workers_serve_all_processes_at_one_port(service: Service) -> None:
    """The workers are spawned, and their parent process is not configured."""
    require_library("uvicorn")
    app = "tests.support.programs.web_service:async_app"
    options = ("--port", str(service.port), "--workers", "3", "--log-level", "warning")
    with service.started("uvicorn", app, *options):
        assert len(check_service(service)) >= 1
        check_held_requests(service)
    assert "otel_progress" not in service.read_log()


@pytest.mark.server
def test_celery_prefork_serves_all_processes_at_one_port(service: Service, tmp_path: Path) -> None:
    """Each task is one tree, which is linked to the operation that sent it."""
    require_library("celery")
    with running_redis(tmp_path / "redis") as broker:
        service.environ["BROKER"] = broker.url
        module = "tests.support.programs.task_service"
        worker = ["celery", "-A", module, "worker", "--pool", "prefork", "-c", "3", "-l", "WARNING"]
        with service.started(*worker, is_ready=False):
            environ = {**service.environ, "OTEL_PROGRESS_PROMETHEUS_PORT": ""}
            del environ["OTEL_PROGRESS_PROMETHEUS_PORT"]
            sent = subprocess.run(
                [sys.executable, "-m", module, "40"],
                env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=True,
            )  # fmt: skip
            assert len(sent.stdout.split()) > 1, sent.stderr
            service.wait_for_finished("resize", 40)
    journal = open_journal(service.store, read_only=True)
    check_trees(journal, "resize", 40, {"file:a", "file:b"})
    sender = journal.get("sender")
    assert sender is not None
    for each in journal.history(HistoryQuery(operation_type="resize", limit=50)):
        assert each.root.info.parent is not None
        assert each.root.info.parent.run == sender.run
        assert each.root.info.trace_id == sender.root.info.trace_id
    journal.close()
    assert "otel_progress" not in service.read_log()
