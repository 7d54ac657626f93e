"""Many forks while threads of the parent are inside of locks."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from otel_progress.journal import open_journal
from otel_progress.journal.spill import list_segments
from otel_progress.protocols import HistoryQuery
from otel_progress.testing import wait_until
from tests.support.exit_programs import run

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

FORKS = 500
CODE = f"""
import faulthandler, itertools, logging, os, threading, time
import otel_progress as progress

# Why: Python's stderr has a lock that another thread may hold at the fork. A journal that is locked
# for 2 s is reported and written later.
logging.getLogger("otel_progress").addHandler(logging.NullHandler())

runtime = progress.configure(console=False, otlp=False, tick=0.01, retention="1h", terminate_signals=True)
stop = threading.Event()
counts = []

def record(name):
    for number in itertools.count():
        if stop.is_set():
            break
        with progress.operation("work", f"{{name}}-{{number}}", id=f"{{name}}-{{number}}", total=3) as op:
            for item in op.track(range(3), type="part"):
                op.item(f"item {{item}}", outcome="failed")
        time.sleep(0.005)
    counts.append(number)

def query():
    while not stop.is_set():
        runtime.get_active_operations()
        runtime.get_history(limit=5)
        runtime.force_flush(60)
        time.sleep(0.002)

threads = [threading.Thread(target=record, args=(f"thread-{{index}}",)) for index in range(3)]
threads.append(threading.Thread(target=query))
for thread in threads:
    thread.start()

def leave_child(number):
    # The watchdog ends a child that hangs with an exit status of 1.
    faulthandler.dump_traceback_later(200, exit=True)
    with progress.operation("child", id=f"child-{{number}}", total=1) as op:
        with op.level("step", "a"):
            op.item("one", outcome="failed")
    os._exit(0)

running = set()
for number in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        leave_child(number)
    running.add(pid)
    while len(running) > 6 or (running and number == {FORKS} - 1):
        pid, status = os.wait()
        running.discard(pid)
        if status:
            print("child", status, flush=True)
stop.set()
for thread in threads:
    thread.join()
print(*counts)
"""


def store_ends(path: Path) -> bool:
    """Store the ends in files. Return True if no file is left."""
    open_journal(f"sqlite:///{path}").close()
    return not list_segments(path)


def test_forks_under_load_lose_and_duplicate_no_record(tmp_path: Path) -> None:
    """No child hangs, and each operation with its events is in the journal once."""
    status, output, errors = run(tmp_path, CODE)
    assert (status, errors) == (0, "")
    counts = [int(count) for count in output.split()]
    expected = {f"child-{number}" for number in range(FORKS)}
    # Why: on a busy machine, the last ends wait in a file, which the next process stores.
    path = tmp_path / "progress.db"
    wait_until(lambda: store_ends(path), 60.0)
    journal = open_journal(f"sqlite:///{path}", read_only=True)
    found = Counter(one.operation_id for one in journal.history(HistoryQuery(limit=1_000_000)))
    assert max(found.values()) == 1
    assert {identity for identity in found if identity.startswith("child-")} == expected
    assert sum(identity.startswith("thread-") for identity in found) == sum(counts)
    for identity in expected:
        operation = journal.get(identity)
        assert operation is not None
        assert (operation.status.value, operation.root.current) == ("completed", 1)
        assert [event.name for event in journal.events(identity)] == ["one"]
    assert list(journal.active()) == []
    journal.close()
