"""Progress as log records and as JSON lines."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.console.factory import build_console
from otel_progress.console.json_lines import DescriptorJsonWriter, StreamJsonWriter
from otel_progress.console.plain import INTERVAL_S
from otel_progress.console.rate_limit import MAX_BURST_LINES
from otel_progress.console.records import LOGGER_NAME, LogWriter, RecordConsole
from otel_progress.errors import ConfigurationError, UnavailableError
from otel_progress.model import Eta, Failure, Status
from otel_progress.protocols import Sink
from otel_progress.testing import recording
from tests.support.factories import CLOCK, ended, operation, snapshot
from tests.support.terminal import Clock, Shelf, tick

FIELDS = [
    "version",
    "time",
    "event",
    "severity",
    "operation_id",
    "operation_type",
    "run",
    "batch",
    "trace_id",
    "path",
    "name",
    "status",
    "current",
    "total",
    "unit",
    "ratio",
    "failed",
    "elapsed_s",
    "message",
    "error",
    "condition",
    "remaining_s",
    "eta",
]
"""Fields of each document about an operation or a level, in order."""


class Stage:
    """Console of JSON lines to a text, with a clock."""

    def __init__(self, *operations: Any) -> None:
        self.stream, self.clock = io.StringIO(), Clock()
        self.shelf = Shelf(*operations)
        self.console = RecordConsole(self.shelf, StreamJsonWriter(self.stream), clock=self.clock)  # type: ignore[arg-type]

    def read(self) -> list[dict[str, Any]]:
        """Return the documents so far."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_document_of_running_operation_has_all_fields() -> None:
    eta = Eta(60.0, 50.0, 70.0, "estimated", "rate", 0, CLOCK + 2)
    root = snapshot(current=2, total=8, ratio=0.25, eta=eta, message="line\nbreak")
    stage = Stage()
    stage.console.write(tick(root, seconds=2.0))
    (document,) = stage.read()
    assert list(document) == FIELDS
    assert document["event"] == "started"
    assert document["severity"] == "INFO"
    assert (document["current"], document["total"], document["ratio"]) == (2, 8, 0.25)
    assert document["remaining_s"] == 60.0
    assert document["eta"] > document["time"]
    assert document["message"] == "line\nbreak"
    assert document["time"].endswith("Z")


def test_records_follow_status_and_interval() -> None:
    root = snapshot(ratio=0.5)
    stage = Stage(operation(root))
    stage.console.write(tick(root))
    stage.console.write(tick(root))
    stage.clock.now += INTERVAL_S
    stage.console.write(tick())
    stage.shelf.operations = ()
    stage.console.write(tick(ended(status=Status.FAILED, error=Failure("OSError", "gone"))))
    stage.clock.now += INTERVAL_S
    stage.console.write(tick())
    read = [(each["event"], each["severity"], each["status"]) for each in stage.read()]
    assert read == [
        ("started", "INFO", "running"),
        ("progress", "INFO", "running"),
        ("ended", "ERROR", "failed"),
    ]
    assert stage.read()[-1]["error"] == {"type": "OSError", "message": "gone"}


def test_change_of_status_is_recorded_once() -> None:
    stage = Stage()
    for status in (Status.PENDING, Status.PENDING, Status.RUNNING, Status.RUNNING):
        stage.console.write(tick(snapshot(status=status)))
    assert [(each["event"], each["status"]) for each in stage.read()] == [
        ("started", "pending"),
        ("changed", "running"),
    ]


def test_stalled_operation_is_a_warning() -> None:
    stage = Stage(operation(snapshot(ratio=0.5, advanced_clock=CLOCK), clock=CLOCK + 900.0))
    stage.console.write(tick(snapshot()))
    stage.clock.now += INTERVAL_S
    stage.console.write(tick())
    assert [(each["condition"], each["severity"]) for each in stage.read()][-1] == ("stalled", "WARNING")


def test_failed_level_is_an_error_with_its_path() -> None:
    stage = Stage()
    stage.console.write(tick(ended("file:1", status=Status.FAILED, error=Failure("OSError", "gone"))))
    (document,) = stage.read()
    assert list(document) == FIELDS
    assert (document["event"], document["path"], document["severity"]) == ("level_failed", "file:1", "ERROR")


def test_thousand_ends_are_limited_and_counted() -> None:
    stage = Stage()
    stage.console.write(tick(*(ended(run=f"r{number}") for number in range(1000))))
    stage.console.close()
    documents = stage.read()
    assert len(documents) == MAX_BURST_LINES + 1
    assert documents[-1]["event"] == "suppressed"
    assert documents[-1]["count"] == 1000 - MAX_BURST_LINES


def test_values_that_json_does_not_have_are_null() -> None:
    stage = Stage()
    stage.console.write(tick(snapshot(current=float("inf"), total=float("nan"))))
    (document,) = stage.read()
    assert (document["current"], document["total"]) == (None, None)


def test_closed_stream_raises_once() -> None:
    stage = Stage()
    stage.stream.close()
    with pytest.raises(ValueError, match="closed"):
        stage.console.write(tick(snapshot()))
    stage.console.write(tick(snapshot(run="other")))
    stage.console.close()


def test_record_console_is_a_sink() -> None:
    assert isinstance(Stage().console, Sink)


# --- log records ---------------------------------------------------------------------------------


def test_log_records_have_text_severity_and_attributes(caplog: pytest.LogCaptureFixture) -> None:
    console = RecordConsole(Shelf(), LogWriter(), clock=Clock())  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        console.write(tick(snapshot(name="Friday", current=1, total=4, ratio=0.25)))
        console.write(tick(ended(name="Friday", status=Status.FAILED, error=Failure("OSError", "% gone"))))
    first, last = caplog.records
    assert (first.name, first.levelname) == (LOGGER_NAME, "INFO")
    assert "Friday" in first.getMessage()
    assert "running 25% 1/4" in first.getMessage()
    assert vars(first)["progress.ratio"] == 0.25
    assert vars(first)["progress.status"] == "running"
    assert last.levelname == "ERROR"
    assert "OSError: % gone" in last.getMessage()


def test_console_log_is_not_captured_as_log_of_the_operation(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise each record would cause the next one."""
    with caplog.at_level(logging.DEBUG), recording(console="log", capture_logs="DEBUG") as recorder:
        runtime = recorder.runtime
        with progress.operation("job", id="job"):
            runtime.force_flush()
            logging.getLogger("app").info("of the program")
        runtime.force_flush()
        assert [record.message for record in runtime.get_logs("job")] == ["of the program"]
    records = [record for record in caplog.records if record.name == LOGGER_NAME]
    assert [vars(record)["progress.status"] for record in records] == ["running", "completed"]


def test_log_handler_that_raises_does_not_stop_the_work() -> None:
    received: list[logging.LogRecord] = []

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            received.append(record)
            raise RuntimeError("on purpose")

    logger, handler = logging.getLogger(LOGGER_NAME), Failing()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with recording(console="log") as recorder, progress.operation("job") as op:
            recorder.runtime.force_flush()
        assert received
        assert op.snapshot().status is Status.COMPLETED
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


# --- file descriptors ----------------------------------------------------------------------------


def test_descriptor_writer_keeps_its_own_copy(tmp_path: Path) -> None:
    with (tmp_path / "out.jsonl").open("wb") as file:
        writer = DescriptorJsonWriter(file.fileno())
    writer.write_record(logging.INFO, "", {"name": "混合 \udcff"})
    writer.close()
    writer.write_record(logging.INFO, "", {"name": "late"})
    (line,) = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {"name": "混合 \udcff"}


def test_slow_reader_loses_lines_but_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_progress.console.json_lines.WRITE_WAIT_S", 0.0)
    reading, writing = os.pipe()
    writer = DescriptorJsonWriter(writing)
    line = {"text": "x" * 1000}
    for _ in range(200):
        writer.write_record(logging.INFO, "", line)
    received = os.read(reading, 1 << 20)
    writer.write_record(logging.INFO, "", {"text": "after"})
    last = json.loads(os.read(reading, 1 << 20).splitlines()[-1])
    assert last == {"text": "after", "dropped": 200 - received.count(b"\n")}
    writer.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("kind", ["closed", "read-only"])
def test_descriptor_that_cannot_be_written_is_rejected(kind: str) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    descriptor = reading if kind == "read-only" else writing
    with pytest.raises(UnavailableError, match=f"Invalid console json:{descriptor}: expected a file desc"):
        build_console(Shelf(), f"json:{descriptor}")  # type: ignore[arg-type]
    os.close(reading)


def test_descriptor_of_environment_that_was_not_inherited_is_rejected() -> None:
    """Its number may be that of a file of the program."""
    reading, writing = os.pipe()
    environ = {"OTEL_PROGRESS_CONSOLE": f" JSON:{writing}"}
    with pytest.raises(UnavailableError, match="expected a file descriptor that is open"):
        DescriptorJsonWriter(writing, environ)
    os.set_inheritable(writing, True)
    DescriptorJsonWriter(writing, environ).close()
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("value", ["json:", "json:0", "json:-1", "json:x", "json:1.5", "json: 3", "JSONS", 3])
def test_invalid_console_is_rejected_with_the_valid_values(value: object) -> None:
    with pytest.raises(ConfigurationError, match="json: and a file descriptor from 1"):
        progress.configure(console=value)  # type: ignore[arg-type]


PROGRAM = """
import logging, os, signal, sys
import otel_progress as progress
logging.basicConfig(level=logging.WARNING)
if "default" in sys.argv:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
runtime = progress.configure(service_name="t", store="memory:")
for number in range(3):
    with progress.operation("job", str(number)):
        runtime.force_flush()
    runtime.force_flush()
print("finished")
"""


def run_program(console: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program with the console of its environment."""
    environ = {**os.environ, "OTEL_PROGRESS_CONSOLE": console}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        **options,
    )


@pytest.mark.process
def test_json_of_a_program_is_on_the_inherited_descriptor() -> None:
    reading, writing = os.pipe()
    run = run_program(f"json:{writing}", pass_fds=[writing])
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        documents = [json.loads(line) for line in pipe]
    assert [document["event"] for document in documents] == ["started", "ended"] * 3
    assert run.stdout == "finished\n"
    assert run.stderr == ""


@pytest.mark.process
@pytest.mark.parametrize("handler", ["ignored", "default"])
def test_closed_reader_is_logged_once_and_work_continues(handler: str) -> None:
    """Also if SIGPIPE would end the process."""
    reading, writing = os.pipe()
    os.close(reading)
    run = run_program(f"json:{writing}", handler, pass_fds=[writing])
    os.close(writing)
    assert run.stdout == "finished\n"
    assert run.stderr.count("BrokenPipeError: ") == 1


@pytest.mark.process
def test_json_on_stderr_has_only_json_lines() -> None:
    run = run_program("json")
    assert [json.loads(line)["status"] for line in run.stderr.splitlines()] == ["running", "completed"] * 3
