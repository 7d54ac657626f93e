"""``configure`` with standard variables only: all signals of a real process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from otel_progress import semconv
from tests.support.otlp_receiver import attributes, receiving

pytestmark = pytest.mark.process

WORKER = """
import otel_progress as progress
from otel_progress.otlp.bounded import ShutdownBudget

ShutdownBudget.__init__.__defaults__ = (60.0,)  # the time limit has tests of its own

with progress.configure(console=False, store="memory:") as runtime:
    with progress.operation("nightly_import", "Friday", id="friday", total=2) as op:
        with op.level("file", "a"):
            op.item("a", outcome="failed", error=ValueError("unreadable"))
        op.increment()
    assert runtime.force_flush(60.0)
"""


def run_worker(port: int, **variables: str) -> None:
    """Run the worker against the receiver."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
        "OTEL_SERVICE_NAME": "importer",
        **variables,
    }
    result = subprocess.run(
        [sys.executable, "-c", WORKER], env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_endpoint_variable_exports_all_signals() -> None:
    """Spans, events and metrics agree and have the service name."""
    with receiving() as receiver:
        run_worker(receiver.port)
        spans, records, metrics = receiver.spans(), receiver.records(), receiver.metrics()
    assert {resource[semconv.SERVICE_NAME] for resource, _ in (*spans, *records, *metrics)} == {"importer"}
    by_name = {span.name: attributes(span) for _, span in spans}
    assert by_name["nightly_import"][semconv.STATUS] == "completed"
    assert by_name["nightly_import"][semconv.CURRENT] == 2
    told = [(record.event_name, attributes(record)[semconv.OPERATION_ID]) for _, record in records]
    for event in (semconv.EVENT_STARTED, semconv.EVENT_ITEM, semconv.EVENT_FINISHED):
        assert (event, "friday") in told
    names = {metric.name for _, metric in metrics}
    assert {
        semconv.OPERATION_RATIO.name,
        semconv.OPERATIONS_FINISHED.name,
        semconv.OPERATION_DURATION.name,
    } <= names


def test_exporter_none_disables_a_signal() -> None:
    """The sampler decides about spans only."""
    with receiving() as receiver:
        run_worker(receiver.port, OTEL_LOGS_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
        assert (len(receiver.spans()), receiver.records(), receiver.metrics()) == (2, [], [])
    with receiving() as receiver:
        run_worker(receiver.port, OTEL_TRACES_SAMPLER="always_off", OTEL_METRICS_EXPORTER="none")
        assert receiver.spans() == []
        assert receiver.records()


def test_disabled_sdk_exports_nothing() -> None:
    """The work is not affected."""
    with receiving() as receiver:
        run_worker(receiver.port, OTEL_SDK_DISABLED="true")
        assert (receiver.spans(), receiver.records(), receiver.metrics()) == ([], [], [])
