"""Reports from running spans of other tools, and from spans with progress.

A span is a level of the nearest span above it that is tracked. Without one it is an operation.
Ended spans without progress are passed over, unless they were received while they ran.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from otel_progress import semconv
from otel_progress.model import MetadataValue, Status
from otel_progress.receivers.attributes import convert_id
from otel_progress.receivers.reports import MAX_DEPTH, InvalidReportError, LevelReport, read_report
from otel_progress.receivers.telemetry import ReceivedEvent, ReceivedSpan
from otel_progress.text import encode_segment, normalize_id

MAX_SPANS_PER_SENDER: Final = 10_000
"""Maximum number of tracked spans of a sender that run. Further spans are rejected. One ended span
per ten is kept, so that spans below it are found. The least recently used are dropped first. It is
also the maximum number of ended spans that wait for a span above them. Beyond it the oldest become
operations.
"""


_PENDING: Final = "pending_span"


_LOGFIRE_TYPE: Final = "logfire.span_type"


_LOGFIRE_PARENT: Final = "logfire.pending_parent_id"


_OWN_ATTRIBUTES: Final = (semconv.OPERATION_ID, semconv.PATH, semconv.SEQUENCE)
"""Attributes of each ended span of our own helpers."""


SpanKey = tuple[str, str]
"""Trace id and span id in hexadecimal."""


@dataclass(frozen=True, slots=True)
class TrackedSpan:
    """Place of a span: the identity of its operation, and its path."""

    operation: Mapping[str, MetadataValue]
    path: str


def normalize_span(span: ReceivedSpan) -> ReceivedSpan | None:
    """Return the running span that a placeholder of Logfire describes, or ``span``.

    Logfire sends such a span at the start of each span. Its parent is the span that it describes.
    Returns None if it describes none.
    """
    if span.attributes.get(_LOGFIRE_TYPE) != _PENDING:
        return span
    if span.parent_span_id is None:
        return None
    parent = span.attributes.get(_LOGFIRE_PARENT)
    return replace(
        span,
        span_id=span.parent_span_id,
        parent_span_id=convert_id(parent, 16) if isinstance(parent, str) else None,
        ended_at=None,
    )


def is_own_span(span: ReceivedSpan) -> bool:
    """Return True for an ended span of our own helpers.

    Events describe its level.
    """
    return all(name in span.attributes for name in _OWN_ATTRIBUTES)


def has_progress(span: ReceivedSpan) -> bool:
    """Return True for a span with a count or a total."""
    return semconv.CURRENT in span.attributes or semconv.TOTAL in span.attributes


class SpanTracker:
    """Tracked spans of one sender, and their places in the trees of its operations."""

    def __init__(self, max_spans: int = MAX_SPANS_PER_SENDER) -> None:
        self._max_spans = max_spans
        self._running: dict[SpanKey, TrackedSpan] = {}
        self._ended: OrderedDict[SpanKey, TrackedSpan] = OrderedDict()

    def find(self, key: SpanKey) -> TrackedSpan | None:
        """Return a tracked span, or None."""
        ended = self._ended.get(key)
        if ended is None:
            return self._running.get(key)
        self._ended.move_to_end(key)
        return ended

    def read(self, span: ReceivedSpan, tracked: TrackedSpan, now: float) -> LevelReport | None:
        """Return the report of a span at a place, or None if it states nothing.

        ``now`` is the time of reception in Unix seconds. Raises InvalidReportError.
        """
        key = (span.trace_id, span.span_id)
        is_new = key not in self._running and key not in self._ended
        if span.ended_at is None and is_new and len(self._running) >= self._max_spans:
            msg = f"a sender has at most {self._max_spans:,} running spans"
            raise InvalidReportError(msg)
        return read_report(_build_event(span, tracked, now))

    def track(self, span: ReceivedSpan, tracked: TrackedSpan) -> None:
        """Track a span at a place, so that spans below it are found."""
        key = (span.trace_id, span.span_id)
        if span.ended_at is None:
            if key not in self._ended:
                self._running[key] = tracked
            return
        self._running.pop(key, None)
        self._ended[key] = tracked
        self._ended.move_to_end(key)
        if len(self._ended) > max(1, self._max_spans // 10):
            self._ended.popitem(last=False)

    def drop(self, span: ReceivedSpan) -> None:
        """Stop tracking a span whose level was rejected."""
        self._running.pop((span.trace_id, span.span_id), None)


def place_span(span: ReceivedSpan, parent: TrackedSpan | None) -> TrackedSpan:
    """Return the place of a span: below ``parent``, or as an operation.

    If the parent is at the maximum depth, the place is next to it.
    """
    values = span.attributes
    if parent is None:
        operation = {
            semconv.OPERATION_ID: values.get(semconv.OPERATION_ID) or span.span_id,
            semconv.OPERATION_TYPE: values.get(semconv.OPERATION_TYPE) or span.name,
            semconv.RUN: f"{span.trace_id}-{span.span_id}",
        }
        return TrackedSpan(operation, "")
    type_ = normalize_id(str(values.get(semconv.LEVEL_TYPE) or span.name or "span"))
    id_ = normalize_id(str(values.get(semconv.LEVEL_ID) or span.span_id))
    segment = encode_segment(type_, id_)
    above = parent.path
    if above.count("/") >= MAX_DEPTH - 1:
        above = above.rpartition("/")[0]
    return TrackedSpan(parent.operation, f"{above}/{segment}" if above else segment)


def _build_event(span: ReceivedSpan, tracked: TrackedSpan, now: float) -> ReceivedEvent:
    """Return the event that states what a span states."""
    values = {
        **span.attributes,
        **tracked.operation,
        semconv.PATH: tracked.path,
        semconv.START_TIME: span.started_at,
    }
    for name in (semconv.SEQUENCE, semconv.ATTEMPT, semconv.STATUS):
        values.pop(name, None)
    name_key = semconv.LEVEL_NAME if tracked.path else semconv.OPERATION_NAME
    values[name_key] = values.get(name_key) or span.name
    if span.ended_at is None:
        at, name = now, semconv.EVENT_UPDATED
    else:
        at, name = span.ended_at, semconv.EVENT_FINISHED
        values[semconv.STATUS] = read_end_status(span).value
        if span.error:
            values.setdefault(semconv.EXCEPTION_MESSAGE, span.error)
    return ReceivedEvent(name, at, span.trace_id, span.span_id, values, span.resource)


def states_end(span: ReceivedSpan) -> bool:
    """Return True if an ended span states that its level has ended, too."""
    stated = span.attributes.get(semconv.STATUS)
    return isinstance(stated, str) and any(status.value == stated for status in Status if status.finished)


def read_end_status(span: ReceivedSpan) -> Status:
    """Return the status of the level of an ended span."""
    if span.error is not None:
        return Status.FAILED
    stated = span.attributes.get(semconv.STATUS)
    ends = {status.value: status for status in Status if status.finished}
    return ends.get(stated, Status.COMPLETED) if isinstance(stated, str) else Status.COMPLETED
