"""Collectors that are not there, or that never answer: the work goes on, closing is quick, one line is logged for each signal."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import cast

import pytest

from otel_progress import semconv
from otel_progress.metrics.counters import Totals
from otel_progress.otlp.bounded import SHUTDOWN_S, ShutdownBudget
from otel_progress.otlp.events import OtlpEvents
from otel_progress.otlp.exporters import build_resource, build_tracer_provider
from otel_progress.otlp.metrics import build_otlp_metrics
from otel_progress.otlp.sdk_compat import build_event_log
from otel_progress.protocols import Reader
from tests.support.otlp_records import ListedReader, batch, level

EXPORTER_TIMEOUT_S = 240
"""What the exporters are told to wait for a collector: nothing here may take a fraction of it."""

BUSY_MACHINE_S = 1.0
"""Processor time that other tests may take from a process.

The budget itself has exact tests with a fake clock.
"""


@pytest.fixture(params=["refuses", "never answers"])
def dead_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that is taken and where nothing listens, or one that takes connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            server.listen(64)
        yield server.getsockname()[1]


@pytest.fixture(params=["grpc", "http/protobuf"])
def dead(request: pytest.FixtureRequest, dead_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sends everything to a dead collector, patiently."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{dead_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(EXPORTER_TIMEOUT_S))
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.usefixtures("dead")
def test_nothing_blocks_raises_or_repeats_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Flushing keeps to its timeout, closing all signals takes one budget, and each signal logs one warning and counts."""
    errors: list[str] = []
    budget = ShutdownBudget(0.5)
    provider = build_tracer_provider(
        "nightly", otlp=True, instance_id="i", budget=budget, on_error=lambda: errors.append("spans")
    )
    resource = build_resource("nightly", "i")
    log = build_event_log(resource, budget=budget, on_error=lambda: errors.append("events"))
    events = OtlpEvents(log)
    reader = cast("Reader", ListedReader())
    totals = Totals()
    totals.count_rejected("negative")
    metrics = build_otlp_metrics(
        reader, totals, resource, budget=budget, on_error=lambda: errors.append("metrics")
    )
    began = time.monotonic()
    for _ in range(3):
        provider.get_tracer("t").start_span("op", attributes={semconv.OPERATION_ID: "x"}).end()
    events.write(batch(1.0, level()))
    assert provider.force_flush(100) is False
    assert log.force_flush(0.1) is False
    assert metrics.force_flush(0.1) is False
    provider.shutdown()
    events.close()
    metrics.close()
    assert time.monotonic() - began < EXPORTER_TIMEOUT_S / 4
    assert sorted(set(errors)) == ["events", "metrics", "spans"]
    logged = (
        record
        for record in caplog.records
        if record.name.startswith(("otel_progress.otlp.", "opentelemetry"))
    )
    warnings = [record for record in logged if record.levelno >= logging.WARNING]
    assert len(warnings) == 3
    assert {record.name for record in warnings} == {"otel_progress.otlp.bounded"}


@pytest.mark.process
@pytest.mark.usefixtures("dead")
def test_process_with_a_dead_collector_ends_by_itself() -> None:
    """A program that does nothing but work ends normally, soon, with its own result, though its exports hang."""
    code = (
        "from otel_progress.otlp.exporters import build_tracer_provider\n"
        "from otel_progress.otlp.bounded import ShutdownBudget\n"
        "provider = build_tracer_provider('nightly', otlp=True, instance_id='i', budget=ShutdownBudget(0.5))\n"
        "provider.get_tracer('t').start_span('op', attributes={'progress.operation.id': 'x'}).end()\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=EXPORTER_TIMEOUT_S / 4,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("explicit", [True, False])
def test_all_signals_together_end_within_the_documented_time(explicit: bool) -> None:
    """``shutdown()`` and the end of the process wait at most 3 s in total: spans, events, metrics and the last flush of spans."""
    code = (
        "import atexit, sys, time\n"
        "def report(): sys.stdout.write(str(time.monotonic() - started))\n"
        "atexit.register(report)\n"  # registered first, so it runs last
        "import otel_progress as progress\n"
        "runtime = progress.configure(console=False, store='memory:')\n"
        "with progress.operation('a', 'b', total=1) as op:\n"
        "    op.increment()\n"
        "started = time.monotonic()\n"
    ) + ("runtime.shutdown()\n" if explicit else "")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=EXPORTER_TIMEOUT_S / 4,
        env=os.environ,
    )
    assert done.returncode == 0
    assert float(done.stdout) <= SHUTDOWN_S + BUSY_MACHINE_S
    for signal in ("spans", "events", "metrics"):
        assert done.stderr.count(f"OTLP export of {signal} failed") == 1
