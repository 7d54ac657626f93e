"""Operations in children of multiprocessing reach the journal and OTLP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_progress import semconv
from otel_progress.journal import open_journal
from otel_progress.protocols import HistoryQuery
from tests.support.otlp_receiver import Receiver, attributes, receiving

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs all start methods"),
]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/support/programs/process_pool.py"
EXPECTED = {f"part-{number}" for number in range(10)}
METHODS = ("fork", "forkserver", "spawn")
KINDS = ("process", "pool_closed", "pool_left", "executor")


class Delivered(NamedTuple):
    """Ids of the completed operations that arrived, by output."""

    journal: set[str]
    spans: set[str]
    events: set[str]


def run_pool(
    folder: Path, method: str, kind: str, seconds: float, *, store: bool = True, otlp: bool = True
) -> Delivered:
    """Run the program. Return what arrived in the journal and over OTLP."""
    url = f"sqlite:///{folder / 'progress.db'}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ = {
        **kept,
        "OTEL_PROGRESS_STORE": url if store else "memory:",
        "OTEL_PROGRESS_OTLP": str(otlp).lower(),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "PYTHONPATH": str(ROOT),
    }
    if otlp:
        environ["PATIENT"] = "1"
    with receiving() as receiver:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver.port}"
        result = subprocess.run(
            [sys.executable, str(PROGRAM), method, kind, str(seconds)],
            env=environ,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return Delivered(read_completed(url) if store else set(), *read_received(receiver))


def read_completed(url: str) -> set[str]:
    """Return the completed operations of a journal, which has no others."""
    journal = open_journal(url, read_only=True)
    assert list(journal.active()) == []
    found = [(one.operation_id, one.status.value) for one in journal.history(HistoryQuery())]
    journal.close()
    assert {status for _, status in found} <= {"completed"}
    assert max(Counter(found).values(), default=1) == 1
    return {identity for identity, _ in found}


def read_received(receiver: Receiver) -> tuple[set[str], set[str]]:
    """Return the operations of the received spans and of the received finished events."""
    spans = [attributes(span).get(semconv.OPERATION_ID) for _, span in receiver.spans()]
    assert max(Counter(spans).values(), default=1) == 1
    records = [record for _, record in receiver.records() if record.event_name == semconv.EVENT_FINISHED]
    events = [attributes(record) for record in records]
    assert max(Counter(event[semconv.OPERATION_ID] for event in events).values(), default=1) == 1
    completed = {event[semconv.OPERATION_ID] for event in events if event[semconv.STATUS] == "completed"}
    return {str(identity) for identity in spans}, completed


@pytest.mark.parametrize(
    ("method", "kind"), [("fork", "process"), ("fork", "pool_left"), ("forkserver", "executor")]
)
def test_operations_in_children_are_delivered_to_the_journal_and_over_otlp(
    tmp_path: Path, method: str, kind: str
) -> None:
    """Ten of ten operations are completed in each output, and nothing is printed."""
    assert run_pool(tmp_path, method, kind, 0.05) == (EXPECTED, EXPECTED, EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["journal", "otlp"])
@pytest.mark.parametrize("seconds", [0.05, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_operations_in_children_are_delivered_with_every_pool(
    tmp_path: Path, method: str, kind: str, seconds: float, output: str
) -> None:
    """Ten of ten operations are completed in each output alone."""
    if output == "journal":
        assert run_pool(tmp_path, method, kind, seconds, otlp=False).journal == EXPECTED
    else:
        assert run_pool(tmp_path, method, kind, seconds, store=False)[1:] == (EXPECTED, EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_operations_in_processes_of_joblib_are_delivered(tmp_path: Path, seconds: float) -> None:
    """Its processes start neither by fork nor by spawn of multiprocessing."""
    pytest.importorskip("joblib")
    assert run_pool(tmp_path, "spawn", "joblib", seconds) == (EXPECTED, EXPECTED, EXPECTED)
