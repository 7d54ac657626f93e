"""Operations that real processes continue after a SIGKILL or a SIGSTOP."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from otel_progress.journal import open_journal
from otel_progress.model import Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.protocols import HistoryQuery
from tests.support.redis_servers import RedisServer, create_name, running_redis

pytestmark = pytest.mark.process

PATIENCE_S: Final = 60.0

WORKER: Final = Path(__file__).parents[1] / "support" / "programs" / "keyed_worker.py"

ITEMS: Final = 10_000

SESSION_S: Final = 0.6
"""Longest time from the start of an operation to its SIGKILL."""


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this file."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=[pytest.mark.server, pytest.mark.slow])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty journal of each backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'progress.db'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return f"{server.url}?name={create_name()}"


@contextmanager
def _running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python program. Kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE_S)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _read_history(store: str) -> list[OperationSnapshot]:
    with closing(open_journal(store)) as journal:
        return list(journal.history(HistoryQuery(limit=1_000)))


def _get(store: str, operation_id: str = "nightly") -> OperationSnapshot:
    with closing(open_journal(store)) as journal:
        found = journal.get(operation_id)
    assert found is not None
    return found


def _kill_at_random_moments(store: str, log: Path, kills: int, items: int) -> None:
    """Kill sessions at random moments, and let the last one complete."""
    chance = random.Random(12)
    for _ in range(kills):
        # Why unending: a fast machine would complete the operation before its SIGKILL.
        with _running(str(WORKER), store, str(log), str(items), "unending") as process:
            # Why after the line: the time of the imports is most of a short session.
            assert _read_line(process) == "ready"
            time.sleep(chance.uniform(0.0, SESSION_S * min(1.0, 20 / kills)))
            process.kill()
            process.wait(PATIENCE_S)
        assert _get(store).root.status is not Status.FAILED
    with _running(str(WORKER), store, str(log), str(items)) as process:
        _, errors = process.communicate(timeout=5 * PATIENCE_S)
        assert (process.returncode, errors) == (0, "")


def _check_exactly_once(store: str, log: Path, items: int) -> None:
    """Each item counts exactly once, and each item was processed at least once."""
    newest = _get(store)
    (loop,) = newest.levels
    assert (newest.status, newest.ratio) == (Status.COMPLETED, 1.0)
    assert (loop.current, loop.total, loop.failed, loop.ratio) == (items, items, 0, 1.0)
    processed = Counter(log.read_text().split())
    assert processed.keys() == {str(item) for item in range(items)}
    earlier = [operation for operation in _read_history(store) if operation.run != newest.run]
    assert {operation.condition for operation in earlier} == {Condition.SUPERSEDED}
    assert newest.root.info.attempt == len(earlier) + 1
    # At most the items since the last tick run again, and never all of them.
    assert sum(processed.values()) < items * (1 + len(earlier))


def test_items_of_killed_sessions_count_exactly_once(store: str, tmp_path: Path) -> None:
    """Five sessions are killed at random moments."""
    log = tmp_path / "log"
    _kill_at_random_moments(store, log, 5, 2_000)
    _check_exactly_once(store, log, 2_000)


@pytest.mark.slow
def test_items_of_a_hundred_killed_sessions_count_exactly_once(store: str, tmp_path: Path) -> None:
    """10,000 items in 101 sessions."""
    log = tmp_path / "log"
    _kill_at_random_moments(store, log, 100, ITEMS)
    _check_exactly_once(store, log, ITEMS)


STARTS: Final = """
import os, sys
import otel_progress as progress
progress.configure(store=sys.argv[1], console=False, resources=False)
op = progress.operation("job", id="nightly", total=100, resume=True).start()
print(op.snapshot().current, flush=True)
if op.snapshot().current == 0:
    op.increment(40)
    progress.flush(30)
# Why at once: no tick has written the new session yet.
os.kill(os.getpid(), 9)
"""


def test_session_killed_before_its_first_tick_keeps_the_count(store: str) -> None:
    """The start itself stores the count."""
    seen = []
    for _ in range(5):
        with _running("-c", STARTS, store) as process:
            seen.append(_read_line(process))
            process.wait(PATIENCE_S)
        assert _get(store).root.current == 40
    assert seen == ["0", "40", "40", "40", "40"]


RESUMES: Final = """
import os, sys
import otel_progress as progress
progress.configure(store=sys.argv[1], console=False, resources=False)
op = progress.operation("job", id="nightly", total=100).start()
op.resume_from(40)
os.kill(os.getpid(), 9)
"""


def test_session_killed_after_resume_from_keeps_its_units(store: str) -> None:
    """The call returns after the journal has them."""
    for _ in range(3):
        with _running("-c", RESUMES, store) as process:
            process.wait(PATIENCE_S)
        assert (_get(store).root.current, _get(store).root.resumed_from) == (40, 40)


CHECKPOINTS: Final = """
import os, sys
import otel_progress as progress
progress.configure(store=sys.argv[1], console=False, resources=False)
op = progress.operation("job", id="nightly", total=100, resume=True).start()
print(op.last_checkpoint, op.snapshot().current, flush=True)
for unit in range(int(op.snapshot().current), 100):
    op.increment()
    if unit % 10 == 9:
        assert op.checkpoint({"unit": unit})
        os.kill(os.getpid(), 9)
"""


def test_checkpoint_and_counts_are_committed_before_the_call_returns(store: str) -> None:
    """The process is killed directly after it."""
    seen = []
    for _ in range(3):
        with _running("-c", CHECKPOINTS, store) as process:
            seen.append(_read_line(process))
            process.wait(PATIENCE_S)
    assert seen == ["None 0", "{'unit': 9} 10", "{'unit': 19} 20"]


def _stop_between_writes(process: subprocess.Popen[str], store: str) -> None:
    """Stop a process while it does not write.

    Within a write it has the lock of the SQLite journal. A second process cannot use the journal
    then, and starts under another id.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        # Why: its threads stop a moment after the signal was sent.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if not _is_locked(store):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    pytest.fail("The process always writes.")


def _is_locked(store: str) -> bool:
    if not store.startswith("sqlite:"):
        return False
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"), timeout=0.0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def test_second_process_is_rejected_while_the_first_is_alive(store: str, tmp_path: Path) -> None:
    """A stopped process is alive, too."""
    log = tmp_path / "log"
    with _running(str(WORKER), store, str(log), "1000000") as first:
        assert _read_line(first) == "ready"
        for is_stopped in (False, True):
            if is_stopped:
                _stop_between_writes(first, store)
            with _running(str(WORKER), store, str(log), "10") as second:
                _, errors = second.communicate(timeout=PATIENCE_S)
            assert second.returncode == 1, errors
            assert "OperationRunningError: Invalid start of operation 'nightly'" in errors
            assert f"process {first.pid} on " in errors
        first.send_signal(signal.SIGCONT)
        assert _get(store).root.info.attempt == 1


FREEZES: Final = """
import os, sys, time
import otel_progress as progress
progress.configure(store=sys.argv[1], console=False, resources=False)
with progress.operation("job", id="nightly", total=1000000, resume=True) as op:
    try:
        for number in op.track(range(1000000), key=str):
            if number == 300:
                progress.flush(30)
                print("frozen", flush=True)
                sys.stdin.readline()
            time.sleep(0.0005)
    except progress.OperationCancelledError as error:
        print(error, op.checkpoint("late"), flush=True)
        raise
"""

ADOPTS: Final = """
import sys
import otel_progress as progress
from otel_progress import processes
from otel_progress.journal import liveness
# Why: on its own host, a stopped process is alive for ever.
processes.HEARTBEAT_TIMEOUT_S = 2.0
host = "another/" + processes.this_host().split("/", 1)[1] + "0"
processes.this_host = liveness.this_host = lambda: host
progress.configure(store=sys.argv[1], console=False, resources=False)
with progress.operation("job", id="nightly", total=1000000, resume=True) as op:
    print("adopted", op.snapshot().info.attempt, flush=True)
    sys.stdin.readline()
    loop = op.track(range(400), key=str)
    done = list(loop)
    print(done[0], len(done), loop.level.snapshot().current, flush=True)
"""


def test_process_that_was_frozen_cannot_change_the_state_of_its_successor(store: str) -> None:
    """It stops its work when it wakes up."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    old = subprocess.Popen([sys.executable, "-c", FREEZES, store], text=True, **pipes)
    new = None
    try:
        assert _read_line(old) == "frozen"
        old.send_signal(signal.SIGSTOP)
        new = subprocess.Popen([sys.executable, "-c", ADOPTS, store], text=True, **pipes)
        assert _read_line(new) == "adopted 2"
        before = _get(store)
        old.send_signal(signal.SIGCONT)
        _, errors = old.communicate("\n", timeout=PATIENCE_S)
        assert old.returncode == 1
        assert "another process has continued this operation" in errors
        after = _get(store)
        assert after.run == before.run
        (superseded,) = _read_history(store)
        assert (superseded.condition, superseded.root.superseded_by) == (Condition.SUPERSEDED, after.run)
        out, errors = new.communicate("\n", timeout=PATIENCE_S)
        assert (new.returncode, errors) == (0, "")
        assert out.strip() == "300 100 400"
    finally:
        for process in (old, new):
            if process is not None and process.poll() is None:
                process.kill()
                process.send_signal(signal.SIGCONT)
                process.communicate(timeout=PATIENCE_S)


def test_process_of_another_host_is_adopted_when_its_heartbeats_end(store: str) -> None:
    """The start waits for the timeout of the heartbeat, and no longer."""
    program = FREEZES.replace("sys.stdin.readline()", "os.kill(os.getpid(), 9)")
    with _running("-c", program, store) as old:
        assert _read_line(old) == "frozen"
        old.wait(PATIENCE_S)
    with _running("-c", ADOPTS.replace("sys.stdin.readline()", "pass"), store) as new:
        assert _read_line(new) == "adopted 2"
        assert _read_line(new) == "300 100 400"
