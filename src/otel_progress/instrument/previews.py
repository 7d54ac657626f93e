"""Previews of a level: schedule check, and events of stored previews.

Never raises or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import PreviewError
from otel_progress.instrument import spans
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import Node
from otel_progress.live.store import LiveStore
from otel_progress.model import Status
from otel_progress.previews.schedule import At, find_due_mark
from otel_progress.previews.service import PreviewContext, PreviewService
from otel_progress.records import Preview
from otel_progress.settings.parsing import PREVIEW_AT, PreviewAt, parse_preview_at
from otel_progress.text import truncate

MAX_NAME: Final = 64
"""Characters of the name of a preview. Longer names are truncated."""


def offer_preview(
    previewer: PreviewService, store: LiveStore, node: Node, value: object, name: str, at: PreviewAt | None
) -> None:
    """Pass ``value`` to the preview service if a preview of the level is due."""
    if node.status is not Status.RUNNING:
        return
    try:
        _offer(previewer, store, node, value, truncate(name, MAX_NAME), at)
    except Exception as error:  # A foreign type may raise any exception when it is read.
        if is_interrupt(error):
            raise
        previewer.count_refused(error)


def _offer(
    previewer: PreviewService, store: LiveStore, node: Node, value: object, name: str, at: PreviewAt | None
) -> None:
    schedule = previewer.settings.at if at is None else _parse_schedule(at)
    state = previewer.get_level_state(node)
    ratio = compute_ratio(node) if isinstance(schedule, tuple) else None
    mark = find_due_mark(schedule, state.marks.get(name), ratio, store.clock())
    if mark is None:
        return
    operation = node.operation
    root = operation.root
    operation_ratio = None if root is None else compute_ratio(root)
    context = PreviewContext(
        operation.id,
        operation.type,
        operation.run,
        node.path,
        name,
        store.read_time(operation),
        operation_ratio,
        operation.previews,
    )
    previewer.offer(state, mark, context, value, partial(_on_preview_stored, previewer, store, node))


def _parse_schedule(at: object) -> At:
    try:
        return _parse_hashable_schedule(tuple(at) if isinstance(at, list) else at)
    except (ValueError, TypeError) as error:
        # TypeError: the value is not hashable, so the cache cannot hold it.
        expected = error if isinstance(error, ValueError) else PREVIEW_AT
        msg = f"Invalid at {truncate(repr(at), 60)}: expected {expected}."
        raise PreviewError(msg) from None


@lru_cache(maxsize=64)
def _parse_hashable_schedule(at: object) -> At:
    return parse_preview_at(at)


def compute_ratio(node: Node) -> float | None:
    """Return the ratio of a level, or of its nearest ancestor with a known ratio.

    A level that counts units itself has the ratio of this moment, any other the ratio of the last
    tick.
    """
    ancestor: Node | None = node
    while ancestor is not None:
        counter, total, children = ancestor.counter, ancestor.total, ancestor.children
        if (
            total
            and counter is not None
            and counter.touched
            and (children is None or children.stages is None)
        ):
            return min(1.0, counter.value() / total)
        if ancestor.ratio is not None:
            return ancestor.ratio
        ancestor = ancestor.parent
    return None


def _on_preview_stored(
    previewer: PreviewService, store: LiveStore, node: Node, preview: Preview, evicted: Sequence[Preview]
) -> None:
    """Add a stored preview to the live store, for all sinks, and to the span."""
    store.add_preview(node, preview, evicted)
    try:
        spans.add_preview_event(node, preview, previewer.address(preview.operation_id, preview.number))
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("span", "Adding the event of a preview to a span failed.", error=error)
