"""Forks, threads and several processes over one Redis journal."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import pytest

from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.protocols import HistoryQuery
from tests.support.factories import event, instance, make_change_set, snapshot
from tests.support.journal_processes import run, running
from tests.support.redis_servers import RedisServer, create_name

pytestmark = pytest.mark.server

FORKS: Final = """
import os, sys, threading, time, warnings
from otel_progress.journal import open_journal
from tests.support.factories import ended, instance, make_change_set, snapshot

# Why: forking with threads is the subject of the test.
warnings.filterwarnings("ignore", "This process")
journal = open_journal(sys.argv[1])
journal.write(make_change_set(snapshot()))
stop = threading.Event()

def write(name):
    number = 1
    while not stop.is_set():
        number += 1
        root = snapshot(sequence=number, current=number, operation_id=name, run=name, instance=name)
        journal.write(make_change_set(root, instance=instance(name)))
        journal.active(levels=False)
        counts[name] = number

counts = {}
threads = [threading.Thread(target=write, args=("writer",)), threading.Thread(target=journal.history)]
for thread in threads:
    thread.start()
failed = 0
for child in range(30):
    pid = os.fork()
    if pid == 0:
        try:
            name = f"child-{child}"
            root = ended(operation_id=name, run=name, instance=name)
            journal.write(make_change_set(root, instance=instance(name)))
            assert journal.get(name).run == name
            os._exit(0)
        finally:
            os._exit(1)
    failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
stop.set()
for thread in threads:
    thread.join()
assert journal.get("writer").root.current == counts["writer"]
print(failed)
"""

TREE: Final = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import otel_progress as progress

progress.configure(store=sys.argv[1], console=False, otlp=False)
for number in range(int(sys.argv[3])):
    with progress.operation("load", id=f"{sys.argv[2]}-{number}", total=10) as operation:
        for _ in operation.track(range(10), name="part"):
            pass
assert progress.flush(60.0)
progress.shutdown(60.0)
"""


@pytest.mark.process
def test_forks_under_load_use_connections_of_their_own(redis_server: RedisServer) -> None:
    """No child gets the answers of its parent, and none hangs."""
    assert run(FORKS, f"{redis_server.url}?name={create_name()}").strip() == "0"


@pytest.mark.process
def test_operations_of_several_processes_are_all_complete(redis_server: RedisServer) -> None:
    """Each process has the whole runtime."""
    from otel_progress.journal import open_journal

    url = f"{redis_server.url}?name={create_name()}"
    with ExitStack() as stack:
        processes = [stack.enter_context(running(TREE, url, f"p{number}", 5)) for number in range(4)]
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    journal = open_journal(url)
    found = journal.history(HistoryQuery(limit=100))
    assert {operation.operation_id for operation in found} == {
        f"p{a}-{b}" for a in range(4) for b in range(5)
    }
    for operation in found:
        full = journal.get(operation.operation_id)
        assert full is not None
        assert full.status.value == "completed"
        assert [level.current for level in full.levels] == [10]
    journal.close()  # type: ignore[attr-defined]


def test_methods_in_many_threads_do_not_mix_their_answers(open_real: Callable[..., RedisJournal]) -> None:
    """One journal is used by all threads."""
    journal = open_real()
    for number in range(8):
        root = snapshot(run=f"r{number}", operation_id=f"o{number}", instance=f"i{number}")
        events = [event(1, run=f"r{number}", operation_id=f"o{number}", name=f"n{number}")]
        journal.write(make_change_set(root, instance=instance(f"i{number}"), events=events))
    wrong: list[object] = []

    def read(number: int) -> None:
        for _ in range(50):
            found = journal.get(f"o{number}")
            names = [each.name for each in journal.events(f"o{number}")]
            if found is None or found.run != f"r{number}" or names != [f"n{number}"]:
                wrong.append((number, found, names))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


IMPORTS = """
import sys
from contextlib import contextmanager
from otel_progress.journal import open_journal
from otel_progress.journal.redis import client

guarded, found = [], []
defer_fork = client.defer_fork

@contextmanager
def guard():
    with defer_fork():
        guarded.append(True)
        yield
        guarded.pop()

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if not guarded:
            found.append(name)

client.defer_fork = guard
journal = open_journal(sys.argv[1])
sys.meta_path.insert(0, Finder)
journal.check()
journal.get("o")
journal.close()
print(found)
"""


def test_connection_imports_nothing_while_this_process_may_fork(redis_server: RedisServer) -> None:
    """A child that is forked during an import of another thread hangs."""
    command = [sys.executable, "-c", IMPORTS, redis_server.url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")
