"""Several processes and forks on one file."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.factories import WALL, event, make_change_set, snapshot
from tests.support.journal_processes import (
    PATIENT,
    WRITE_AS_TOLD,
    WRITE_UNTIL_KILLED,
    read_line,
    run,
    running,
    send_line,
)


@pytest.mark.process
def test_concurrent_writers_lose_nothing(path: Path) -> None:
    """Every result of a concurrent reader is consistent."""
    with ExitStack() as stack:
        processes = [stack.enter_context(running(WRITE_AS_TOLD, path, f"p{n}")) for n in range(4)]
        _write_all(processes, 1)
        reader = SqliteJournal(path, limits=PATIENT, read_only=True, now=lambda: WALL)
        stack.callback(reader.close)

        def read_active() -> None:
            for _ in range(10):
                for operation in reader.active():
                    newest = max((level.sequence for level in operation.levels), default=0)
                    assert newest == operation.root.sequence

        for _ in range(10):
            _write_all(processes, 15, read_active)
        assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 4
        assert {operation.root.sequence for operation in reader.active()} == {151}
        for n in range(4):
            assert [item.number for item in reader.events(f"p{n}")] == list(range(1, 152))


def _write_all(
    processes: Sequence[subprocess.Popen[str]], count: int, during: Callable[[], None] = lambda: None
) -> None:
    """Make all processes write ``count`` change sets at once, and wait for them."""
    for process in processes:
        send_line(process, count)
    during()
    for process in processes:
        for _ in range(count):
            read_line(process)


_REOPEN = """
import sqlite3, sys, threading
from contextlib import closing
from pathlib import Path
from tests.support.factories import WALL, ended, instance, make_change_set
from tests.support.journal_processes import PATIENT
from otel_progress.journal import SqliteJournal

path, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lock = threading.Lock()

def write(thread):
    for number in range(rounds):
        run = f"{name}-{thread}-{number}"
        with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
            journal.write(make_change_set(ended(run=run, operation_id=run), instance=instance(name)))
        with lock:
            print(run, flush=True)

def read():
    for number in range(rounds):
        with closing(SqliteJournal(path, limits=PATIENT, read_only=number % 2 == 0)) as journal:
            journal.active()
        # Another part of the program uses the file, too.
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("SELECT count(*) FROM operations").fetchall()

threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
threads.append(threading.Thread(target=read))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done", flush=True)
"""
"""Threads open the journal, write, and close it again, and print the run of each stored end."""


@pytest.mark.process
def test_journal_opened_and_closed_by_many_has_no_error_and_loses_no_end(path: Path) -> None:
    """One process after another is killed. No process sees a damaged journal."""
    with closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal:
        journal.write(make_change_set(snapshot()))
    stored = []
    with ExitStack() as stack:
        processes = [stack.enter_context(running(_REOPEN, path, f"p{number}", 25)) for number in range(3)]
        for number in range(4):
            with running(_REOPEN, path, f"killed{number}", 1_000) as killed:
                stored += [read_line(killed) for _ in range(random.randrange(1, 8))]
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert errors == ""
            *runs, last = output.splitlines()
            assert (len(runs), last) == (50, "done")
            stored += runs
    with closing(sqlite3.connect(path)) as connection:
        found = {run for (run,) in connection.execute("SELECT run FROM operations")}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert set(stored) <= found
    assert not path.with_name("progress.db.damaged").exists()


_WORK_ON = """
import itertools, sys
from pathlib import Path
from tests.support.factories import WALL, make_change_set, batch_info, ended, instance, log, sample, snapshot
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT

journal = SqliteJournal(Path(sys.argv[1]), limits=PATIENT, now=lambda: WALL)
me = instance("worker")
cancelled, sequence = [], itertools.count(1)
journal.write(make_change_set(instance=me, batches=[batch_info("all", total=30)]))
for n in range(30):
    names = dict(operation_id=f"o{n % 3}", run=f"r{n}", instance="worker", batch="all")
    while True:
        number = next(sequence)
        logs = [log(number, operation_id=names["operation_id"], run=names["run"])]
        root = snapshot(sequence=number, current=number, **names)
        journal.write(make_change_set(root, instance=me, logs=logs, sample=sample(number)))
        asked = [request.run for request in journal.cancel_requests("worker")]
        if names["run"] in asked:
            break
    journal.write(make_change_set(ended(sequence=next(sequence), **names), instance=me))
    cancelled.append(names["run"])
    assert names["run"] not in [request.run for request in journal.cancel_requests("worker")]
print(len(cancelled))
journal.close()
"""
"""Run 30 operations of three ids one after another, each until another process cancels it."""


@pytest.mark.process
def test_cancel_and_delete_during_writes_work(path: Path) -> None:
    """Another process cancels each run and deletes ended ones."""
    with (
        running(_WORK_ON, path) as worker,
        closing(SqliteJournal(path, limits=PATIENT, now=lambda: WALL)) as journal,
    ):
        deleted = 0
        while worker.poll() is None:
            for number in range(3):
                journal.request_cancel(f"o{number}", "next, please")
                deleted += journal.delete(f"o{number}")
            # Why: the other process has to get the lock, also on a loaded machine.
            threading.Event().wait(0.002)
        output, errors = worker.communicate(timeout=60)
        assert (output, errors) == ("30\n", "")
        # The first run of an id is deleted after the second one was cancelled.
        assert deleted > 0
        deleted += sum(journal.delete(f"o{number}") for number in range(3))
        assert deleted == 30
        found = journal.batch("all")
        assert found is not None
        assert (found.finished_count, found.is_finished) == (30, True)
        with journal._reading.acquire() as connection:
            for table in ("operations", "levels", "states", "logs", "uses", "requests"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    _check_integrity(path)


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_process_loses_no_written_change_set(path: Path) -> None:
    """The file is sound, and the operation is abandoned."""
    chance = random.Random(7)
    with running(WRITE_UNTIL_KILLED, path) as process:
        for name in (f"p{round_}" for round_ in range(12)):
            send_line(process, name)
            pid = int(read_line(process))
            for _ in range(chance.randint(1, 40)):
                taken = int(read_line(process))
            threading.Event().wait(
                chance.random() * 0.003
            )  # so that the moment falls anywhere within a write
            os.kill(pid, signal.SIGKILL)
            while (line := read_line(process)) != "over":
                taken = int(line)
            _check_integrity(path)
            with closing(SqliteJournal(path, limits=PATIENT, read_only=True)) as reader:
                found = reader.get(name)
                assert found is not None
                assert found.root.sequence in {taken, taken + 1}
                assert max(level.sequence for level in found.levels) == found.root.sequence
                assert [item.number for item in reader.events(name)] == list(
                    range(1, found.root.sequence + 1)
                )


_FORK = """
import os, sys, warnings
from pathlib import Path
from tests.support.factories import WALL, make_change_set, event, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.journal.sqlite import connection as forking
from tests.support.journal_processes import PATIENT

path = Path(sys.argv[1])
journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
journal.write(make_change_set(snapshot()))
# Why: forking with threads is the subject of the tests.
warnings.filterwarnings("ignore", "This process")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(1)
    return pid

def has_ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
"""Why not fork the test process: its other threads may hold locks."""

_BOTH_GO_ON = f"""{_FORK}
assert journal.get("friday-42") is not None
(wrote, tell_wrote), (closed, tell_closed) = os.pipe(), os.pipe()

def child():
    os.close(tell_closed)
    files = Path("/proc/self/fd")
    links = []
    if files.is_dir():
        links = [os.readlink(each) for each in files.iterdir() if each.is_symlink() and each.exists()]
    assert not [link for link in links if link.startswith(str(path))], links
    journal.write(make_change_set(snapshot(operation_id="child", run="c", sequence=1)))
    os.write(tell_wrote, b"x")
    assert os.read(closed, 1) == b"x"
    journal.write(make_change_set(snapshot(operation_id="child", run="c", sequence=2)))

pid = in_child(child)
os.close(tell_wrote)
assert os.read(wrote, 1) == b"x"
journal.write(make_change_set(snapshot(sequence=2)))
journal.close()
os.write(tell_closed, b"x")
assert has_ended_well(pid)
assert {{operation.root.sequence for operation in journal.active()}} == {{2}}
assert len(journal.active()) == 2
journal.close()
"""

_STUCK = f"""{_FORK}
import threading
forking.PATIENCE_S = 0.01
entered, leave = threading.Event(), threading.Event()

def stuck():
    with journal._writing.transaction("IMMEDIATE"):
        entered.set()
        leave.wait()

def child():
    try:
        journal.write(make_change_set())
    except JournalError as exc:
        assert "forked" in str(exc)
    else:
        raise AssertionError("the child wrote")

thread = threading.Thread(target=stuck)
thread.start()
entered.wait()
try:
    assert has_ended_well(in_child(child))
finally:
    leave.set()
    thread.join()
journal.write(make_change_set(snapshot(sequence=2)))
journal.close()
"""

_LONG_WRITE = f"""{_FORK}
import threading
started, stop, calls = threading.Event(), threading.Event(), []
write_rows = journal._writer.write

def write_slowly(connection, one):
    write_rows(connection, one)
    calls.append(one)
    started.set()
    # The first write lasts until the fork stops it.
    while len(calls) == 1 and not stop.is_set():
        connection.execute("SELECT 1")
        if MANY_ROWS:
            rows = ((-1,) for _ in iter(stop.is_set, True))
            connection.executemany("DELETE FROM logs WHERE operation = ?", rows)

journal._writer.write = write_slowly
errors = []

def write():
    try:
        journal.write(make_change_set(snapshot(sequence=2), events=[event(1)]))
    except BaseException as exc:
        errors.append(exc)

def child():
    journal.write(make_change_set(snapshot(operation_id="child", run="c")))

thread = threading.Thread(target=write)
thread.start()
started.wait()
try:
    assert has_ended_well(in_child(child))
finally:
    stop.set()
    thread.join()
assert errors == []
assert len(calls) == 2
sequences = {{operation.operation_id: operation.root.sequence for operation in journal.active()}}
assert sequences == {{"friday-42": 2, "child": 1}}
assert [one.number for one in journal.events("friday-42")] == [1]
journal.close()
"""

_LONG_WRITE_OF_ROWS = _LONG_WRITE.replace("MANY_ROWS", "True")

_LONG_QUERY = f"""{_FORK}
import threading
from otel_progress.journal.sqlite import connection as forking
started, calls = threading.Event(), []

@forking.repeat_after_fork
def query():
    with journal._reading.acquire(is_query=True) as connection:
        calls.append(1)
        started.set()
        if len(calls) == 1:
            endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
            connection.execute(endless).fetchall()

thread = threading.Thread(target=query, daemon=True)
thread.start()
started.wait()
change_set = make_change_set(snapshot(operation_id="child", run="c"))
assert has_ended_well(in_child(lambda: journal.write(change_set)))
thread.join()
assert len(calls) == 2
assert len(journal.active()) == 2
journal.close()
"""

_WAIT_FOR_ANOTHER_PROCESS = f"""{_FORK}
import subprocess, threading, time
hold = (
    "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
    "connection.execute('BEGIN IMMEDIATE'); print(flush=True); input()"
)
command = [sys.executable, "-c", hold, str(path)]
other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
other.stdout.readline()
errors = []

def write():
    try:
        journal.write(make_change_set(snapshot(sequence=2)))
    except BaseException as exc:
        errors.append(exc)

thread = threading.Thread(target=write)
thread.start()
while not journal._writing.lock.locked():
    time.sleep(0.001)

def child():
    assert len(journal.active()) == 1
    assert not journal._writing._inherited

assert has_ended_well(in_child(child))
other.communicate(b"\\n")
thread.join()
assert errors == []
assert {{operation.root.sequence for operation in journal.active()}} == {{2}}
journal.close()
"""

_FORK_WITHIN_A_USE = f"""{_FORK}
import time

def child():
    try:
        journal.write(make_change_set())
    except JournalError as exc:
        assert "forked" in str(exc)
    else:
        raise AssertionError("the child wrote")

with journal._writing.transaction("IMMEDIATE"):
    started = time.monotonic()
    pid = in_child(child)
    assert time.monotonic() - started < forking.PATIENCE_S
assert has_ended_well(pid)
journal.write(make_change_set(snapshot(sequence=2)))
journal.close()
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(_BOTH_GO_ON, id="between two uses"),
        pytest.param(_STUCK, id="in a use that hangs"),
        pytest.param(_LONG_WRITE.replace("MANY_ROWS", "False"), id="in a write of many statements"),
        pytest.param(_LONG_WRITE_OF_ROWS, id="in a write of many rows"),
        pytest.param(_LONG_QUERY, id="in a long query"),
        pytest.param(_WAIT_FOR_ANOTHER_PROCESS, id="while another process holds the lock"),
        pytest.param(_FORK_WITHIN_A_USE, id="by the thread that uses it"),
    ],
)
def test_fork_shares_no_connection(path: Path, program: str) -> None:
    """A fork stops a long use, and a child of a use that hangs raises an error."""
    assert run(program, path) == ""
    _check_integrity(path)


def test_journal_is_used_by_several_threads(path: Path) -> None:
    """Readers query while the ticker writes."""
    journal = SqliteJournal(path, limits=PATIENT, now=lambda: WALL)
    journal.write(make_change_set(snapshot()))
    trouble: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(50):
                assert journal.get("friday-42") is not None
                assert len(journal.active()) == 1
                assert len(next(journal.watch())) == 1
        except BaseException as exc:
            trouble.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 100):
        journal.write(make_change_set(snapshot(sequence=number), events=[event(number)]))
    for thread in threads:
        thread.join()
    assert trouble == []
    journal.close()


def _check_integrity(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
