"""Programs that tests run in separate processes with the test helpers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import otel_progress
from otel_progress.journal.sqlite.limits import JournalLimits

_PATHS = (Path(otel_progress.__file__).parents[1], Path(__file__).parents[2])

PATIENT: Final = JournalLimits(busy_timeout_s=60.0)
"""Limits for journals of several processes. On a busy machine a lock may be held for long."""

_WRITING: Final = """
import os, signal, sys
from pathlib import Path
from tests.support.factories import WALL, make_change_set, event, instance, snapshot
from otel_progress.journal import SqliteJournal
from tests.support.journal_processes import PATIENT

def write(journal, name, n):
    root = snapshot(sequence=n, operation_id=name, run=name, instance=name, current=n, message=f"step {n}")
    level = snapshot(f"song:{n % 50}", sequence=n, operation_id=name, run=name, instance=name, current=n)
    events = [event(n, operation_id=name, run=name)]
    journal.write(make_change_set(root, level, instance=instance(name), events=events))
    os.write(1, f"{n}\\n".encode())  # one system call: a kill must not separate the number from its newline
"""

WRITE_AS_TOLD: Final = f"""{_WRITING}
# Why WALL: it is the time of the records. With the current time they would exceed the retention.
journal = SqliteJournal(Path(sys.argv[1]), limits=PATIENT, now=lambda: WALL)
n = 0
for line in sys.stdin:
    for _ in range(int(line)):
        n += 1
        write(journal, sys.argv[2], n)
journal.close()
"""
"""For each number on stdin, write as many change sets, and print each one's number after its write.
"""

WRITE_UNTIL_KILLED: Final = f"""{_WRITING}
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        print(os.getpid(), flush=True)
        journal = SqliteJournal(Path(sys.argv[1]), limits=PATIENT, now=lambda: WALL)
        for n in range(1, 201):
            write(journal, line.strip(), n)
        while True:
            signal.pause()
    os.waitpid(pid, 0)
    print("over", flush=True)
"""
"""For each name on stdin, write change sets of that name in a new process, which prints its pid and
must be killed.
"""


def start(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start a program with captured output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _PATHS))}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program with a pipe to its stdin, see ``tell`` and ``hear``.

    It is killed after the block.
    """
    process = start(program, *arguments, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def send_line(process: subprocess.Popen[str], what: object) -> None:
    """Write a line to a program's stdin."""
    assert process.stdin is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    """Read a line of a program's stdout. Fail with its stderr if it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line.strip()


def run(program: str, *arguments: object) -> str:
    """Run a program and return its output. Fail with its stderr if it fails."""
    with running(program, *arguments) as process:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return output
