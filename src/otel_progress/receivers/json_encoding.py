"""Decoder of OTLP requests in JSON.

The JSON of OTLP differs from the JSON of protobuf: ids are hexadecimal. Senders differ, too. A
64-bit integer is a text or a number, and an object may be missing or null. All of it is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

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


_MAX_UINT64: Final = 2**64 - 1


_STATUS_ERROR: Final = (2, "STATUS_CODE_ERROR")


_SEVERITIES: Final = {
    f"SEVERITY_NUMBER_{name}{suffix}": 4 * group + number
    for group, name in enumerate(("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"))
    for number, suffix in enumerate(("", "2", "3", "4"), 1)
}


class _InvalidRecordError(ValueError):
    """A record with a value of a wrong type."""


def decode_logs(body: bytes, now: float) -> Decoded[ReceivedEvent | ReceivedLog]:
    """Return the events and log records of an ``ExportLogsServiceRequest``.

    Log records without a trace and without an operation are omitted. ``now`` is the time of
    reception in Unix seconds. Raises InvalidRequestError.
    """
    records: list[ReceivedEvent | ReceivedLog] = []
    rejections = []
    for resource, scope, record in _walk(_parse(body), "resourceLogs", "scopeLogs", "logRecords"):
        try:
            name = _get(record, "eventName", str, "") or _find_text(record, LEGACY_EVENT_NAME)
            trace_id = convert_id(_get(record, "traceId", str, ""), 32)
            if name not in _EVENTS:
                if trace_id is not None or _find_text(record, OPERATION_ID):
                    records.append(_convert_log(resource, scope, record, trace_id, now))
                continue
            event = ReceivedEvent(
                name=name,
                at=_get_time(record, now),
                trace_id=trace_id,
                span_id=convert_id(_get(record, "spanId", str, ""), 16),
                attributes=_convert_attributes(record),
                resource=resource.get_attributes(),
            )
        except _InvalidRecordError as error:
            rejections.append(str(error))
        else:
            records.append(event)
    return Decoded(records, len(rejections), rejections[0] if rejections else "")


def decode_spans(body: bytes, now: float) -> Decoded[ReceivedSpan]:
    """Return the spans of an ``ExportTraceServiceRequest``, like :func:`decode_logs`."""
    spans = []
    rejections = []
    for resource, _, record in _walk(_parse(body), "resourceSpans", "scopeSpans", "spans"):
        try:
            spans.append(_convert_span(resource, record, now))
        except _InvalidRecordError as error:
            rejections.append(str(error))
    return Decoded(spans, len(rejections), rejections[0] if rejections else "")


def encode_response(signal: Signal, rejected: int, reason: str) -> bytes:
    """Return the response to a request of which ``rejected`` records were not stored."""
    if not rejected:
        return b"{}"
    # The mapping of protobuf writes integers of 64 bits as texts.
    key = "rejectedLogRecords" if signal == "logs" else "rejectedSpans"
    return json.dumps({"partialSuccess": {key: str(rejected), "errorMessage": reason}}).encode()


def encode_error(code: int, message: str) -> bytes:
    """Return the ``google.rpc.Status`` of a refused request."""
    return json.dumps({"code": code, "message": message}).encode()


def _convert_log(
    resource: _Resource, scope: Mapping[str, Any], record: Mapping[str, Any], trace_id: str | None, now: float
) -> ReceivedLog:
    attributes = _convert_attributes(record)
    attributes.pop(EXCEPTION_STACKTRACE, None)
    return ReceivedLog(
        at=_get_time(record, now),
        trace_id=trace_id,
        span_id=convert_id(_get(record, "spanId", str, ""), 16),
        severity=_convert_severity(record.get("severityNumber")),
        severity_text=truncate(_get(record, "severityText", str, ""), MAX_NAME),
        logger=truncate(_get(_get(scope, "scope", dict, {}), "name", str, ""), MAX_NAME),
        body=convert_body(_convert_structure(record.get("body"), MAX_BODY_DEPTH)),
        details=convert_details(_find_text(record, EXCEPTION_STACKTRACE)),
        attributes=attributes,
        resource=resource.get_attributes(),
    )


def _convert_severity(value: object) -> int:
    """Return the number of a severity, or 0.

    Senders may send its name, such as SEVERITY_NUMBER_INFO.
    """
    if isinstance(value, str) and value in _SEVERITIES:
        return _SEVERITIES[value]
    return _to_integer(value) or 0


def _convert_structure(value: object, depth: int) -> object:
    """Return an ``AnyValue`` as a value of JSON.

    Its depth and the number of its elements are limited.
    """
    if not isinstance(value, dict) or depth == 0:
        return None
    array = value.get("arrayValue")
    if isinstance(array, dict):
        elements = array.get("values")
        return [
            _convert_structure(element, depth - 1)
            for element in (elements if isinstance(elements, list) else [])[:MAX_ELEMENTS]
        ]
    pairs = value.get("kvlistValue")
    if isinstance(pairs, dict):
        entries = pairs.get("values")
        return {
            str(entry.get("key", "")): _convert_structure(entry.get("value"), depth - 1)
            for entry in (entries if isinstance(entries, list) else [])[:MAX_ELEMENTS]
            if isinstance(entry, dict)
        }
    content = value.get("bytesValue")
    return content if isinstance(content, str) else _unwrap(value)


def _get_time(record: Mapping[str, Any], now: float) -> float:
    nanoseconds = _get_integer(record, "timeUnixNano") or _get_integer(record, "observedTimeUnixNano")
    return convert_time(nanoseconds, now)


def _convert_span(resource: _Resource, record: Mapping[str, Any], now: float) -> ReceivedSpan:
    trace_id = convert_id(_get(record, "traceId", str, ""), 32)
    span_id = convert_id(_get(record, "spanId", str, ""), 16)
    if trace_id is None or span_id is None:
        msg = "a span without a valid trace id and span id"
        raise _InvalidRecordError(msg)
    parent_span_id = convert_id(_get(record, "parentSpanId", str, ""), 16)
    # Why 0 for other values: without flags a span is still of use.
    flags = _to_integer(record.get("flags")) or 0
    status = _get(record, "status", dict, {})
    return ReceivedSpan(
        name=_get(record, "name", str, ""),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        started_at=convert_time(_get_integer(record, "startTimeUnixNano"), now),
        ended_at=convert_end(_get_integer(record, "endTimeUnixNano"), now),
        attributes=_convert_attributes(record),
        resource=resource.get_attributes(),
        error=convert_error(_get(status, "message", str, ""))
        if status.get("code") in _STATUS_ERROR
        else None,
        has_local_parent=parent_span_id is not None and is_parent_local(flags),
    )


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        msg = f"Invalid request body: expected a JSON object ({error})."
        raise InvalidRequestError(msg) from error
    if not isinstance(document, dict):
        msg = f"Invalid request body: expected a JSON object, not {type(document).__name__}."
        raise InvalidRequestError(msg)
    return document


def _walk(
    document: Mapping[str, Any], groups: str, scopes: str, records: str
) -> Iterator[tuple[_Resource, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the resource, the group of the scope, and each record of a request."""
    for group in _get_objects(document, groups):
        resource = _Resource(group.get("resource"))
        for scope in _get_objects(group, scopes):
            for record in _get_objects(scope, records):
                yield resource, scope, record


class _Resource:
    """Resource of many records.

    Its attributes are converted once, and only if they are needed.
    """

    def __init__(self, document: object) -> None:
        self._document = document if isinstance(document, dict) else {}
        self._attributes: dict[str, MetadataValue] | None = None

    def get_attributes(self) -> dict[str, MetadataValue]:
        """Return the attributes."""
        if self._attributes is None:
            self._attributes = _convert_attributes(self._document)
        return self._attributes


def _get_objects(parent: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    objects = parent.get(key)
    if objects is None:
        return
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        msg = f"Invalid request body: expected a list of objects in {key}."
        raise InvalidRequestError(msg)
    yield from objects


def _get(record: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = record.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        msg = f"{key} is of type {type(value).__name__}"
        raise _InvalidRecordError(msg)
    return value


def _get_integer(record: Mapping[str, Any], key: str) -> int:
    """Return an unsigned 64-bit integer, as a number or a text. 0 if it is absent."""
    number = _to_integer(record.get(key) or 0)
    if number is None or not 0 <= number <= _MAX_UINT64:
        msg = f"{key} is not an integer of 64 bits"
        raise _InvalidRecordError(msg)
    return number


def _to_integer(value: object) -> int | None:
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _find_text(record: Mapping[str, Any], name: str) -> str:
    """Return the text of an attribute, or an empty one."""
    for key, value in _iterate_attributes(record):
        if key == name:
            text = value.get("stringValue")
            return text if isinstance(text, str) else ""
    return ""


def _iterate_attributes(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for attribute in _get(record, "attributes", list, []):
        if isinstance(attribute, dict):
            key, value = attribute.get("key"), attribute.get("value")
            if isinstance(key, str) and 0 < len(key) <= MAX_KEY_CHARACTERS and isinstance(value, dict):
                yield key, value


def _convert_attributes(record: Mapping[str, Any]) -> dict[str, MetadataValue]:
    values: dict[str, MetadataValue] = {}
    for key, value in _iterate_attributes(record):
        if len(values) == MAX_ATTRIBUTES:
            break
        converted = _convert_value(value)
        if converted is not None:
            values[key] = converted
    return values


def _convert_value(value: Mapping[str, Any]) -> MetadataValue | None:
    array = value.get("arrayValue")
    if isinstance(array, dict):
        elements = array.get("values")
        if elements is None:
            return ()
        return convert_array(_unwrap(element) for element in elements) if isinstance(elements, list) else None
    return convert_scalar(_unwrap(value))


def _unwrap(value: object) -> object:
    """Return the scalar in an ``AnyValue``, or None if it has none."""
    if not isinstance(value, dict):
        return None
    if "intValue" in value:
        number = _to_integer(value["intValue"])
        return number if number is not None and -(2**63) <= number < 2**63 else None
    if "doubleValue" in value:
        number = value["doubleValue"]
        return number if isinstance(number, (int, float)) and not isinstance(number, bool) else None
    if "boolValue" in value:
        return value["boolValue"] if isinstance(value["boolValue"], bool) else None
    return value.get("stringValue") if isinstance(value.get("stringValue"), str) else None
