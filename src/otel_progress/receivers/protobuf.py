"""Decoder of OTLP requests in protobuf."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc import status_pb2  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otel_progress.model import MetadataValue
from otel_progress.receivers.attributes import (
    MAX_ATTRIBUTES,
    MAX_BODY_DEPTH,
    MAX_ELEMENTS,
    MAX_KEY_CHARACTERS,
    convert_array,
    convert_body,
    convert_details,
    convert_end,
    convert_error,
    convert_id,
    convert_scalar,
    convert_time,
    is_parent_local,
)
from otel_progress.receivers.telemetry import (
    Decoded,
    InvalidRequestError,
    ReceivedEvent,
    ReceivedLog,
    ReceivedSpan,
    Signal,
)
from otel_progress.semconv import EVENTS, EXCEPTION_STACKTRACE, LEGACY_EVENT_NAME, OPERATION_ID
from otel_progress.text import MAX_NAME, truncate

_EVENTS: Final = frozenset(EVENTS)


def decode_logs(body: bytes, now: float) -> Decoded[ReceivedEvent | ReceivedLog]:
    """Return the events and log records of an ``ExportLogsServiceRequest``.

    Log records without a trace and without an operation are omitted. ``now`` is the time of
    reception in Unix seconds. Raises InvalidRequestError.
    """
    return convert_logs(_parse(ExportLogsServiceRequest, body), now)


def decode_spans(body: bytes, now: float) -> Decoded[ReceivedSpan]:
    """Return the spans of an ``ExportTraceServiceRequest``, like :func:`decode_logs`."""
    return convert_spans(_parse(ExportTraceServiceRequest, body), now)


def convert_logs(request: Any, now: float) -> Decoded[ReceivedEvent | ReceivedLog]:
    """Return the events and log records of a parsed request, for example of gRPC."""
    records: list[ReceivedEvent | ReceivedLog] = []
    for group in request.resource_logs:
        resource = None
        for scope in group.scope_logs:
            for record in scope.log_records:
                # Why before anything else: other records are most of the traffic of a Collector.
                name = record.event_name or _find_text(record.attributes, LEGACY_EVENT_NAME)
                is_event = name in _EVENTS
                trace_id = convert_id(record.trace_id.hex(), 32) if record.trace_id else None
                if not is_event and trace_id is None and not _find_text(record.attributes, OPERATION_ID):
                    continue
                if resource is None:
                    resource = _convert_attributes(group.resource.attributes)
                at = convert_time(record.time_unix_nano or record.observed_time_unix_nano, now)
                if not is_event:
                    records.append(_convert_log(record, scope.scope.name, trace_id, at, resource))
                    continue
                records.append(
                    ReceivedEvent(
                        name=name,
                        at=at,
                        trace_id=trace_id,
                        span_id=convert_id(record.span_id.hex(), 16),
                        attributes=_convert_attributes(record.attributes),
                        resource=resource,
                    )
                )
    return Decoded(records)


def _convert_log(
    record: Any, scope: str, trace_id: str | None, at: float, resource: Mapping[str, MetadataValue]
) -> ReceivedLog:
    attributes = _convert_attributes(record.attributes)
    attributes.pop(EXCEPTION_STACKTRACE, None)
    return ReceivedLog(
        at=at,
        trace_id=trace_id,
        span_id=convert_id(record.span_id.hex(), 16),
        severity=record.severity_number,
        severity_text=truncate(record.severity_text, MAX_NAME),
        logger=truncate(scope, MAX_NAME),
        body=convert_body(_convert_structure(record.body, MAX_BODY_DEPTH)),
        details=convert_details(_find_text(record.attributes, EXCEPTION_STACKTRACE)),
        attributes=attributes,
        resource=resource,
    )


def _convert_structure(value: Any, depth: int) -> object:
    """Return an ``AnyValue`` as a value of JSON.

    Its depth and the number of its elements are limited.
    """
    kind = value.WhichOneof("value")
    if kind is None or depth == 0:
        return None
    if kind == "array_value":
        elements = value.array_value.values[:MAX_ELEMENTS]
        return [_convert_structure(element, depth - 1) for element in elements]
    if kind == "kvlist_value":
        pairs = value.kvlist_value.values[:MAX_ELEMENTS]
        return {pair.key: _convert_structure(pair.value, depth - 1) for pair in pairs}
    scalar = getattr(value, kind)
    return base64.b64encode(scalar).decode() if isinstance(scalar, bytes) else scalar


def convert_spans(request: Any, now: float) -> Decoded[ReceivedSpan]:
    """Return the spans of a parsed request, for example of gRPC."""
    spans = []
    rejected = 0
    for group in request.resource_spans:
        resource = _convert_attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                trace_id = convert_id(span.trace_id.hex(), 32)
                span_id = convert_id(span.span_id.hex(), 16)
                if trace_id is None or span_id is None:
                    rejected += 1
                    continue
                parent_span_id = convert_id(span.parent_span_id.hex(), 16)
                failed = span.status.code == Status.STATUS_CODE_ERROR
                spans.append(
                    ReceivedSpan(
                        name=span.name,
                        trace_id=trace_id,
                        span_id=span_id,
                        parent_span_id=parent_span_id,
                        started_at=convert_time(span.start_time_unix_nano, now),
                        ended_at=convert_end(span.end_time_unix_nano, now),
                        attributes=_convert_attributes(span.attributes),
                        resource=resource,
                        error=convert_error(span.status.message) if failed else None,
                        has_local_parent=parent_span_id is not None and is_parent_local(span.flags),
                    )
                )
    return Decoded(spans, rejected, "a span without a valid trace id and span id" if rejected else "")


def encode_response(signal: Signal, rejected: int, reason: str) -> bytes:
    """Return the response to a request of which ``rejected`` records were not stored."""
    if not rejected:
        return b""  # the response of every signal without fields
    if signal == "logs":
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = rejected
        logs.partial_success.error_message = reason
        return bytes(logs.SerializeToString())
    spans = ExportTraceServiceResponse()
    spans.partial_success.rejected_spans = rejected
    spans.partial_success.error_message = reason
    return bytes(spans.SerializeToString())


def encode_error(code: int, message: str) -> bytes:
    """Return the ``google.rpc.Status`` of a refused request."""
    return bytes(status_pb2.Status(code=code, message=message).SerializeToString())


def _parse(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        msg = f"Invalid request body: expected the protobuf message {kind.__name__} ({error})."
        raise InvalidRequestError(msg) from error


def _find_text(attributes: Iterable[Any], key: str) -> str:
    """Return the text of an attribute, or an empty one."""
    for attribute in attributes:
        if attribute.key == key:
            return str(attribute.value.string_value)
    return ""


def _convert_attributes(attributes: Iterable[Any]) -> dict[str, MetadataValue]:
    values: dict[str, MetadataValue] = {}
    for attribute in attributes:
        if len(values) == MAX_ATTRIBUTES:
            break
        value = _convert_value(attribute.value)
        if value is not None and 0 < len(attribute.key) <= MAX_KEY_CHARACTERS:
            values[attribute.key] = value
    return values


def _convert_value(value: Any) -> MetadataValue | None:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        elements = value.array_value.values
        return convert_array(
            getattr(element, element.WhichOneof("value") or "", None) for element in elements
        )
    return None if kind is None else convert_scalar(getattr(value, kind))
