"""Span processor that reads progress from plain OpenTelemetry spans.

A span has no hook for changes while it runs, so running spans are polled once per tick. A span
with the attribute ``progress.current`` or ``progress.total`` becomes a level of the live store.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from otel_progress import semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.arguments import normalize_metadata, parse_number, parse_unit
from otel_progress.instrument.backend import LEVEL_KEY, SpanStartContext
from otel_progress.instrument.rejections import Rejection
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import HandleReference, Node, Spec, add_orphan, merge_metadata
from otel_progress.live.store import LiveStore
from otel_progress.locking import CallerLock
from otel_progress.model import NO_METADATA, Failure, Number, ParentLink, Status
from otel_progress.redaction import redact_id, redact_name, redact_value
from otel_progress.text import MAX_NAME, normalize_id, truncate

MAX_WATCHED: Final = 2_000
"""Plain spans that are polled per tick. Beyond it the oldest span without progress is dropped."""


_PROGRESS_ATTRIBUTES: Final = (semconv.CURRENT, semconv.TOTAL)


class ProgressSpanProcessor(SpanProcessor):
    """Span processor for any number of tracer providers.

    Add it before or after other processors.

    It never raises into ``start_span`` or ``end``. Thread-safe.
    """

    def __init__(self, store: LiveStore, *, max_watched: int = MAX_WATCHED) -> None:
        self._store = store
        self._max_watched = max_watched
        self._closed = False
        self.parent_link: ParentLink | None = None
        """Level of the process that started this one. Operations are part of it."""
        self.restart()

    def restart(self) -> None:
        """Drop all spans. A forked child calls this."""
        # Why: the garbage collector may end a span while this thread reads another one.
        self._lock = CallerLock()
        self._watched: dict[int, tuple[Span, Node | None]] = {}
        self._nodes: dict[int, Node] = {}

    # --- hooks of the SDK -------------------------------------------------------------------------

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Watch a plain span. Spans of the helpers are ignored."""
        if self._closed or type(parent_context) is SpanStartContext:
            return
        try:
            level = (get_current() if parent_context is None else parent_context).get(LEVEL_KEY)
            self._watch(span, cast("Node | None", getattr(level, "_node", None)))
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("processor", "Watching a span for progress failed.", error=error)

    def _watch(self, span: Span, ancestor: Node | None) -> None:
        # Why: the ticker may hold the lock of this processor while it waits for that of the store.
        store = self._store
        if store.is_interrupting() and store.run_after_interrupted_call(partial(self._watch, span, ancestor)):
            return
        self._lock.run(self._watch_locked, span, ancestor)
        self._store.notify_change()

    def _watch_locked(self, span: Span, ancestor: Node | None) -> None:
        if len(self._watched) >= self._max_watched:
            self._drop_oldest_locked()
        self._watched[span.get_span_context().span_id] = (span, ancestor)

    def _drop_oldest_locked(self) -> None:
        without_progress = next((span_id for span_id in self._watched if span_id not in self._nodes), None)
        oldest = without_progress if without_progress is not None else next(iter(self._watched))
        del self._watched[oldest]
        node = self._nodes.pop(oldest, None)
        if node is not None:
            reference = HandleReference(self, add_orphan)
            reference.node, node.handle = node, reference
            add_orphan(reference)

    def on_end(self, span: ReadableSpan) -> None:
        """Read the final values of a plain span and end its level."""
        try:
            # Why first: the start of the span may wait for the end of an interrupted call as well.
            store = self._store
            if store.is_interrupting() and store.run_after_interrupted_call(partial(self.on_end, span)):
                return
            if not self._watched:
                return
            if self._lock.is_interrupting():
                self._lock.defer(self.on_end, span)
                return
            span_id = span.get_span_context().span_id  # type: ignore[union-attr]
            if span_id not in self._watched:
                return
            with self._lock.lock:
                node = self._stop_watching_locked(span_id, span)
            if node is not None:
                self._close_node(span, node)
            self._lock.run_deferred()
        except Exception as error:
            if is_interrupt(error):
                raise
            report_internal_error("processor", "Ending the level of a span failed.", error=error)

    def _stop_watching_locked(self, span_id: int, span: ReadableSpan) -> Node | None:
        """Read an ended span, and return its level if it has one."""
        if span_id not in self._watched:
            return None
        try:
            self._read_span_locked(span_id, cast(Span, span))
        except Exception as error:
            report_internal_error("processor", "Reading the final progress of a span failed.", error=error)
        del self._watched[span_id]
        return self._nodes.pop(span_id, None)

    def shutdown(self) -> None:
        """Do nothing.

        Other providers may continue, and running spans of this provider still end.
        """

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Read the attributes of all watched spans."""
        self.read_spans()
        return True

    def close(self) -> None:
        """Stop watching spans permanently.

        A provider cannot remove a processor, so the processor stays registered and idle.
        """
        self._closed = True
        with self._lock.lock:
            self._watched.clear()
            self._nodes.clear()

    # --- polling --------------------------------------------------------------------------------

    @property
    def is_watching(self) -> bool:
        """True while at least one plain span is watched."""
        return bool(self._watched)

    def read_spans(self) -> None:
        """Read the attributes of all watched spans. A span with progress becomes a level."""
        with self._lock.lock:
            watched = list(self._watched.items())
        for span_id, (span, _) in watched:
            try:
                # Why per span: the end of a span never waits for more than one read.
                with self._lock.lock:
                    if span_id in self._watched:  # it may have ended since
                        self._read_span_locked(span_id, span)
            except Exception as error:
                report_internal_error("processor", "Reading the progress of a span failed.", error=error)

    # --- from attributes to a level ---------------------------------------------------------------

    def _read_span_locked(self, span_id: int, span: Span) -> Node | None:
        """Copy the attributes of a watched span to its level.

        Returns None without progress.
        """
        attributes = dict(span.attributes or {})
        node = self._nodes.get(span_id)
        if node is None and _has_progress(attributes):
            node = self._open_node_locked(span_id, span, attributes)
        if node is not None:
            _copy_attributes(attributes, node)
        return node

    def _find_parent_locked(self, span_id: int, span: Span) -> Node | None:
        """Return the running level of the nearest ancestor with progress, or None.

        The ancestor is a plain span or a level of a helper.
        """
        ancestor, parent = self._watched[span_id][1], span.parent
        # Why: id generators of tests may repeat an id, which must not cause an endless loop.
        visited = {span_id}
        while parent is not None and parent.span_id in self._watched and parent.span_id not in visited:
            visited.add(parent.span_id)
            parent_span = self._watched[parent.span_id][0]
            node = self._read_span_locked(parent.span_id, parent_span)
            if node is not None:
                return node
            parent = parent_span.parent
        return ancestor if ancestor is not None and ancestor.status is Status.RUNNING else None

    def _open_node_locked(self, span_id: int, span: Span, attributes: Mapping[str, Any]) -> Node | None:
        parent = self._find_parent_locked(span_id, span)
        id_ = attributes.get(semconv.OPERATION_ID if parent is None else semconv.LEVEL_ID, f"{span_id:016x}")
        # Why: readers cannot address an empty id.
        id_ = id_ if id_ != "" else f"{span_id:016x}"
        name = attributes.get(semconv.OPERATION_NAME if parent is None else semconv.LEVEL_NAME, span.name)
        type_ = attributes.get(semconv.OPERATION_TYPE if parent is None else semconv.LEVEL_TYPE, span.name)
        raw_unit = attributes.get(semconv.UNIT)
        unit = None if raw_unit is None else parse_unit(raw_unit)
        singular, plural = (None, None) if unit is None or isinstance(unit, Rejection) else unit
        spec = Spec(
            redact_id(normalize_id(type_)),
            redact_id(normalize_id(id_)),
            redact_name(truncate(name, MAX_NAME)),
            None,
            singular,
            1,
            None,
            None,
            NO_METADATA,
            unit_plural=plural,
            link=self.parent_link if parent is None else None,
        )
        node = self._store.start_level(parent, spec)
        if node is None:
            return None
        if semconv.OPERATION_ID not in attributes:
            node.operation.is_id_given = False
        node.trace = (span.get_span_context().trace_id, span_id)
        self._nodes[span_id] = node
        return node

    def _close_node(self, span: ReadableSpan, node: Node) -> None:
        failed = span.status.status_code is StatusCode.ERROR
        error = None
        if failed:
            kind = (span.attributes or {}).get(semconv.ERROR_TYPE, "error")
            text = redact_value("error", truncate(span.status.description or ""))
            error = Failure(redact_id(normalize_id(kind)), text)
        self._store.end_level(node, Status.FAILED if failed else Status.COMPLETED, error=error)


def _has_progress(attributes: Mapping[str, Any]) -> bool:
    return any(name in attributes for name in _PROGRESS_ATTRIBUTES)


def _copy_attributes(attributes: Mapping[str, Any], node: Node) -> None:
    """Copy valid and changed values to the node: total, current, message and metadata."""
    total = _parse_number_or_none(attributes.get(semconv.TOTAL), "total")
    if total is not None and total != node.total:
        node.total, node.dirty = total, True
    current = _parse_number_or_none(attributes.get(semconv.CURRENT), "current")
    if current is not None and current != node.ensure_counter().value():
        node.ensure_counter().set(current)
        node.dirty = True
    message = attributes.get(semconv.MESSAGE)
    if message is not None and truncate(message) != node.message:
        node.message, node.dirty = truncate(message), True
    prefix = semconv.METADATA_PREFIX
    raw = {name[len(prefix) :]: value for name, value in attributes.items() if name.startswith(prefix)}
    if raw:
        metadata = normalize_metadata(raw)
        if any(node.metadata.get(name) != value for name, value in metadata.items()):
            node.metadata, node.dirty = merge_metadata(node.metadata, metadata), True


def _parse_number_or_none(value: object, quantity: str) -> Number | None:
    number = None if value is None else parse_number(value, quantity)
    return None if isinstance(number, Rejection) else number
