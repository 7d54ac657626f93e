"""Spans of a level that runs longer than one span may last."""

from __future__ import annotations

from collections import deque
from typing import Final

from opentelemetry.trace import Span, SpanContext

_MAX_RECENT_IDS: Final = 8
"""Span ids of the newest segments. Older ones are dropped. Only a segment of a child that started
that long ago refers to them.
"""


class SpanSegments:
    """Current segment of a level, and the contexts of earlier ones.

    ``number`` of the first segment is 1. ``started_clock`` is the start of the current one in
    monotonic seconds.
    """

    __slots__ = ("first", "number", "previous", "recent_ids", "span", "started_clock")

    def __init__(self, span: Span, started_clock: float) -> None:
        self.span = span
        self.number = 1
        self.first: SpanContext = span.get_span_context()
        self.previous: SpanContext = self.first
        self.started_clock = started_clock
        self.recent_ids: deque[int] = deque((self.first.span_id,), maxlen=_MAX_RECENT_IDS)

    def continue_in(self, span: Span, previous: SpanContext, started_clock: float) -> None:
        """Continue in a started span after the segment ``previous``."""
        self.previous = previous
        self.number += 1
        self.started_clock = started_clock
        self.recent_ids.append(span.get_span_context().span_id)
        # Why last: other threads read it without a lock.
        self.span = span
