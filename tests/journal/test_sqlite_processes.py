"""Several processes on one file: writing at once, being killed, forking."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from workers import WRITE_FOR_EVER, start

from factories import WALL, batch, event, snapshot
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal, forking


def test_writers_at_once_lose_nothing_and_readers_never_wait(path: Path) -> None:
    """Four processes write while one reads: every answer is one consistent state, and in the end everything is there."""
    count = 150
    processes = [start(WRITE_FOR_EVER, path, f"p{n}", count) for n in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    reader = SqliteJournal(path, read_only=True)
    views = 0
    while any(process.poll() is None for process in processes):
        for operation in reader.active():
            newest = max((level.sequence for level in operation.levels), default=0)
            assert newest == operation.root.sequence
        views += 1
    assert views > 1
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert {operation.root.sequence for operation in reader.active()} == {count}
    for n in range(4):
        assert [item.number for item in reader.events(f"p{n}")] == list(range(1, count + 1))
    reader.close()


_WORK_ON = """
import itertools, sys
from pathlib import Path
from factories import WALL, batch, batch_info, ended, instance, log, sample, snapshot
from otel_progress.journal import SqliteJournal

journal = SqliteJournal(Path(sys.argv[1]), now=lambda: WALL)
me = instance("worker")
cancelled, sequence = [], itertools.count(1)
journal.write(batch(instance=me, batches=[batch_info("all", total=30)]))
for n in range(30):
    names = dict(operation_id=f"o{n % 3}", run=f"r{n}", instance="worker", batch="all")
    while True:
        number = next(sequence)
        logs = [log(number, operation_id=names["operation_id"], run=names["run"])]
        journal.write(batch(snapshot(sequence=number, current=number, **names), instance=me, logs=logs, sample=sample(number)))
        asked = [request.run for request in journal.requests("worker")]
        if names["run"] in asked:
            break
    journal.write(batch(ended(sequence=next(sequence), **names), instance=me))
    cancelled.append(names["run"])
    assert names["run"] not in [request.run for request in journal.requests("worker")]
print(len(cancelled))
journal.close()
"""
"""Run 30 operations of three ids one after the other, each of them until somebody cancels it."""


def test_cancelling_and_deleting_while_a_worker_writes(path: Path) -> None:
    """Another process cancels each run and deletes ended ones at once; the worker notices the one, not the other."""
    worker = start(_WORK_ON, path)
    journal = SqliteJournal(path, now=lambda: WALL)
    deleted = 0
    while worker.poll() is None:
        for number in range(3):
            journal.request_cancel(f"o{number}", "next, please")
            deleted += journal.delete(f"o{number}")
        threading.Event().wait(0.002)  # so that the worker gets its turn, also on a machine that is busy
    output, errors = worker.communicate()
    assert (output, errors) == ("30\n", "")
    assert deleted > 0
    deleted += sum(journal.delete(f"o{number}") for number in range(3))
    assert deleted == 30
    found = journal.batch("all")
    assert found is not None
    assert (found.finished, found.over) == (30, True)
    with journal._reading.use() as connection:
        for table in ("operations", "levels", "states", "logs", "uses", "requests"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    journal.close()
    _assert_sound(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_worker_loses_no_batch_and_breaks_nothing(path: Path) -> None:
    """Killed at any moment: what was taken is there, as a whole, the file is sound, and its operation is abandoned."""
    chance = random.Random(7)
    for round_ in range(12):
        name = f"p{round_}"
        process = start(WRITE_FOR_EVER, path, name, 0)
        assert process.stdout is not None
        for _ in range(chance.randint(1, 40)):
            last = int(process.stdout.readline())
        threading.Event().wait(chance.random() * 0.003)  # so that the moment falls anywhere within a write
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.communicate()
        taken = max([last, *(int(line) for line in rest.split("\n")[:-1])])
        _assert_sound(path)
        reader = SqliteJournal(path, read_only=True)
        found = reader.get(name)
        assert found is not None
        assert found.root.sequence in {taken, taken + 1}
        assert max(level.sequence for level in found.levels) == found.root.sequence
        assert [item.number for item in reader.events(name)] == list(range(1, found.root.sequence + 1))
        reader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking with threads is what is tested
def test_no_connection_crosses_a_fork(path: Path) -> None:
    """Parent and child go on with connections of their own, and neither removes the log under the other."""
    journal = SqliteJournal(path)
    journal.write(batch(snapshot()))
    assert journal.get("friday-42") is not None
    context = multiprocessing.get_context("fork")
    parent_closed, child_wrote = context.Event(), context.Event()

    def child() -> None:
        assert not _open_files(path)
        journal.write(batch(snapshot(operation_id="child", run="c", sequence=1)))
        child_wrote.set()
        assert parent_closed.wait(30)
        journal.write(batch(snapshot(operation_id="child", run="c", sequence=2)))

    process = context.Process(target=child)
    process.start()
    assert child_wrote.wait(30)
    journal.write(batch(snapshot(sequence=2)))
    journal.close()
    parent_closed.set()
    process.join(30)
    assert process.exitcode == 0
    assert {operation.root.sequence for operation in journal.active()} == {2}
    journal.close()
    _assert_sound(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_stuck_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child forked in the middle of a use leaves the inherited connection alone and says so; the parent is not harmed."""
    monkeypatch.setattr(forking, "PATIENCE_S", 0.01)
    journal = SqliteJournal(path)
    journal.write(batch(snapshot()))
    entered, leave = threading.Event(), threading.Event()

    def stuck() -> None:
        with journal._writing.transaction("IMMEDIATE"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=stuck)
    thread.start()
    assert entered.wait(30)
    pid = os.fork()
    if pid == 0:
        try:
            journal.write(batch())
        except JournalError as exc:
            os._exit(0 if "forked" in str(exc) else 2)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    journal.write(batch(snapshot(sequence=2)))
    journal.close()
    _assert_sound(path)


def test_threads_share_a_journal(path: Path) -> None:
    """Readers ask from any thread while the ticker writes."""
    journal = SqliteJournal(path)
    journal.write(batch(snapshot()))
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
        journal.write(batch(snapshot(sequence=number), events=[event(number)]))
    for thread in threads:
        thread.join()
    assert trouble == []
    journal.close()


def _open_files(path: Path) -> list[str]:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return []
    links = [str(entry.readlink()) for entry in descriptors.iterdir() if entry.is_symlink() and entry.exists()]
    return [link for link in links if link.startswith(str(path))]


def _assert_sound(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
