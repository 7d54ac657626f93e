"""Segment spans: a level that runs for hours continues in linked spans.

Back ends drop spans that started many hours ago. So the span of a long level is ended and exported
at a limit, and the level continues in a new span of the same trace.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import time_ns
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanContext, Tracer
from opentelemetry.trace import set_span_in_context as set_span
from opentelemetry.util.types import AttributeValue

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument import spans
from otel_progress.instrument.backend import SpanStartContext
from otel_progress.live.node import Node
from otel_progress.live.span_segments import SpanSegments
from otel_progress.live.store import LiveStore

MAX_SEGMENTS_PER_TICK: Final = 500
"""Segments that start per tick. Further ones start in the next tick."""


_DEFAULT_SCOPE: Final = "otel_progress"


_FORWARDED: Final = (
    "get_span_context",
    "is_recording",
    "set_attribute",
    "set_attributes",
    "add_event",
    "add_link",
    "update_name",
    "set_status",
    "record_exception",
    "end",
)
"""Methods of an ended segment that act on the current one."""


class SpanSegmenter:
    """Continues levels in new spans after ``segment_after_s`` seconds.

    The ticker calls it. Between two limits a call only compares two numbers.
    """

    def __init__(self, store: LiveStore, tracer: Callable[[str], Tracer], segment_after_s: float) -> None:
        self._store = store
        self._tracer = tracer
        self._segment_after_s = segment_after_s
        self._next_clock = float("-inf")

    def continue_due(self) -> None:
        """Continue all levels whose span has reached the limit in a new segment.

        Never raises.
        """
        clock = self._store.clock()
        if clock < self._next_clock or self._store.is_interrupted:
            return
        self._next_clock = clock + self._segment_after_s
        due = []
        for node in self._store.list_running_levels():
            due_clock = _get_start(node) + self._segment_after_s
            if due_clock > clock:
                self._next_clock = min(self._next_clock, due_clock)
            elif node.span is not INVALID_SPAN and node.span.is_recording():
                due.append(node)
        if len(due) > MAX_SEGMENTS_PER_TICK:
            self._next_clock = clock
        # Why parents first: the next span of a child is a child of the current one of its parent.
        due.sort(key=lambda node: node.depth)
        for node in due[:MAX_SEGMENTS_PER_TICK]:
            try:
                self._continue_level(node, clock)
            except Exception as error:
                report_internal_error("span", "A long span could not be continued in a segment", error=error)

    def _continue_level(self, node: Node, clock: float) -> None:
        old = node.span
        segments = _get_segments(node) or SpanSegments(old, clock)
        # Why first: after an error the level is tried again at the next limit.
        segments.started_clock = clock
        node.ensure_extras().segments = segments
        at = spans.compute_time_ns(node, old) or time_ns()
        new = self._start_segment(node, old, segments, at)
        if not new.is_recording():
            return
        end_segment, number = old.end, segments.number
        if not self._store.continue_in_span(node, new, segments, clock):
            # Another thread has ended the level in the meantime.
            spans.write_final_attributes(new, node)
            new.end()
            return
        spans.write_final_attributes(old, node)
        old.set_attributes({semconv.SEGMENT: number, semconv.RUN: node.operation.run})
        _forward(old, segments)
        end_segment(at)

    def _start_segment(self, node: Node, old: Span, segments: SpanSegments, at: int) -> Span:
        previous = old.get_span_context()
        links = [Link(previous, {semconv.SEGMENT: segments.number})]
        if segments.number > 1:
            links.insert(0, Link(segments.first, {semconv.SEGMENT: 1}))
        # Why all of them: queries by an attribute of the caller find every segment.
        attributes: dict[str, AttributeValue] = dict(getattr(old, "attributes", None) or {})
        attributes.update(spans.build_identity_attributes(node))
        attributes.update({semconv.SEGMENT: segments.number + 1, semconv.RUN: node.operation.run})
        scope = getattr(getattr(old, "instrumentation_scope", None), "name", None)
        parent = _find_parent(node, old, segments)
        return self._tracer(scope or _DEFAULT_SCOPE).start_span(
            getattr(old, "name", None) or node.spec.type,
            SpanStartContext(set_span(NonRecordingSpan(parent), Context())),
            attributes=attributes,
            links=links,
            start_time=at,
        )


def _get_segments(node: Node) -> SpanSegments | None:
    return None if node.extras is None else node.extras.segments


def _get_start(node: Node) -> float:
    """Return the start of the current span of a running level, in monotonic seconds."""
    segments = _get_segments(node)
    if segments is not None:
        return segments.started_clock
    return float("inf") if node.started_clock is None else node.started_clock


def _find_parent(node: Node, old: Span, segments: SpanSegments) -> SpanContext:
    """Return the parent of the next segment.

    It is that of the segment before, or the current segment of the parent level. The segments of an
    operation without a parent are children of its first one, so that all are in one trace.
    """
    parent: SpanContext | None = getattr(old, "parent", None)
    if parent is None:
        return segments.first
    above = None if node.parent is None else _get_segments(node.parent)
    if above is not None and parent.span_id in above.recent_ids:
        return above.span.get_span_context()
    return parent


class _Forward:
    """Method of an ended segment that calls the one of the current segment."""

    __slots__ = ("_name", "_segments")

    def __init__(self, segments: SpanSegments, name: str) -> None:
        self._segments = segments
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._segments.span, self._name)(*args, **kwargs)


def _forward(ended: Span, segments: SpanSegments) -> None:
    """Let the methods of an ended segment act on the current one.

    Contexts that were attached before reference the ended one. Why its methods: the contexts of
    other threads cannot be changed. A span without own attributes stays unchanged.
    """
    for name in _FORWARDED:
        with suppress(AttributeError, TypeError):
            setattr(ended, name, _Forward(segments, name))
