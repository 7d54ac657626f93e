"""Buffer of ended spans that wait for the spans above them.

An SDK exports a span when it ends, so children arrive before their parents. Spans without progress
are passed over: a span that waits for one waits for the next span above it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from otel_progress import semconv
from otel_progress.receivers.telemetry import ReceivedSpan

MAX_WAITING_SPANS: Final = 50_000
"""Maximum number of ended spans of all senders that wait for a span above them. Beyond it the
oldest become operations. A span with two attributes uses about 1.4 KB of memory.
"""


MAX_PASSED_SPANS: Final = 100_000
"""Maximum number of ended spans without progress whose parents are known, about 0.5 KB each. Beyond
it the oldest are dropped. Spans below them that arrive later wait until they become operations.
"""


MAX_WAITING_S: Final = 600.0
"""Maximum time in seconds that an ended span waits. Then it becomes an operation when the next
request of any sender arrives.
"""


_USED_PREFIX: Final = "progress."


_USED_ATTRIBUTES: Final = frozenset({semconv.ERROR_TYPE, semconv.EXCEPTION_MESSAGE})


SenderSpanKey: TypeAlias = tuple[str, str, str]
"""Sender, trace id and span id."""


class SpanAbove(NamedTuple):
    """Nearest span above another one that is not passed over.

    ``key`` is None without a parent. ``is_local`` is True for a span of the same process.
    """

    key: SenderSpanKey | None
    is_local: bool


@dataclass(slots=True)
class _Group:
    """Spans that wait for the same span."""

    above: SenderSpanKey
    keys: dict[SenderSpanKey, None] = field(default_factory=dict)


@dataclass(slots=True)
class _WaitingSpan:
    """A span with the time of its reception in Unix seconds."""

    span: ReceivedSpan
    received_at: float
    group: _Group


class WaitingSpans:
    """Ended spans whose span above is not tracked yet. Not thread-safe."""

    def __init__(
        self,
        *,
        max_spans: int,
        max_spans_per_sender: int,
        max_passed: int = MAX_PASSED_SPANS,
        max_wait_s: float = MAX_WAITING_S,
    ) -> None:
        self._max_spans = max_spans
        self._max_spans_per_sender = max_spans_per_sender
        self._max_passed = max_passed
        self._max_wait_s = max_wait_s
        self._waiting: OrderedDict[SenderSpanKey, _WaitingSpan] = OrderedDict()
        self._by_sender: dict[str, dict[SenderSpanKey, None]] = {}
        self._groups: dict[SenderSpanKey, _Group] = {}
        self._passed: OrderedDict[SenderSpanKey, SpanAbove] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: SenderSpanKey) -> bool:
        return key in self._waiting

    def get(self, key: SenderSpanKey) -> ReceivedSpan:
        """Return a waiting span."""
        return self._waiting[key].span

    def add(self, key: SenderSpanKey, span: ReceivedSpan, above: SpanAbove, now: float) -> None:
        """Add a span that waits for ``above``. A span that waits already keeps its time."""
        if key in self._waiting or above.key is None:
            return
        used = {
            name: value
            for name, value in span.attributes.items()
            if name.startswith(_USED_PREFIX) or name in _USED_ATTRIBUTES
        }
        group = self._groups.setdefault(above.key, _Group(above.key))
        group.keys[key] = None
        self._waiting[key] = _WaitingSpan(replace(span, attributes=used), now, group)
        self._by_sender.setdefault(key[0], {})[key] = None

    def remove(self, key: SenderSpanKey) -> None:
        """Remove a waiting span."""
        group = self._waiting.pop(key).group
        del group.keys[key]
        if not group.keys:
            del self._groups[group.above]
        of_sender = self._by_sender[key[0]]
        del of_sender[key]
        if not of_sender:
            del self._by_sender[key[0]]

    def get_below(self, key: SenderSpanKey) -> list[SenderSpanKey]:
        """Return the spans that wait for a span."""
        group = self._groups.get(key)
        return [] if group is None else list(group.keys)

    def pass_over(self, key: SenderSpanKey, above: SpanAbove) -> None:
        """Pass over a span: spans below it are below ``above``."""
        self._passed[key] = above
        self._passed.move_to_end(key)
        if len(self._passed) > self._max_passed:
            self._passed.popitem(last=False)

    def move(self, key: SenderSpanKey, above: SpanAbove) -> None:
        """Let the spans that wait for ``key`` wait for ``above``."""
        group = self._groups.get(key)
        if group is None or above.key is None or key == above.key:
            return
        del self._groups[key]
        other = self._groups.get(above.key)
        # Why the smaller one: long chains of spans would move each waiting span many times.
        if other is not None and len(other.keys) < len(group.keys):
            group, other = other, group
        if other is None:
            group.above = above.key
            self._groups[above.key] = group
            return
        for waiting in group.keys:
            self._waiting[waiting].group = other
        other.keys.update(group.keys)
        other.above = above.key
        self._groups[above.key] = other

    def find_above(self, sender: str, span: ReceivedSpan) -> SpanAbove:
        """Return the nearest span above a span that is not passed over."""
        if span.parent_span_id is None:
            return SpanAbove(None, False)
        above = SpanAbove((sender, span.trace_id, span.parent_span_id), span.has_local_parent)
        passed: dict[SenderSpanKey, None] = {}
        # Why the second condition: the parents of invalid spans can be a cycle.
        while above.key is not None and above.key not in passed and above.key in self._passed:
            passed[above.key] = None
            above = self._passed[above.key]
        for key in passed:  # Why: the next search is shorter.
            self._passed[key] = above
        return above

    def find_topmost(self, key: SenderSpanKey) -> SenderSpanKey:
        """Return the highest waiting span above a waiting span, or the span itself."""
        seen = {key}
        while (above := self._waiting[key].group.above) in self._waiting and above not in seen:
            seen.add(above)
            key = above
        return key

    def find_oldest(self) -> SenderSpanKey | None:
        """Return the span that has waited longest, or None."""
        return next(iter(self._waiting), None)

    def find_due(self, now: float, senders: Iterable[str]) -> SenderSpanKey | None:
        """Return the oldest span beyond a limit of time or number, or None.

        The number per sender is only checked for ``senders``.
        """
        oldest = self.find_oldest()
        if oldest is None:
            return None
        is_late = self._waiting[oldest].received_at <= now - self._max_wait_s
        if is_late or len(self._waiting) > self._max_spans:
            return oldest
        for sender in senders:
            of_sender = self._by_sender.get(sender, {})
            if len(of_sender) > self._max_spans_per_sender:
                return next(iter(of_sender))
        return None
