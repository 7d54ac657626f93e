"""How a level begins: from what the caller asked for to a running node with its span, and where it stands in the context."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, cast

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.instrument import spans
from otel_progress.instrument.arguments import LevelArguments, normalize_arguments, total_exceeded
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.context import parent_context
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.snapshots import build_snapshot
from otel_progress.model import NO_METADATA, LevelSnapshot, Status
from otel_progress.stages import stage_name

if TYPE_CHECKING:
    from otel_progress.instrument.level import Level


def _make_placeholder_node() -> Node:
    operation = Operation("", "", "", "")
    return Node(operation, None, "", "", Spec("", "", "", None, None, 1, None, None, NO_METADATA))


def _make_noop_node() -> Node:
    node = _make_placeholder_node()
    node.count_one = cast(Callable[[], object], repeat(None).__next__)
    return node


UNSTARTED_NODE: Final = _make_placeholder_node()
"""Stands for the node of every handle that has not begun."""


NOOP_NODE: Final = _make_noop_node()
"""The node of every handle that records nothing."""


def start_level(request: LevelArguments, above: Level | None) -> tuple[Node, RecordingBackend | None]:
    """Begin a level; the inert node when nothing is configured, or when it was refused. Never raises unless strict."""
    recording = backend_slot.current
    if recording is None:
        return NOOP_NODE, None
    node: Node | None = None
    try:
        parent = None if above is None else above._node
        if parent is UNSTARTED_NODE:
            parent = above.start()._node  # type: ignore[union-attr]
        if parent is NOOP_NODE:
            return NOOP_NODE, None
        if request[0] == "stage":
            node = _open_stage(recording, request, parent)
        else:
            node = recording.store.start_level(parent, normalize_arguments(recording, request, parent))
        if node is None:
            return NOOP_NODE, None
        if recording.strict:
            node.ensure_counter()
            node.count_one = _StrictCounter(recording, node).count_one
        span = spans.start_span(recording.tracer, request[-1], node, parent_context(above))
        context = span.get_span_context()
        if context.is_valid:
            node.trace = (context.trace_id, context.span_id)
        node.span, node.info, node.dirty = span, None, True
        if (
            node.status is not Status.RUNNING
        ):  # ended by another thread meanwhile, before its span was there to be ended
            spans.finish_span(node)
    except ProgressError:
        raise
    except Exception:
        report_internal_error("begin", "a level could not be begun with its span; the work goes on without")
        return (NOOP_NODE, None) if node is None else (node, recording)
    except BaseException as error:  # an interrupt: no handle will end what began here
        if node is not None:
            recording.store.end_level(node, Status.CANCELLED, message=type(error).__name__)
        raise
    return node, recording


def _open_stage(recording: RecordingBackend, request: LevelArguments, parent: Node | None) -> Node | None:
    """Begin a declared stage; where none are declared, a stage is a level like any other."""
    try:
        name = stage_name(cast(Any, request.type))
    except ProgressError as error:
        recording.reject_value("stage", str(error))
        return None
    spec = normalize_arguments(recording, request._replace(id=name, name=name), parent)
    return (
        recording.store.start_level(None, spec)
        if parent is None
        else recording.store.start_stage(parent, spec)
    )


class _StrictCounter:
    """Strict counting: refuses the unit that goes beyond the total, where the default counts first and clamps later."""

    __slots__ = ("_node", "_recording")

    def __init__(self, recording: RecordingBackend, node: Node) -> None:
        self._recording = recording
        self._node = node

    def count_one(self) -> None:
        """Count one unit. Raises RejectedValueError beyond the total."""
        node = self._node
        after = node.ensure_counter().value() + 1
        if node.total is not None and after > node.total:
            bad = total_exceeded(node, after)
            self._recording.reject_value(bad.reason, bad.text)
        node.ensure_counter().count_one()


def take_level_snapshot(node: Node, recording: RecordingBackend | None) -> LevelSnapshot:
    """Return the level as it is now; an empty, pending one when nothing is recorded."""
    return build_snapshot(NOOP_NODE) if recording is None else recording.store.reader.get_level(node)
