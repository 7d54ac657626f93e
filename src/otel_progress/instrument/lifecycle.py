"""Start of a level: from the caller's arguments to a running node with its span."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, cast

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.instrument import spans
from otel_progress.instrument.arguments import LevelArguments, normalize_arguments
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.context import find_parent_link, get_parent_context
from otel_progress.instrument.rejections import Rejection, StrictCounter, capture_call_site
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.snapshots import build_snapshot
from otel_progress.model import NO_METADATA, LevelSnapshot, ParentLink, Status, is_below_total
from otel_progress.stages import to_stage_name

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.updates.levels import UpdatableLevel
    from otel_progress.updates.server import UpdateServer


def _make_placeholder_node() -> Node:
    operation = Operation("", "", "", "")
    return Node(operation, None, "", "", Spec("", "", "", None, None, 1, None, None, NO_METADATA))


def _make_noop_node() -> Node:
    node = _make_placeholder_node()
    node.count_one = cast(Callable[[], object], repeat(None).__next__)
    return node


UNSTARTED_NODE: Final = _make_placeholder_node()
"""Node of every handle that was not started."""


NOOP_NODE: Final = _make_noop_node()
"""Node of every handle that records nothing."""


def start_level(
    arguments: LevelArguments, parent: LevelHandle | None
) -> tuple[Node, RecordingBackend | None]:
    """Start a level and its span. Raises only in strict mode.

    Returns ``NOOP_NODE`` if nothing is configured or the level was rejected.
    """
    backend = backend_slot.current
    if backend is None:
        return NOOP_NODE, None
    node: Node | None = None
    try:
        parent_node = None if parent is None else _get_started_node(parent)
        if parent_node is NOOP_NODE:
            return NOOP_NODE, None
        node = _open_node(backend, arguments, parent_node)
        if node is None:
            return NOOP_NODE, None
        if node.total is not None:
            node.call_site = capture_call_site()
        if backend.strict:
            node.ensure_counter()
            node.count_one = StrictCounter(node, backend.reject).count_one
        _start_span(backend, arguments, node, parent)
    except ProgressError:
        raise
    except Exception:
        report_internal_error("start", "Starting the span of a level failed. The work continues without it.")
        return (NOOP_NODE, None) if node is None else (node, backend)
    except BaseException as error:
        # KeyboardInterrupt: the caller never receives the handle, so close the level here.
        if node is not None:
            backend.store.end_level(node, Status.CANCELLED, message=type(error).__name__)
        raise
    return node, backend


def _get_started_node(level: LevelHandle) -> Node:
    node = level._node
    return level.start()._node if node is UNSTARTED_NODE else node


def _open_node(backend: RecordingBackend, arguments: LevelArguments, parent: Node | None) -> Node | None:
    """Add a node to the live store. Returns None if the level was rejected."""
    if arguments.kind == "stage":
        return _open_stage(backend, arguments, parent)
    spec = normalize_arguments(backend, arguments, parent)
    if parent is None:
        if arguments.kind == "level":
            spec = _to_operation_spec(spec)
        link = find_parent_link(backend)
        if link is not None:
            spec = spec._replace(link=link)
    return backend.store.start_level(parent, spec)


def _to_operation_spec(spec: Spec) -> Spec:
    """Return the spec of a level without a parent, which is an operation.

    The id of a level identifies it among its siblings. It is not the id of an operation, which is
    unique on the machine.
    """
    return spec._replace(id=None, name=spec.id if spec.name is None else spec.name)


def _open_stage(backend: RecordingBackend, arguments: LevelArguments, parent: Node | None) -> Node | None:
    """Add the node of a declared stage. Without declared stages it is a normal level."""
    try:
        name = to_stage_name(cast(Any, arguments.type))
    except ProgressError as error:
        backend.reject(Rejection("stage", str(error)))
        return None
    spec = normalize_arguments(backend, arguments._replace(id=name, name=name), parent)
    if parent is None:
        spec = _to_operation_spec(spec)._replace(link=find_parent_link(backend))
        return backend.store.start_level(None, spec)
    return backend.store.start_stage(parent, spec)


def _start_span(
    backend: RecordingBackend, arguments: LevelArguments, node: Node, parent: LevelHandle | None
) -> None:
    parent_context = get_parent_context(parent)
    if parent is None and backend.remote_parent is not None:
        parent_context = backend.remote_parent.add_span(parent_context)
    span = spans.start_span(backend.tracer, arguments.scope, node, parent_context)
    context = span.get_span_context()
    if context.is_valid:
        node.trace = (context.trace_id, context.span_id)
    node.span, node.info, node.dirty = span, None, True
    if node.status is not Status.RUNNING:
        # Another thread ended the level before its span existed.
        spans.finish_span(node)


def build_child_environment(level: LevelHandle) -> dict[str, str] | None:
    """Return the environment of a child process of a level.

    None if the level records nothing.
    """
    level.start()
    node, backend = level._node, level._backend
    if backend is None:
        return None
    from otel_progress.propagation.environment import build_environment

    link = ParentLink(node.operation.id, node.operation.run, node.path)
    context = spans.build_span_context(level.span)
    return build_environment(os.environ, link, context, backend.child_settings)


def serve_updates(level: UpdatableLevel) -> UpdateServer:
    """Return a server that applies updates of other processes to a level."""
    from otel_progress.updates.levels import RemoteLevels
    from otel_progress.updates.server import UpdateServer

    levels = RemoteLevels(level)
    return UpdateServer(levels.apply, levels.end_abandoned)


def take_level_snapshot(node: Node, backend: RecordingBackend | None) -> LevelSnapshot:
    """Return a current snapshot of a level. Without a backend it is empty and pending."""
    return build_snapshot(NOOP_NODE) if backend is None else backend.store.reader.get_level(node)


def has_reached_total(node: Node, backend: RecordingBackend) -> bool:
    """Return whether a running level has done all its units, or its total is unknown.

    A level that counts its stages has done them when its last stage runs or has ended.
    """
    if node.total is None and (node.children is None or node.children.stages is None):
        return True
    snapshot = backend.store.reader.get_level(node)
    if snapshot.total is None or not is_below_total(snapshot.current, snapshot.total):
        return True
    stages = None if node.total is not None or node.children is None else node.children.stages
    return stages is not None and all(stage.status is not Status.PENDING for stage in stages)
