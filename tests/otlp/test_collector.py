"""All three signals through a real collector (rotel) to a receiver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry import trace

from otel_progress import semconv
from otel_progress.metrics.counters import Totals
from otel_progress.metrics.series import Caps, operation_rows, read_operations
from otel_progress.model import Failure, Outcome, Status
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.otlp.events import OtlpEvents
from otel_progress.otlp.exporters import build_resource, build_tracer_provider
from otel_progress.otlp.metrics import build_otlp_metrics
from otel_progress.otlp.sdk_compat import build_event_log
from otel_progress.protocols import Reader
from tests.support import servers
from tests.support.otlp_receiver import Receiver, attributes, receiving
from tests.support.otlp_records import WALL, ListedReader, RecordedEvents, ended, level, make_change_set
from tests.support.rotel import find_rotel, running_rotel

pytestmark = pytest.mark.server

FLUSH_S = 60.0
SERVICE = {semconv.SERVICE_NAME: "nightly", semconv.SERVICE_INSTANCE_ID: "worker-1"}


@pytest.fixture(params=["grpc", "http/protobuf"])
def received(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receiver]:
    """Point the environment at a running collector. Yield the receiver behind it."""
    with (
        receiving() as receiver,
        running_rotel(tmp_path, f"http://127.0.0.1:{receiver.port}") as endpoints,
    ):
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoints[request.param])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(int(FLUSH_S)))
        yield receiver


def test_sampled_spans_arrive_once_with_parents_and_attributes(
    received: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``always_off`` no span arrives."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    silent = build_tracer_provider("nightly", otlp=True, instance_id="worker-1")
    silent.get_tracer("t").start_span("unsampled", attributes={semconv.OPERATION_ID: "no"}).end()
    assert silent.force_flush(int(FLUSH_S * 1000))
    silent.shutdown()
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    provider = build_tracer_provider("nightly", otlp=True, instance_id="worker-1")
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("setlist", attributes={semconv.OPERATION_ID: "friday-42"}) as root:
        tracer.start_span("song", attributes={semconv.LEVEL_ID: "1", semconv.TOTAL: 10}).end()
    assert provider.force_flush(int(FLUSH_S * 1000))
    spans = servers.poll(lambda: received.spans() if len(received.spans()) == 2 else None, what="two spans")
    by_name = {span.name: (resource, span) for resource, span in spans}
    place = root.get_span_context()
    assert set(by_name) == {"setlist", "song"}
    for resource, span in by_name.values():
        assert {name: resource[name] for name in SERVICE} == SERVICE
        assert span.trace_id.hex() == trace.format_trace_id(place.trace_id)
    assert by_name["song"][1].parent_span_id.hex() == trace.format_span_id(place.span_id)
    assert attributes(by_name["song"][1]) == {semconv.LEVEL_ID: "1", semconv.TOTAL: 10}
    provider.shutdown()
    assert len(received.spans()) == 2


def test_events_arrive_with_all_fields(received: Receiver) -> None:
    """They equal those of a direct emitter."""
    item = Event(
        "friday-42",
        "setlist",
        "run-1",
        "song:1",
        "song",
        semconv.EVENT_ITEM,
        1,
        WALL + 2.5,
        "x.wav",
        Outcome.FAILED,
    )
    root = level(metadata={"rate": 44100, "tags": ("a", "b"), "größe": "ü"})
    song = level("song:1", clock=1.0, started=1.0)
    batches = [
        make_change_set(1.0, root, song),
        make_change_set(
            2.5,
            replace(song, sequence=2, current=4, ratio=0.4),
            events=[replace(item, error=Failure("OSError", "gone"))],
        ),
        make_change_set(
            3.0, ended(replace(song, sequence=3), 3.0, Status.FAILED, error=Failure("OSError", "gone"))
        ),
        make_change_set(9.0, ended(replace(root, sequence=4), 9.0)),
    ]
    reported = RecordedEvents()
    log = build_event_log(build_resource("nightly", "worker-1"))
    direct, sent = OtlpEvents(reported), OtlpEvents(log)
    for one in batches:
        direct.write(one)
        sent.write(one)
    assert log.force_flush(FLUSH_S)
    records = servers.poll(
        lambda: received.records() if len(received.records()) >= len(reported.events) else None,
        what="records",
    )
    assert len(reported.events) == 6
    assert all({name: resource[name] for name in SERVICE} == SERVICE for resource, _ in records)
    got = sorted((_plain(record) for _, record in records), key=repr)
    assert got == sorted((_expected(event) for event in reported.events), key=repr)
    sent.close()


def test_metrics_arrive_as_the_series_of_the_scrape(received: Receiver) -> None:
    """The caps are left out. Totals arrive as sums and histograms."""
    own = {semconv.SERIES_SHOWN.name, semconv.SERIES_LIMIT.name}
    snapshot = level(current=3, ratio=0.3, clock=5.0)
    operation = OperationSnapshot(snapshot, (level("song:1", clock=5.0),), WALL + 5.0, 5.0)
    reader = cast("Reader", ListedReader([operation]))
    totals = Totals()
    totals.write(make_change_set(4.0, ended(level(run="before"), 4.0)))
    metrics = build_otlp_metrics(reader, totals, build_resource("nightly", "worker-1"))
    assert metrics.force_flush(FLUSH_S)
    finished, duration = semconv.OPERATIONS_FINISHED.name, semconv.OPERATION_DURATION.name
    servers.poll(
        lambda: {finished, duration} <= {metric.name for _, metric in received.metrics()}, what="metrics"
    )
    gauges = {
        (metric.name, *sorted(attributes(point).items()), point.as_double)
        for _, metric in received.metrics()
        if metric.name not in own
        for point in metric.gauge.data_points
    }
    expected = {
        (metric.name, *sorted(zip(metric.labels, labels, strict=True)), value)
        for metric, labels, value in operation_rows(read_operations(reader, Caps()), Caps(), Totals())
        if metric.name not in own
    }
    assert gauges == expected
    by_name = {metric.name: metric for _, metric in received.metrics()}
    assert [point.as_int for point in by_name[finished].sum.data_points] == [1]
    assert by_name[finished].sum.is_monotonic
    (histogram,) = by_name[duration].histogram.data_points
    assert (histogram.count, histogram.sum, sum(histogram.bucket_counts)) == (1, 4.0, 1)
    metrics.close()


def _plain(record: Any) -> tuple[Any, ...]:
    result = attributes(record)
    name = getattr(record, "event_name", None) or result.pop("event.name")
    place = (record.trace_id.hex(), record.span_id.hex())
    return (
        name,
        record.time_unix_nano,
        record.severity_text,
        record.body.string_value,
        place,
        sorted(result.items(), key=repr),
    )


def _expected(event: Any) -> tuple[Any, ...]:
    place = (event.trace_id or "", event.span_id or "")
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in event.attributes.items()
    }
    severity = "ERROR" if event.error else "INFO"
    return (event.name, int(event.at * 1e9), severity, event.body, place, sorted(given.items(), key=repr))


def test_collector_is_installed_if_servers_are_required() -> None:
    """Otherwise all tests above could be skipped."""
    if os.environ.get(servers.REQUIRED) != "1":
        pytest.skip(f"{servers.REQUIRED} is not set")
    assert os.access(find_rotel(), os.X_OK)
