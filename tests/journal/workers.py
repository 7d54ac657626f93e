"""Programs that tests run in processes of their own, with this directory and the package importable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import otel_progress

_PATHS = (Path(otel_progress.__file__).parents[1], Path(__file__).parents[1], Path(__file__).parent)

WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from factories import WALL, batch, event, instance, snapshot
from otel_progress.journal import SqliteJournal

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal = SqliteJournal(path, now=lambda: WALL)  # the time of the records: by another one they would be past retention
for n in itertools.count(1) if count == 0 else range(1, count + 1):
    root = snapshot(sequence=n, operation_id=name, run=name, instance=name, current=n, message=f"step {n}")
    level = snapshot(f"song:{n % 50}", sequence=n, operation_id=name, run=name, instance=name, current=n)
    journal.write(batch(root, level, instance=instance(name), events=[event(n, operation_id=name, run=name)]))
    print(n, flush=True)
journal.close()
"""
"""Write batch after batch; a batch's number is printed once it has been taken."""


def start(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Run a program with its output captured."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _PATHS))}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run(program: str, *arguments: object, **options: object) -> str:
    """Run a program to its end and return what it printed; fail with its errors when it fails."""
    process = start(program, *arguments, **options)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output
