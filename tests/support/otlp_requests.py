"""Requests of OTLP in both encodings, from the events of our exporter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otel_progress.otlp.sdk_compat import LogEvent

RESOURCE: Mapping[str, Any] = {"service.name": "nightly", "service.instance.id": "worker-1"}


def build_protobuf_request(events: Iterable[LogEvent], resource: Mapping[str, Any] = RESOURCE) -> bytes:
    """Return events as an ``ExportLogsServiceRequest`` in protobuf."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(build_attributes(resource))
    for event in events:
        scope = group.scope_logs.add()
        scope.scope.name = event.scope or ""
        record = scope.log_records.add()
        record.event_name = event.name or ""
        record.severity_number = event.severity or 0
        record.severity_text = event.severity_text or ""
        record.body.string_value = event.body
        record.time_unix_nano = round(event.at * 1e9)
        record.trace_id = bytes.fromhex(event.trace_id or "")
        record.span_id = bytes.fromhex(event.span_id or "")
        record.attributes.extend(build_attributes(event.attributes))
    return request.SerializeToString()


def build_json_request(events: Iterable[LogEvent], resource: Mapping[str, Any] = RESOURCE) -> bytes:
    """Return events as an ``ExportLogsServiceRequest`` in JSON."""
    scopes = [
        {
            "scope": {"name": event.scope or ""},
            "logRecords": [
                {
                    "eventName": event.name,
                    "timeUnixNano": str(round(event.at * 1e9)),
                    "traceId": event.trace_id or "",
                    "spanId": event.span_id or "",
                    "severityNumber": event.severity or 0,
                    "severityText": event.severity_text or "",
                    "body": {"stringValue": event.body},
                    "attributes": _build_json_attributes(event.attributes),
                }
            ],
        }
        for event in events
    ]
    group = {"resource": {"attributes": _build_json_attributes(resource)}, "scopeLogs": scopes}
    return json.dumps({"resourceLogs": [group]}).encode()


def build_attributes(values: Mapping[str, Any]) -> list[KeyValue]:
    """Return attributes in protobuf."""
    return [KeyValue(key=key, value=_build_value(value)) for key, value in values.items()]


def _build_value(value: Any) -> AnyValue:
    wrapped = AnyValue()
    if isinstance(value, bool):
        wrapped.bool_value = value
    elif isinstance(value, int):
        wrapped.int_value = value
    elif isinstance(value, float):
        wrapped.double_value = value
    elif isinstance(value, str):
        wrapped.string_value = value
    else:
        wrapped.array_value.values.extend(_build_value(element) for element in value)
    return wrapped


def _build_json_attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _build_json_value(value)} for key, value in values.items()]


def _build_json_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    return {"arrayValue": {"values": [_build_json_value(element) for element in value]}}


def build_span_request(*spans: Mapping[str, Any], resource: Mapping[str, Any] = RESOURCE) -> bytes:
    """Return spans as an ``ExportTraceServiceRequest`` in JSON.

    ``attributes`` of a span is a plain dictionary.
    """
    encoded = [{**span, "attributes": _build_json_attributes(span.get("attributes", {}))} for span in spans]
    group = {
        "resource": {"attributes": _build_json_attributes(resource)},
        "scopeSpans": [{"scope": {"name": "tests"}, "spans": encoded}],
    }
    return json.dumps({"resourceSpans": [group]}).encode()
