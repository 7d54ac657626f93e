"""Decoders of OTLP requests: both encodings agree, and invalid input is rejected."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.model import Status
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.receivers import json_encoding, protobuf
from otel_progress.receivers.attributes import MAX_ATTRIBUTES, UNFINISHED_AFTER_S
from otel_progress.receivers.reports import InvalidReportError, Rank, read_item, read_report
from otel_progress.receivers.telemetry import InvalidRequestError, ReceivedEvent, ReceivedLog
from tests.support.otlp_records import SPAN, TRACE, WALL, level
from tests.support.otlp_requests import build_json_request, build_protobuf_request

NOW = WALL + 60.0
ATTRIBUTES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.lists(st.integers(-5, 5), max_size=4).map(tuple),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4).map(tuple),
    ),
    max_size=10,
)


def make_event(**attributes: Any) -> ReceivedEvent:
    """Return an update of an operation.

    Keys of ``attributes`` are constants of semconv.
    """
    values = {semconv.OPERATION_ID: "clip-7"}
    values.update({getattr(semconv, key): value for key, value in attributes.items()})
    return ReceivedEvent(semconv.EVENT_UPDATED, WALL, TRACE, SPAN, values, {})


@given(ATTRIBUTES)
def test_decoders_of_the_same_log_records_agree(attributes: dict[str, Any]) -> None:
    """Records without a trace and an operation are omitted."""
    records = [
        LogEvent(
            None, "text ä", WALL + 0.25, trace_id, SPAN, {**attributes, **stated}, severity=13, scope="app"
        )
        for trace_id, stated in (
            (TRACE, {}),
            (None, {semconv.OPERATION_ID: "clip-7"}),
            (None, {}),
            ("0" * 32, {}),
        )
    ]
    from_protobuf = protobuf.decode_logs(build_protobuf_request(records), NOW)
    from_json = json_encoding.decode_logs(build_json_request(records), NOW)
    assert from_protobuf == from_json
    first, second = from_json.records
    assert isinstance(first, ReceivedLog)
    assert (first.body, first.severity, first.logger, first.trace_id) == ("text ä", 13, "app", TRACE)
    assert first.attributes == attributes
    assert (second.trace_id, second.attributes[semconv.OPERATION_ID]) == (None, "clip-7")


@given(ATTRIBUTES)
def test_decoders_of_the_same_events_agree(attributes: dict[str, Any]) -> None:
    """Types of values are kept."""
    event = LogEvent(semconv.EVENT_UPDATED, "", WALL + 0.25, TRACE, SPAN, attributes)
    from_protobuf = protobuf.decode_logs(build_protobuf_request([event]), NOW)
    from_json = json_encoding.decode_logs(build_json_request([event]), NOW)
    assert from_protobuf == from_json
    (received,) = from_json.records
    assert received.attributes == attributes
    assert [type(value) for value in received.attributes.values()] == [type(v) for v in attributes.values()]
    assert (received.trace_id, received.span_id) == (TRACE, SPAN)
    assert received.at == pytest.approx(WALL + 0.25, abs=1e-6)


def test_decoders_ignore_records_of_other_instrumentation() -> None:
    """They are not rejected, because a Collector sends everything to everybody."""
    events = [LogEvent("exception", "", WALL, None, None, {}), LogEvent(None, "a log", WALL, None, None, {})]
    assert protobuf.decode_logs(build_protobuf_request(events), NOW).records == []
    assert json_encoding.decode_logs(build_json_request(events), NOW).records == []


@pytest.mark.parametrize(
    "value",
    [{"intValue": "3"}, {"intValue": 3}, {"intValue": 3.0}],
    ids=["text", "number", "float"],
)
def test_json_decoder_accepts_integers_in_all_forms(value: dict[str, Any]) -> None:
    """SDKs write numbers, the mapping of protobuf writes texts."""
    (event,) = json_encoding.decode_logs(_request({"key": semconv.CURRENT, "value": value}), NOW).records
    assert event.attributes == {semconv.CURRENT: 3}


def test_json_decoder_accepts_missing_and_null_fields() -> None:
    """A record without a time has the time of reception. Invalid ids are absent."""
    record = {"eventName": semconv.EVENT_UPDATED, "traceId": None, "spanId": "xyz", "attributes": None}
    body = {"resourceLogs": [{"resource": None, "scopeLogs": [{"logRecords": [record]}]}]}
    (event,) = json_encoding.decode_logs(json.dumps(body).encode(), NOW).records
    assert (event.at, event.trace_id, event.span_id, event.attributes) == (NOW, None, None, {})
    assert json_encoding.decode_logs(b"{}", NOW).records == []


def test_decoders_find_the_name_of_older_senders() -> None:
    """The name was an attribute before the field for it existed."""
    attributes = {semconv.LEGACY_EVENT_NAME: semconv.EVENT_UPDATED, semconv.OPERATION_ID: "clip-7"}
    events = [LogEvent("", "", WALL, None, None, attributes)]
    assert len(protobuf.decode_logs(build_protobuf_request(events), NOW).records) == 1
    assert len(json_encoding.decode_logs(build_json_request(events), NOW).records) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"resourceLogs": {}}',
        b'{"resourceLogs": [1]}',
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    ],
    ids=["list", "cut", "bytes", "object", "number", "nested"],
)
def test_json_decoder_rejects_other_documents(body: bytes) -> None:
    """The error says what was expected."""
    with pytest.raises(InvalidRequestError, match="expected"):
        json_encoding.decode_logs(body, NOW)


def test_json_decoder_rejects_single_records() -> None:
    """The others are used, and the first reason is stated."""
    good = {"eventName": semconv.EVENT_UPDATED, "timeUnixNano": "1"}
    records = [good, {**good, "timeUnixNano": "soon"}, {**good, "timeUnixNano": -1}, {**good, "traceId": 7}]
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}
    decoded = json_encoding.decode_logs(json.dumps(body).encode(), NOW)
    assert (len(decoded.records), decoded.rejected) == (1, 3)
    assert decoded.reason == "timeUnixNano is not an integer of 64 bits"


@given(st.binary(max_size=200))
def test_protobuf_decoder_of_any_bytes_returns_records_or_rejects(body: bytes) -> None:
    """No other exception is possible."""
    for decode in (protobuf.decode_logs, protobuf.decode_spans):
        with contextlib.suppress(InvalidRequestError):
            assert decode(body, NOW).rejected >= 0


def test_decoders_limit_the_attributes_of_a_record() -> None:
    """The first ones are used."""
    attributes = {f"key-{number}": number for number in range(MAX_ATTRIBUTES + 5)}
    events = [LogEvent(semconv.EVENT_UPDATED, "", WALL, None, None, attributes)]
    for decoded in (
        protobuf.decode_logs(build_protobuf_request(events), NOW),
        json_encoding.decode_logs(build_json_request(events), NOW),
    ):
        assert list(decoded.records[0].attributes) == list(attributes)[:MAX_ATTRIBUTES]


@pytest.mark.parametrize(
    ("end", "expected"),
    [("0", None), (None, None), ("11651379494838206464", None), (str(int((NOW + 1) * 1e9)), NOW + 1)],
    ids=["zero", "absent", "zero of Go", "time"],
)
def test_spans_without_an_end_are_unfinished(end: str | None, expected: float | None) -> None:
    """Older Go SDKs send the zero time as the year 2339."""
    span = {
        "traceId": TRACE.upper(),
        "spanId": SPAN,
        "name": "encode",
        "startTimeUnixNano": str(int(WALL * 1e9)),
    }
    span |= {} if end is None else {"endTimeUnixNano": end}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span, {"name": "without ids"}]}]}]}
    decoded = json_encoding.decode_spans(json.dumps(body).encode(), NOW)
    assert decoded.rejected == 1
    (received,) = decoded.records
    assert (received.trace_id, received.started_at, received.ended_at) == (TRACE, WALL, expected)
    assert UNFINISHED_AFTER_S > 1


def test_report_of_a_minimal_event_has_defaults() -> None:
    """Only the id of the operation is required."""
    report = read_report(make_event(CURRENT=80, TOTAL=240))
    assert report is not None
    assert (report.origin.operation_id, report.origin.operation_type, report.name) == (
        "clip-7",
        "operation",
        "clip-7",
    )
    assert (report.status, report.rank, report.sequence) == (Status.RUNNING, Rank.UPDATED, None)
    assert report.ratio == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"OPERATION_ID": ""}, "progress.operation.id is missing"),
        ({"CURRENT": -1}, "progress.current is '-1'; expected a number"),
        ({"CURRENT": "many"}, "progress.current is 'many'; expected a number"),
        ({"STATUS": "done"}, "the status 'done' is unknown; expected one of pending"),
        ({"PATH": "song"}, "the path 'song' is invalid; expected segments type:id"),
        ({"PATH": "a:b/" * 70 + "a:b"}, "the path has 71 segments"),
    ],
    ids=["id", "negative", "text", "status", "path", "depth"],
)
def test_report_with_an_invalid_value_is_rejected(attributes: dict[str, Any], message: str) -> None:
    """The reason names the attribute, the value and what was expected."""
    with pytest.raises(InvalidReportError) as caught:
        read_report(make_event(**attributes))
    assert message in str(caught.value)


def test_start_event_never_sets_the_status() -> None:
    """A level shorter than a tick has its final status in its start event already."""
    event = build_level_event(semconv.EVENT_STARTED, level(status=Status.COMPLETED), WALL)
    (received,) = protobuf.decode_logs(build_protobuf_request([event]), NOW).records
    report = read_report(received)
    assert report is not None
    assert (report.status, report.rank) == (Status.RUNNING, Rank.STARTED)


def test_item_with_an_unknown_outcome_is_rejected() -> None:
    """Outcomes are those of items."""
    with pytest.raises(InvalidReportError, match="the outcome 'lost' is unknown; expected one of completed"):
        read_item(make_event(ITEM_OUTCOME="lost"))


def _request(attribute: dict[str, Any]) -> bytes:
    record = {"eventName": semconv.EVENT_UPDATED, "attributes": [attribute]}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()
