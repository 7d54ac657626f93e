"""Exports of a fixed program: spans, metrics in both text formats, OTLP requests.

Times of the system's clock, ids of the process and versions are replaced. Times of the fake clock
stay.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link

from otel_progress.testing import recording
from tests.support.golden.exports import receiving, scrape
from tests.support.golden.files import Golden
from tests.support.golden.sample_work import LOGGER, do_work
from tests.support.programs import PROGRAMS

FAKE = re.compile(r"17000\d{14}")
FLUSH_S = 60.0
WORKER = PROGRAMS / "exporting_worker.py"
IDS = ("traceId", "spanId", "parentSpanId")
MEASURED = ("progress_tick_duration_seconds", "progress.tick.duration", "progress_scrape")
"""Metrics whose values are durations measured by the system's clock."""

REPLACED = {
    "exception.stacktrace": "STACKTRACE",
    "process.pid": "PID",
    "progress.sequence": "SEQUENCE",
    "service.instance.id": "INSTANCE",
    "telemetry.sdk.version": "VERSION",
}
"""Attributes that differ between runs."""


@pytest.fixture
def _settings_of_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", str(24 * 3600 * 1000))


@pytest.fixture(autouse=True)
def _info_is_logged() -> Iterator[None]:
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield
    LOGGER.setLevel(before)


def test_spans_equal_golden_file(golden: Golden) -> None:
    """Span trees as the testing module shows them, and every field of every span."""
    with recording(capture_logs=True) as recorder:
        _handles = do_work(recorder)
        provider_spans = recorder.spans()
        golden.json("spans/forest.json", recorder.span_trees())
    golden.json(
        "spans/spans.json",
        [_span(span) for span in sorted(recorder.spans(), key=lambda one: one.context.span_id)],
    )
    assert len(provider_spans) < len(recorder.spans())


def test_scrapes_equal_golden_files(golden: Golden) -> None:
    """The metrics endpoint of a process, in both formats."""
    with recording(prometheus_port=0, capture_logs=True) as recorder:
        _handles = do_work(recorder)
        assert recorder.runtime.metrics_url is not None
        golden.text(
            "metrics/scrape.txt", _without_measured(scrape(recorder.runtime.metrics_url, "text/plain"))
        )
        text = scrape(recorder.runtime.metrics_url, "application/openmetrics-text")
        golden.text("metrics/scrape.openmetrics", _without_measured(text))


@pytest.mark.usefixtures("_settings_of_exports")
def test_otlp_logs_and_metrics_equal_golden_files(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded requests, flat and sorted: events, log records, metrics."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        with recording(otlp=True, capture_logs=True, service_name="nightly") as recorder:
            _handles = do_work(recorder, flush=True)
            assert recorder.runtime.force_flush(FLUSH_S)
            requests = receiver.requests()
    golden.json("otlp/logs.json", _flat(requests["/v1/logs"], "resourceLogs", "scopeLogs", "logRecords"))
    golden.json(
        "otlp/metrics.json", _flat(requests["/v1/metrics"][-1:], "resourceMetrics", "scopeMetrics", "metrics")
    )


@pytest.mark.process
def test_otlp_traces_of_process_equal_golden_file(golden: Golden) -> None:
    """Resource, scopes and spans of a process configured by the standard variables."""
    with receiving() as receiver:
        environ = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("OTEL_") and "proxy" not in name.lower()
        }
        environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_SERVICE_NAME": "importer",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        done = subprocess.run(
            [sys.executable, str(WORKER)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        requests = receiver.requests()
    golden.json("otlp/traces.json", _flat(requests["/v1/traces"], "resourceSpans", "scopeSpans", "spans"))


def _flat(requests: list[Any], resources: str, scopes: str, records: str) -> list[Any]:
    """Return (resource, scope, record) of requests, sorted.

    Each resource and scope occurs once, as a key.
    """
    found = [
        {
            "resource": _attributes(resource["resource"]),
            "scope": scope["scope"],
            "schema": scope.get("schemaUrl", ""),
            "record": record,
        }
        for request in requests
        for resource in MessageToDict(request)[resources]
        for scope in resource[scopes]
        for record in scope[records]
    ]
    lines = sorted(json.dumps(_normal(one), sort_keys=True) for one in found)
    return [json.loads(line) for line in dict.fromkeys(lines)]


def _normal(value: Any) -> Any:
    """Return a value without parts that differ between runs.

    Attributes and points are sorted by name.
    """
    if isinstance(value, dict):
        if value.get("key") in REPLACED:
            return {"key": value["key"], "value": REPLACED[value["key"]]}
        if value.get("name") in MEASURED:
            return {
                "name": value["name"],
                "unit": value.get("unit"),
                "points": "MEASURED",
                "kind": sorted(value),
            }
        return {key: _field(key, entry) for key, entry in value.items()}
    if isinstance(value, list):
        return sorted(
            (_normal(entry) for entry in value), key=lambda entry: json.dumps(entry, sort_keys=True)
        )
    return value


def _field(key: str, entry: Any) -> Any:
    if key.endswith("UnixNano"):
        return _time(entry)
    return (
        "ID" if key in IDS and len(set(entry[:12])) > 3 else _normal(entry)
    )  # ids of a recording are small numbers


def _time(text: str) -> str:
    return text if FAKE.fullmatch(text) else "TIME"


def _attributes(resource: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: REPLACED.get(pair["key"], pair["value"]) for pair in resource["attributes"]}


def _span(span: ReadableSpan) -> dict[str, Any]:
    context, scope = span.get_span_context(), span.instrumentation_scope
    assert context is not None
    assert scope is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent": None if span.parent is None else span.parent.span_id,
        "start": _time(str(span.start_time)),
        "end": _time(str(span.end_time)),
        "status": [span.status.status_code.name, span.status.description],
        "scope": [scope.name, scope.version, scope.schema_url],
        "attributes": _sorted(span.attributes),
        "events": [
            [event.name, _time(str(event.timestamp)), _sorted(event.attributes)] for event in span.events
        ],
        "links": [_link(link) for link in span.links],
    }


def _link(link: Link) -> list[Any]:
    return [link.context.trace_id, link.context.span_id, _sorted(link.attributes)]


def _sorted(attributes: Any) -> dict[str, Any]:
    return {name: REPLACED.get(name, value) for name, value in sorted((attributes or {}).items())}


def _without_measured(text: str) -> str:
    """Return an exposition without values that depend on the system's clock."""
    lines = [
        re.sub(r" \S+$", " MEASURED", line) if line.startswith(MEASURED) else line
        for line in text.splitlines()
    ]
    lines = [
        re.sub(r" \S+$", " CREATED", line) if "_created" in line.split("{")[0].split(" ")[0] else line
        for line in lines
    ]
    return "\n".join(lines) + "\n"
