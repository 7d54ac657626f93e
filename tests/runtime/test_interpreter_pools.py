"""Calls in the isolated interpreters of an ``InterpreterPoolExecutor``.

Python 3.14 has one. On Python 3.13 the package interpreters-pep-734 has the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from otel_progress import semconv
from otel_progress.journal import open_journal
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import HistoryQuery
from tests.support.otlp_receiver import attributes, receiving

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.version_info < (3, 13), reason="Python before 3.13 has no interpreter pools"),
]

ROOT = Path(__file__).parents[2]

JOBS = """
import otel_progress as progress

kept = []


def count(number):
    level = progress.current_level()
    with level.level("file", str(number), total=3) as file:
        for _ in range(3):
            file.increment()
    level.increment()
    return number


def run(number):
    with progress.operation("part", id=f"ended-{number}", total=2) as operation:
        operation.increment(2)


def leave(number):
    operation = progress.operation("part", id=f"left-{number}", total=2).start()
    operation.increment()
    kept.append(operation)
"""

HEAD = """
import otel_progress as progress
import jobs

try:
    from concurrent.futures import InterpreterPoolExecutor
except ImportError:
    from interpreters_backport.concurrent.futures import InterpreterPoolExecutor
"""


def run(folder: Path, code: str, **environ: str) -> dict[str, OperationSnapshot]:
    """Run a program that writes nothing to stderr. Return its ended operations."""
    (folder / "jobs.py").write_text(JOBS)
    (folder / "main.py").write_text(HEAD + textwrap.dedent(code))
    url = f"sqlite:///{folder / 'progress.db'}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    result = subprocess.run(
        [sys.executable, "main.py"],
        cwd=folder,
        env={**kept, "OTEL_PROGRESS_STORE": url, "PYTHONPATH": str(folder), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    journal = open_journal(url, read_only=True)
    assert list(journal.active()) == []
    found = {one.operation_id: journal.get(one.operation_id) for one in journal.history(HistoryQuery())}
    journal.close()
    return {id_: operation for id_, operation in found.items() if operation is not None}


def test_wrapped_calls_in_interpreters_count_in_the_operation(tmp_path: Path) -> None:
    """Every count and every level of the calls is in the operation."""
    found = run(
        tmp_path,
        """
        progress.configure(console=False)
        with progress.operation("job", id="pool", total=12):
            with progress.ProgressExecutor(InterpreterPoolExecutor(3)) as executor:
                assert list(executor.map(jobs.count, range(12))) == list(range(12))
        """,
    )
    operation = found["pool"]
    assert (operation.root.status.value, operation.root.current) == ("completed", 12)
    assert {level.path for level in operation.levels} == {f"file:{number}" for number in range(12)}
    assert {(level.status.value, level.current) for level in operation.levels} == {("completed", 3)}


def test_operations_of_interpreters_end_with_them(tmp_path: Path) -> None:
    """Operations that run when their interpreter ends are cancelled."""
    found = run(
        tmp_path,
        """
        progress.configure(console=False)
        with progress.operation("job", id="pool", total=4):
            with progress.ProgressExecutor(InterpreterPoolExecutor(2)) as executor:
                list(executor.map(jobs.run, range(4)))
                list(executor.map(jobs.leave, range(2)))
        """,
    )
    ends = {id_: (operation.root.status.value, operation.root.current) for id_, operation in found.items()}
    assert ends.pop("pool") == ("completed", 0)
    assert ends == {
        **{f"ended-{number}": ("completed", 2) for number in range(4)},
        **{f"left-{number}": ("cancelled", 1) for number in range(2)},
    }


def test_interpreters_do_not_load_exporters_or_psutil(tmp_path: Path) -> None:
    """The owner of the operation exports it with its levels."""
    with receiving() as receiver:
        found = run(
            tmp_path,
            """
            progress.configure(console=False)
            with progress.operation("job", id="pool", total=4):
                with progress.ProgressExecutor(InterpreterPoolExecutor(2)) as executor:
                    list(executor.map(jobs.count, range(4)))
            """,
            OTEL_PROGRESS_OTLP="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.port}",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        ends = [
            attributes(record)
            for _, record in receiver.records()
            if record.event_name == semconv.EVENT_FINISHED
        ]
    paths = {end[semconv.PATH]: end[semconv.CURRENT] for end in ends}
    assert paths == {"": 4, **{f"file:{number}": 3 for number in range(4)}}
    assert found["pool"].root.current == 4
