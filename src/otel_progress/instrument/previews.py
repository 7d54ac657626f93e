"""Whether a level's preview is due, and what is told of one that was stored. Never raises, and never waits for anything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import PreviewError
from otel_progress.instrument import spans
from otel_progress.live.node import Node
from otel_progress.live.store import LiveStore
from otel_progress.model import Status
from otel_progress.previews.schedule import At, find_due_mark
from otel_progress.previews.service import PreviewContext, PreviewService
from otel_progress.records import Preview
from otel_progress.settings.parsing import PREVIEW_AT, PreviewAt, parse_preview_at
from otel_progress.text import truncate

MAX_NAME: Final = 64
"""Longest name of a preview, in characters."""


def offer_preview(
    previewer: PreviewService, store: LiveStore, node: Node, value: object, name: str, at: PreviewAt | None
) -> None:
    """Take a preview of a level when one is due."""
    if node.status is not Status.RUNNING:
        return
    try:
        _offer(previewer, store, node, value, truncate(name, MAX_NAME), at)
    except Exception as error:  # whatever a caller's type does when it is looked at
        previewer.count_refused(error)


def _offer(
    previewer: PreviewService, store: LiveStore, node: Node, value: object, name: str, at: PreviewAt | None
) -> None:
    when = previewer.settings.at if at is None else _when(at)
    turn = previewer.get_level_state(node)
    mark = find_due_mark(
        when, turn.marks.get(name), ratio_of(node) if isinstance(when, tuple) else None, store.clock()
    )
    if mark is None:
        return
    operation = node.operation
    root = operation.root
    ratio = None if root is None else ratio_of(root)
    place = PreviewContext(
        operation.id, operation.type, operation.run, node.path, name, store.now(), ratio, operation.previews
    )
    previewer.offer(turn, mark, place, value, partial(_on_preview_stored, previewer, store, node))


def _when(at: object) -> At:
    try:
        return _parsed(tuple(at) if isinstance(at, list) else at)
    except (ValueError, TypeError) as error:
        expected = (
            error if isinstance(error, ValueError) else PREVIEW_AT
        )  # the other one: it cannot even be looked up
        msg = f"at={truncate(repr(at), 60)} says nothing of when: expected {expected}"
        raise PreviewError(msg) from None


@lru_cache(maxsize=64)
def _parsed(at: object) -> At:
    return parse_preview_at(at)


def ratio_of(node: Node) -> float | None:
    """Return how far a level is: by its own counting at this moment, else as of the last tick; of the nearest one above that knows."""
    here: Node | None = node
    while here is not None:
        counter, total, below = here.counter, here.total, here.children
        if total and counter is not None and counter.touched and (below is None or below.stages is None):
            return min(1.0, counter.value() / total)
        if here.ratio is not None:
            return here.ratio
        here = here.parent
    return None


def _on_preview_stored(
    previewer: PreviewService, store: LiveStore, node: Node, preview: Preview, gone: Sequence[Preview]
) -> None:
    """Tell of a preview that was stored: the live store, and with it every sink, and the level's span."""
    store.add_preview(node, preview, gone)
    try:
        spans.add_preview_event(node, preview, previewer.address(preview.operation_id, preview.number))
    except Exception as error:
        report_internal_error("span", "a preview could not be told on a span", error=error)
