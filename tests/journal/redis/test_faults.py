"""Faults of the server while an operation runs in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import otel_progress as progress
from otel_progress import diagnostics
from otel_progress.errors import JournalError
from otel_progress.journal import Journal, open_journal
from otel_progress.journal.redis import client
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.runtime.runtime import Runtime
from tests.support.redis_servers import RedisServer, running_redis
from tests.support.servers import poll

pytestmark = pytest.mark.server

FAULT_S: Final = 1.5
"""Duration of a fault. It exceeds the time limit of the client."""


def _kill(server: RedisServer) -> None:
    server.kill()
    time.sleep(FAULT_S)
    server.start()


def _restart_empty(server: RedisServer) -> None:
    server.kill()
    server.start()


def _flush(server: RedisServer) -> None:
    server.execute("FLUSHALL")


def _suspend(server: RedisServer) -> None:
    server.suspend()
    time.sleep(2 * FAULT_S)
    server.resume()


def _slow(server: RedisServer) -> None:
    for _ in range(3):
        server.execute("DEBUG", "SLEEP", "0.4")


def _fill(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "maxmemory", "1")
    time.sleep(FAULT_S)
    server.execute("CONFIG", "SET", "maxmemory", "0")


def _change_password(server: RedisServer) -> None:
    with server.connect() as admin:
        admin.config_set("requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(FAULT_S)
        admin.config_set("requirepass", "")


def _demote(server: RedisServer) -> None:
    server.execute("REPLICAOF", "127.0.0.1", "1")
    time.sleep(FAULT_S)
    server.execute("REPLICAOF", "NO", "ONE")


def _refuse_clients(server: RedisServer) -> None:
    with server.connect() as admin:
        admin.config_set("maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(FAULT_S)
        admin.config_set("maxclients", 100)


@dataclass
class _Work:
    """An operation in a thread of its own, and the durations of its calls per phase."""

    phase: str = "control"
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"control": [], "fault": []})
    count: int = 0
    is_stopping: bool = False
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        try:
            with progress.operation("job", id="job") as operation, operation.level("part", "p") as level:
                while not self.is_stopping:
                    started = time.perf_counter()
                    level.increment()
                    self.seconds[self.phase].append(time.perf_counter() - started)
                    self.count += 1
                    time.sleep(0.001)
        except BaseException as error:
            self.errors.append(error)
            raise


@contextmanager
def _working(runtime: Runtime) -> Iterator[_Work]:
    work = _Work()
    thread = threading.Thread(target=work.run)
    thread.start()
    try:
        yield work
    finally:
        work.is_stopping = True
        thread.join(60.0)
        runtime.force_flush(60.0)


def _read(journal: Journal) -> OperationSnapshot | None:
    with suppress(JournalError):
        return journal.get("job")
    return None


def _read_from(journal: Journal, count: int) -> OperationSnapshot | None:
    """Return the operation if its level has at least this count."""
    found = _read(journal)
    return found if found is not None and found.levels and found.levels[0].current >= count else None


@pytest.mark.parametrize(
    ("inject", "options", "is_outage"),
    [
        pytest.param(_kill, ("--appendonly", "yes"), True, id="killed"),
        pytest.param(_restart_empty, (), False, id="restarted empty"),
        pytest.param(_flush, (), False, id="emptied"),
        pytest.param(_suspend, (), True, id="suspended"),
        pytest.param(_slow, (), False, id="slow"),
        pytest.param(_fill, (), True, id="full"),
        pytest.param(_change_password, (), True, id="password changed"),
        pytest.param(_demote, (), True, id="read-only replica"),
        pytest.param(_refuse_clients, (), True, id="too many clients"),
    ],
)
def test_fault_of_server_delays_no_caller_and_loses_no_state(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    inject: Callable[[RedisServer], None],
    options: tuple[str, ...],
    is_outage: bool,
) -> None:
    """The state is complete after the recovery. An outage is logged once and counted."""
    monkeypatch.setattr(client, "REJECTED_INTERVAL_S", 0.5)
    monkeypatch.setattr(diagnostics, "internal_error_counts", Counter())
    caplog.set_level(logging.WARNING, logger="otel_progress")
    with running_redis(tmp_path / "redis", *options) as server:
        runtime = progress.configure(store=server.url, console=False)
        journal = open_journal(server.url)
        try:
            with _working(runtime) as work:
                poll(lambda: _read(journal), what="the operation in the journal")
                poll(lambda: work.count > 200, what="calls before the fault")
                work.phase = "fault"
                inject(server)
                count = work.count
                (worker,) = (each for each in runtime._components.sink_workers if each.name == "journal")
                assert len(worker._pending._snapshots) <= 2
                found = poll(
                    lambda: (
                        (found := _read(journal))
                        and found.levels
                        and found.levels[0].current >= count
                        and found
                    ),
                    timeout=60.0,
                    what="the state after the recovery",
                )
                assert found.status is Status.RUNNING
                assert found.alive
            assert work.errors == []
            end = poll(lambda: (found := _read(journal)) and found.status.finished and found, what="the end")
            assert (end.status, end.levels[0].current) == (Status.COMPLETED, work.count)
            # Why the half: a caller that waits for the server waits for the whole time limit.
            longest = {phase: max(seconds) for phase, seconds in work.seconds.items()}
            assert longest["fault"] < longest["control"] + client.TIMEOUT_S / 2
        finally:
            runtime.shutdown()
            journal.close()
    logged = [record.getMessage() for record in caplog.records if record.name == "otel_progress"]
    outages = [text for text in logged if "could not write progress" in text]
    assert len(outages) <= 1
    if is_outage:
        # Why any text: a query may have reported the same cause before the sink.
        assert [text for text in logged if server.url in text]
        assert diagnostics.internal_error_counts["sink journal"] >= 1
    if inject in {_restart_empty, _flush}:
        assert diagnostics.internal_error_counts["journal"] + len(outages) >= 1


def test_unreachable_server_leaves_operations_live(caplog: pytest.LogCaptureFixture) -> None:
    """The program works as with the journal in memory.

    Its end is not delayed by retries.
    """
    caplog.set_level(logging.WARNING, logger="otel_progress")
    runtime = progress.configure(store="redis://:S3cret-p4ss@127.0.0.1:1/0", console=False)
    with progress.operation("job", id="job", total=2) as operation:
        operation.increment(2)
    assert runtime.force_flush(60.0) is False
    found = runtime.get_operation("job")
    assert found is not None
    assert found.status is Status.COMPLETED
    runtime.shutdown()
    assert "cannot be reached" in caplog.text
    assert "S3cret" not in caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:wrong@127.0.0.1:{port}/0", "rejects the credentials"),
        ("redis://127.0.0.1:{port}/0", "rejects the credentials"),
        ("redis://limited:limited-pw@127.0.0.1:{port}/0", "does not permit a command"),
        ("rediss://:right@127.0.0.1:{port}/0", "cannot be reached|does not answer"),
    ],
    ids=["wrong password", "no password", "not permitted", "TLS to a plain port"],
)
def test_rejected_client_receives_the_fix_once(tmp_path: Path, url: str, message: str) -> None:
    """Within the interval no further attempt reaches the server.

    The message has no password.
    """
    with running_redis(tmp_path / "redis", "--requirepass", "right") as server:
        with server.connect(password="right") as admin:
            admin.execute_command("ACL", "SETUSER", "limited", "on", ">limited-pw", "~other:*", "+@all")
            journal = open_journal(url.format(port=server.port))
            with pytest.raises(JournalError, match=message) as caught:
                journal.active()
            assert "limited-pw" not in str(caught.value)
            assert "wrong" not in str(caught.value)
            before = admin.info("stats")["total_connections_received"]
            with pytest.raises(JournalError, match=message):
                journal.active()
            assert admin.info("stats")["total_connections_received"] == before
        journal.close()
