"""ProgressSpanProcessor: joins any tracer provider, and makes progress of plain OpenTelemetry spans that carry ``progress.*``.

A span offers no hook for a change in mid-life, so the spans that run are looked at once a tick: those whose attributes name a
``progress.current`` or ``progress.total`` become levels of the live store, like those of the helpers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.arguments import normalize_metadata, parse_number
from otel_progress.instrument.backend import LEVEL_KEY, span_start_guard
from otel_progress.instrument.rejections import Rejection
from otel_progress.live.node import Node, Spec, merge_metadata
from otel_progress.live.store import LiveStore
from otel_progress.model import NO_METADATA, Failure, Number, Status
from otel_progress.text import normalize_id, truncate

MAX_WATCHED: Final = 2_000
"""Plain spans that are looked at each tick; beyond that, the one that has run longest without telling progress is let go."""


_TELLING: Final = (semconv.CURRENT, semconv.TOTAL)


class ProgressSpanProcessor(SpanProcessor):
    """Add it to any number of providers, before or after other processors. It never raises into ``start_span`` or ``end``."""

    def __init__(self, store: LiveStore) -> None:
        self._store = store
        self._closed = False
        self.restart()

    def restart(self) -> None:
        """Forget all spans: what a forked child does."""
        # Reentrant: a span may be ended by the garbage collector in the middle of looking at another one.
        self._lock = threading.RLock()
        self._watched: dict[int, tuple[Span, Node | None]] = {}
        self._nodes: dict[int, Node] = {}

    # --- hooks of the SDK --------------------------------------------------------------------------------------

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Watch a plain span; the helpers' own spans are known already."""
        if self._closed or getattr(span_start_guard, "starting", False):
            return
        try:
            level = (get_current() if parent_context is None else parent_context).get(LEVEL_KEY)
            above = cast("Node | None", getattr(level, "_node", None))
            with self._lock:
                if len(self._watched) >= MAX_WATCHED:
                    self._let_go()
                self._watched[span.get_span_context().span_id] = (span, above)
            self._store.notify_change()
        except Exception as error:
            report_internal_error("processor", "a span could not be watched for progress", error=error)

    def _let_go(self) -> None:
        silent = next((span_id for span_id in self._watched if span_id not in self._nodes), None)
        oldest = silent if silent is not None else next(iter(self._watched))
        del self._watched[oldest]
        node = self._nodes.pop(oldest, None)
        if node is not None:
            node.orphaned = node.operation.orphaned = True

    def on_end(self, span: ReadableSpan) -> None:
        """Take the final values of a plain span and end its level."""
        if not self._watched:
            return
        try:
            span_id = span.get_span_context().span_id  # type: ignore[union-attr]
            with self._lock:
                if span_id not in self._watched:
                    return
                try:
                    self._take(span_id, cast(Span, span))
                except Exception as error:
                    report_internal_error(
                        "processor", "the last progress of a span could not be read", error=error
                    )
                del self._watched[span_id]  # whatever could be read of it, it is over
                node = self._nodes.pop(span_id, None)
            if node is not None:
                self._end(span, node)
        except Exception as error:
            report_internal_error("processor", "the end of a span could not be taken over", error=error)

    def shutdown(self) -> None:
        """Do nothing: other providers may go on, and spans that run in this one still end."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Take over what running spans say now."""
        self.look()
        return True

    def close(self) -> None:
        """Look at nothing any more. A provider has no way to let go of a processor, so it stays there, idle."""
        self._closed = True
        with self._lock:
            self._watched.clear()
            self._nodes.clear()

    # --- once a tick -------------------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        """True while there are plain spans to look at."""
        return bool(self._watched)

    def look(self) -> None:
        """Read the attributes of every watched span; one that tells of progress becomes a level."""
        with self._lock:
            watched = list(self._watched.items())
        for span_id, (span, _) in watched:
            try:
                with (
                    self._lock
                ):  # for one span at a time, so that no end waits long; it may have ended meanwhile
                    if span_id in self._watched:
                        self._take(span_id, span)
            except Exception as error:
                report_internal_error("processor", "the progress of a span could not be read", error=error)

    # --- from attributes to a level: with the lock held --------------------------------------------------------

    def _take(self, span_id: int, span: Span) -> Node | None:
        """Return the level of a watched span with what the span says now; None while it says nothing of progress."""
        attributes = dict(span.attributes or {})
        node = self._nodes.get(span_id)
        if node is None and _tells(attributes):
            node = self._open(span_id, span, attributes)
        if node is not None:
            _copy(attributes, node)
        return node

    def _parent(self, span_id: int, span: Span) -> Node | None:
        """Return the running level a span is in: that of the nearest span above it that tells of progress, or a helper's."""
        above, parent = self._watched[span_id][1], span.parent
        passed = {
            span_id
        }  # ids that a generator gives twice, as those of tests do, must not lead in a circle
        while parent is not None and parent.span_id in self._watched and parent.span_id not in passed:
            passed.add(parent.span_id)
            outer = self._watched[parent.span_id][0]
            node = self._take(parent.span_id, outer)
            if node is not None:
                return node
            parent = outer.parent
        return above if above is not None and above.status is Status.RUNNING else None

    def _open(self, span_id: int, span: Span, attributes: Mapping[str, Any]) -> Node | None:
        parent = self._parent(span_id, span)
        id_ = attributes.get(semconv.OPERATION_ID if parent is None else semconv.LEVEL_ID, f"{span_id:016x}")
        name = attributes.get(semconv.OPERATION_NAME if parent is None else semconv.LEVEL_NAME, span.name)
        type_ = attributes.get(semconv.OPERATION_TYPE if parent is None else semconv.LEVEL_TYPE, span.name)
        unit = attributes.get(semconv.UNIT)
        spec = Spec(
            normalize_id(type_),
            normalize_id(id_),
            truncate(name, 256),
            None,
            None if unit is None else truncate(unit, 64),
            1,
            None,
            None,
            NO_METADATA,
        )
        node = self._store.open(parent, spec)
        if node is None:
            return None
        node.trace = (span.get_span_context().trace_id, span_id)
        self._nodes[span_id] = node
        return node

    def _end(self, span: ReadableSpan, node: Node) -> None:
        failed = span.status.status_code is StatusCode.ERROR
        error = None
        if failed:
            kind = (span.attributes or {}).get(semconv.ERROR_TYPE, "error")
            error = Failure(normalize_id(kind), truncate(span.status.description or ""))
        self._store.close(node, Status.FAILED if failed else Status.COMPLETED, error=error)


def _tells(attributes: Mapping[str, Any]) -> bool:
    return any(name in attributes for name in _TELLING)


def _copy(attributes: Mapping[str, Any], node: Node) -> None:
    """Take over what is valid and new: total, current, message, metadata."""
    total = _number(attributes.get(semconv.TOTAL), "the total")
    if total is not None and total != node.total:
        node.total, node.dirty = total, True
    current = _number(attributes.get(semconv.CURRENT), "current")
    if current is not None and current != node.ensure_counter().value():
        node.ensure_counter().set(current)
        node.dirty = True
    message = attributes.get(semconv.MESSAGE)
    if message is not None and truncate(message) != node.message:
        node.message, node.dirty = truncate(message), True
    prefix = semconv.METADATA_PREFIX
    told = {name[len(prefix) :]: value for name, value in attributes.items() if name.startswith(prefix)}
    if told:
        clean = normalize_metadata(told)
        if any(node.metadata.get(name) != value for name, value in clean.items()):
            node.metadata, node.dirty = merge_metadata(node.metadata, clean), True


def _number(value: object, what: str) -> Number | None:
    clean = None if value is None else parse_number(value, what)
    return None if isinstance(clean, Rejection) else clean
