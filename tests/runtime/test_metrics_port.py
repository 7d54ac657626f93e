"""Port of /metrics that several processes share: takeover, warnings, forks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from otel_progress.errors import build_bind_error
from otel_progress.journal import open_journal
from otel_progress.runtime.metrics_port import MetricsPort
from tests.support.configuration import occupy_port
from tests.support.servers import free_port, poll

pytestmark = pytest.mark.process

PATIENCE_S = 60.0

PROGRAM = """
import logging, os, sys, time
import otel_progress as progress

logging.basicConfig(format="%(levelname)s %(message)s")
runtime = progress.configure(console=False, otlp=False, resources=False)
with progress.operation("job", total=2) as op:
    op.increment(2)
if "fork" in sys.argv and os.fork() == 0:
    with progress.operation("job", total=1) as op:
        op.increment()
print("ready", flush=True)
sys.stdin.readline()
print(runtime.metrics_url, flush=True)
runtime.shutdown()
"""


class Group:
    """Processes that share a journal and a port."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        self.environ |= {
            "OTEL_PROGRESS_STORE": store or f"sqlite:////{str(folder / 'progress.db').lstrip('/')}",
            "OTEL_PROGRESS_PROMETHEUS_PORT": str(self.port),
        }

    @contextmanager
    def started(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """Run a process that has completed an operation and waits for a line."""
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**self.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.kill()

    def count(self) -> int:
        """Return the number of completed operations in a scrape, -1 without an answer."""
        try:
            with urllib.request.urlopen(self.url, timeout=PATIENCE_S) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return -1
        prefix = 'progress_operations_finished_total{operation_type="job",status="completed"} '
        return sum(int(float(line.removeprefix(prefix))) for line in lines if line.startswith(prefix))

    def wait_for(self, count: int) -> None:
        """Wait until a scrape counts these operations."""
        poll(lambda: self.count() == count, PATIENCE_S, f"{count} operations")

    def wait_until_stored(self, count: int) -> None:
        """Wait until the journal has these operations and their counts.

        A process that is killed earlier loses them.
        """
        journal = open_journal(self.environ["OTEL_PROGRESS_STORE"], read_only=True)
        try:
            poll(lambda: len(journal.history()) == count, PATIENCE_S, f"{count} stored operations")
        finally:
            journal.close()


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Let a process end. Return the URL of its metrics, and its log."""
    output, errors = process.communicate("\n", timeout=PATIENCE_S)
    return output.strip(), errors


def test_port_is_served_again_after_its_process_was_killed(tmp_path: Path) -> None:
    """The counts of the killed process stay, and no process warns."""
    group = Group(tmp_path)
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(group.started()) for _ in range(3))
        group.wait_for(3)
        group.wait_until_stored(3)
        first.send_signal(signal.SIGKILL)
        first.wait()
        poll(lambda: group.count() >= 0, PATIENCE_S, "a scrape")
        assert group.count() == 3
        results = finish(second), finish(third)
        assert {url for url, _ in results} == {group.url}
        assert [log for _, log in results] == ["", ""]


def test_port_is_served_by_a_later_process(tmp_path: Path) -> None:
    """A program that starts later continues the counts."""
    group = Group(tmp_path)
    for expected in (1, 2):
        with group.started() as process:
            group.wait_for(expected)
            assert finish(process) == (group.url, "")


def test_forked_child_serves_after_the_end_of_its_parent(tmp_path: Path) -> None:
    """It is a process of its own with its own counts."""
    group = Group(tmp_path)
    with group.started("fork") as parent:
        group.wait_for(2)
        group.wait_until_stored(2)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        group.wait_for(2)
        # The child reads the end of the same pipe.
        assert parent.stdin is not None
        parent.stdin.close()


def test_strict_process_accepts_a_port_of_its_group(tmp_path: Path) -> None:
    """Otherwise each worker but one would stop, and be started again."""
    group = Group(tmp_path)
    with group.started(OTEL_PROGRESS_STRICT="1") as first, group.started(OTEL_PROGRESS_STRICT="1") as second:
        group.wait_for(2)
        assert finish(first)[1] == finish(second)[1] == ""


def test_port_of_another_program_is_reported_once(tmp_path: Path) -> None:
    """The process serves the port as soon as it is free."""
    group = Group(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", group.port))
        taken.listen()
        with group.started() as process:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(2)]
            taken.close()
            group.wait_for(1)
            url, rest = finish(process)
    assert (url, rest) == (group.url, "")
    text = "".join(lines)
    assert text.startswith("WARNING The metrics are not served until the port is free")
    assert f"Port {group.port} of 127.0.0.1 is in use" in text


def test_processes_without_a_shared_journal_serve_only_themselves(tmp_path: Path) -> None:
    """The second process says so once, and is not served."""
    group = Group(tmp_path, store="memory:")
    with group.started() as first, group.started() as second:
        group.wait_for(1)
        url, log = finish(second)
        assert (url, log.count("WARNING")) == ("None", 1)
        assert "Without a shared journal, /metrics has only the operations of the process" in log
        assert finish(first) == (group.url, "")


def test_groups_of_other_journals_do_not_mix(tmp_path: Path) -> None:
    """The port of another journal belongs to another program."""
    (tmp_path / "other").mkdir()
    group, other = Group(tmp_path), Group(tmp_path / "other")
    other.environ["OTEL_PROGRESS_PROMETHEUS_PORT"] = str(group.port)
    with group.started() as first:
        group.wait_for(1)
        with other.started() as second:
            assert second.stderr is not None
            assert second.stderr.readline().startswith("WARNING The metrics are not served")
            assert group.count() == 1
            finish(first)
            group.wait_for(1)
            assert finish(second)[0] == group.url


def test_busy_peer_is_not_taken_for_another_program() -> None:
    """A process of the group may answer late. Several failures are reported."""
    answers = iter([None, None, True])
    with occupy_port() as port:
        error = OSError(98, "Address already in use")

        def serve() -> object:
            raise build_bind_error(error, "127.0.0.1", port, "metrics") from error

        metrics_port = MetricsPort(serve, "http://shared", lambda _: next(answers))  # type: ignore[arg-type]
        for _ in range(4):
            assert not metrics_port.attempt()
        assert metrics_port.url == "http://shared"
        metrics_port.close()


def test_closed_port_ends_its_attempts() -> None:
    """No thread stays behind."""
    error = OSError(98, "Address already in use")

    def serve() -> object:
        raise build_bind_error(error, "127.0.0.1", 1, "metrics") from error

    metrics_port = MetricsPort(serve, "http://shared", lambda _: True, attempt_interval_s=600.0)  # type: ignore[arg-type]
    metrics_port.start()
    thread = metrics_port._thread
    assert thread is not None
    metrics_port.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_port_of_a_program_that_does_not_answer_is_reported_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its URL is never that of the metrics.

    A short program ends before the third question.
    """
    with occupy_port() as port:
        error = OSError(98, "Address already in use")

        def serve() -> object:
            raise build_bind_error(error, "127.0.0.1", port, "metrics") from error

        metrics_port = MetricsPort(
            serve,  # type: ignore[arg-type]
            f"http://127.0.0.1:{port}/metrics",
            lambda _: None,
            attempt_interval_s=600.0,
        )
        metrics_port.start()
        assert (metrics_port.url, caplog.text) == (None, "")
        metrics_port.close()
    assert caplog.text.count(f"Port {port} of 127.0.0.1 is in use") == 1
