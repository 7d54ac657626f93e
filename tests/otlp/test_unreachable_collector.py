"""Unreachable collectors: bounded flush and shutdown, one warning per signal."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_progress import semconv
from otel_progress.metrics.counters import Totals
from otel_progress.otlp.bounded import SHUTDOWN_S, ShutdownBudget
from otel_progress.otlp.events import OtlpEvents
from otel_progress.otlp.exporters import (
    BoundedSpanExporter,
    BoundedSpanProcessor,
    build_resource,
    build_tracer_provider,
)
from otel_progress.otlp.metrics import build_otlp_metrics
from otel_progress.otlp.sdk_compat import build_event_log
from otel_progress.protocols import Reader
from tests.support.otlp_records import ListedReader, level, make_change_set

EXPORTER_TIMEOUT_S = 240
"""Timeout of the exporters, in seconds. No call here may take a fraction of it."""

BUSY_MACHINE_S = 1.0
"""Processor time that other tests may take from a process. The budget itself has exact tests with a
fake clock.
"""


@pytest.fixture(params=["refuses", "never answers"])
def dead_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that refuses connections, or one that accepts them and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            server.listen(64)
        yield server.getsockname()[1]


@pytest.fixture(params=["grpc", "http/protobuf"])
def dead_collector(request: pytest.FixtureRequest, dead_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export all signals to a dead collector with a long timeout."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{dead_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(EXPORTER_TIMEOUT_S))
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.usefixtures("dead_collector")
def test_dead_collector_blocks_no_flush_and_logs_once_per_signal(caplog: pytest.LogCaptureFixture) -> None:
    """All signals share one shutdown budget."""
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
    events.write(make_change_set(1.0, level()))
    assert provider.force_flush(100) is False
    assert log.force_flush(0.1) is False
    assert metrics.force_flush(0.1) is False
    provider.shutdown()
    events.close()
    metrics.close()
    assert time.monotonic() - began < EXPORTER_TIMEOUT_S / 4
    assert sorted(set(errors)) == ["events", "metrics", "spans"]
    logged = (
        record for record in caplog.records if record.name.startswith(("otel_progress.otlp", "opentelemetry"))
    )
    warnings = [record for record in logged if record.levelno >= logging.WARNING]
    assert len(warnings) == 3
    assert {record.name for record in warnings} == {"otel_progress.otlp"}


@pytest.mark.process
@pytest.mark.usefixtures("dead_collector")
def test_process_with_a_dead_collector_ends_normally() -> None:
    """Its exports hang."""
    code = (
        "from otel_progress.otlp.exporters import build_tracer_provider\n"
        "from otel_progress.otlp.bounded import ShutdownBudget\n"
        "budget = ShutdownBudget(0.5)\n"
        "provider = build_tracer_provider('nightly', otlp=True, instance_id='i', budget=budget)\n"
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


@pytest.mark.process
@pytest.mark.usefixtures("dead_collector")
@pytest.mark.parametrize("explicit", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_shutdown_with_a_dead_collector_ends_within_the_documented_time(explicit: bool) -> None:
    """The limit of 3 s applies to the end of the process as well."""
    code = (
        "import atexit, sys, time\n"
        "def report(): sys.stdout.write(str(time.monotonic() - started))\n"
        "atexit.register(report)\n"  # registered first, so it runs last
        "import otel_progress as progress\n"
        "runtime = progress.configure(console=False, store='memory:')\n"
        "with progress.operation('a', 'b', total=1) as op:\n"
        "    op.increment()\n"
        "started = time.monotonic()\n"
    ) + ("assert not runtime.shutdown()\n" if explicit else "")
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
        assert done.stderr.count(f"OTLP export of {signal} to http://") == 1


@pytest.mark.process
@pytest.mark.parametrize(("status", "accepted"), [(200, True), (401, False)])
def test_shutdown_returns_whether_the_collector_accepted_everything(
    monkeypatch: pytest.MonkeyPatch, status: int, accepted: bool
) -> None:
    """A refused export takes no time, unlike an unreachable collector."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    code = (
        "import otel_progress as progress\n"
        "progress.configure(console=False, store='memory:')\n"
        "with progress.operation('a'): pass\n"
        "print(progress.shutdown(60))\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "*")
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=os.environ,
        )
        server.shutdown()
    assert (done.returncode, done.stdout) == (0, f"{accepted}\n")


class BlockedReader(ListedReader):
    """A reader that another thread blocks, like a busy machine."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def active(self, *, levels: bool = True) -> Any:
        """Wait, then return the running operations."""
        self.released.wait(60.0)
        return super().active(levels=levels)


@pytest.mark.usefixtures("dead_collector")
def test_close_before_the_last_export_of_metrics_starts_reports_the_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second close does not report it again."""
    errors: list[str] = []
    reader = BlockedReader()
    metrics = build_otlp_metrics(
        cast("Reader", reader),
        Totals(),
        build_resource("nightly", "i"),
        budget=ShutdownBudget(0.1),
        on_error=lambda: errors.append("metrics"),
    )
    metrics.close()
    metrics.close()
    reader.released.set()
    assert errors == ["metrics"]
    lines = [record.getMessage() for record in caplog.records if record.name == "otel_progress.otlp"]
    assert len(lines) == 1
    assert "OTLP export of metrics to http://" in lines[0]
    assert "the last batch was not sent within the time for shutdown" in lines[0]


def test_close_with_spans_behind_a_hanging_export_reports_both_losses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted, and one line is logged for the outage."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    started, released, errors = threading.Event(), threading.Event(), list[str]()

    class HangingExporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            del spans
            started.set()
            released.wait(60.0)
            return SpanExportResult.FAILURE

    exporter = BoundedSpanExporter(
        HangingExporter(), budget=ShutdownBudget(0.1), on_error=lambda: errors.append("spans")
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BoundedSpanProcessor(exporter))
    for _ in range(3):
        provider.get_tracer("t").start_span("op").end()
    assert started.wait(60.0)
    provider.shutdown()
    released.set()
    assert errors == ["spans", "spans"]
    assert [record.name for record in caplog.records].count("otel_progress.otlp") == 1
