"""Start of a level: from the caller's arguments to a running node with its span."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import repeat
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError
from otel_progress.instrument import spans
from otel_progress.instrument.arguments import (
    SCOPE,
    LevelArguments,
    RelayedArguments,
    ResumingArguments,
    normalize_arguments,
)
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.context import find_parent_link, get_parent_context
from otel_progress.instrument.rejections import Rejection, StrictCounter, capture_call_site
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import HandleReference, Node, Operation, Spec, add_orphan
from otel_progress.live.snapshots import build_snapshot
from otel_progress.model import NO_METADATA, LevelSnapshot, ParentLink, Status, is_below_total
from otel_progress.stages import to_stage_name
from otel_progress.text import normalize_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.propagation.remote import RemoteReference
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


def describe_level(level: LevelHandle) -> RemoteReference | None:
    """Return the reference to a level for other processes, or None without one.

    It starts the level. The operation includes the work of other processes from then on. Never
    raises.
    """
    try:
        if level._arguments.kind == "remote":
            return cast("RemoteReference", level._arguments.id)
        if level._node is UNSTARTED_NODE:
            level.start()
        node, backend = level._node, level._backend
        if backend is None or node.operation.run == "":
            return None
        backend.store.share_level(node)
        backend.on_shared()
        return _build_reference(backend, node, level._span)
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("start", "A handle could not be prepared for other processes.", error=error)
        return None


def _build_reference(backend: RecordingBackend, node: Node, span: Span) -> RemoteReference:
    from otel_progress.propagation.remote import RemoteReference, encode_trace

    operation = node.operation
    return RemoteReference(
        ParentLink(operation.id, operation.run, node.path),
        operation.type,
        encode_trace(span),
        backend.store_name,
        backend.handle_settings,
        backend.configure,
    )


def resume_handle(level: LevelHandle) -> None:
    """Start a handle that was not started, or whose level belongs to another process."""
    node = level._node
    if node is UNSTARTED_NODE:
        level.start()
    elif node.status.finished:
        renew_handle(level)


def renew_handle(level: LevelHandle) -> bool:
    """Start a handle again whose level belongs to another process.

    The process was forked after the level had started, or the share of this process was closed
    because it was idle. Return False for any other level.
    """
    node, backend = level._node, backend_slot.current
    if backend is None or not node.status.finished:
        return False
    operation = node.operation
    if level._arguments.kind != "remote":
        if node.status is not Status.CANCELLED or node.ended_at is not None:
            return False
        if operation.run == "" or operation.instance == backend.store.instance.id:
            return False
        # Why that of the handle: the child may be configured with another store in the meantime.
        reference = _build_reference(level._backend or backend, node, level._span)
        level._arguments = LevelArguments("remote", node.spec.type, id=reference)
        level._parent = level._entries = level._guard = None
    _reset(level)
    level.start()
    return level.recording


def _start_remote(level: LevelHandle) -> None:
    """Start to work on a level of another process."""
    reference = cast("RemoteReference", level._arguments.id)
    # Why peek: the settings of the other process have precedence over an automatic start.
    if backend_slot.peek() is None and reference.configure is not None:
        reference.configure(reference.settings)
    backend = backend_slot.current
    if backend is None:
        level._node = NOOP_NODE
        return
    context = reference.read_span_context()
    type_ = str(level._arguments.type)
    if reference.store and reference.store == backend.store_name:
        trace_ids = None if context is None else (context.trace_id, context.span_id)
        node = backend.store.open_share(reference.link, reference.operation_type, type_, trace_ids)
        level._span = NOOP_NODE.span if context is None else NonRecordingSpan(context)
        level._backend, level._node = backend, node
        return
    _warn_unshared(backend, type_)
    spec = Spec(type_, None, None, None, None, 1, None, None, NO_METADATA, link=reference.link)
    local = backend.store.open_local_share(reference.link, spec)
    if local is None:
        _ignore(level)
        return
    level._backend, level._node = backend, local
    if local.trace is None:
        parent_context = context_api.get_current()
        if context is not None:
            parent_context = set_span_in_context(NonRecordingSpan(context), parent_context)
        span = spans.start_span(backend.tracer, SCOPE, local, parent_context)
        if span.get_span_context().is_valid:
            local.trace = (span.get_span_context().trace_id, span.get_span_context().span_id)
        local.info, local.dirty = None, True
    level._span = local.span


def _warn_unshared(backend: RecordingBackend, type_: str) -> None:
    if not backend.has_warned_unshared:
        backend.has_warned_unshared = True
        text = (
            f"Invalid store for a handle of {type_} of another process: expected a store that both processes "
            "use. Its progress is an operation of its own here. Set the store to sqlite: or redis://HOST."
        )
        backend.report_rejection("other_process", text)


def start_level(level: LevelHandle) -> None:
    """Start a level and its span, and store them in its handle.

    Raises only in strict mode.

    The handle gets ``NOOP_NODE`` if nothing is configured or the level was rejected. An exception
    that interrupts the start is raised. The level has ended then, and its handle can start again.
    """
    backend = backend_slot.current
    if backend is None and level._arguments.kind != "remote" and not _is_below_remote(level):
        level._node = NOOP_NODE
        return
    try:
        if level._arguments.kind == "remote":
            _start_remote(level)
        elif backend is None:
            _start_below_remote(level)
        else:
            _start(backend, level)
    except ProgressError:
        _reset(level)
        raise
    except BaseException as error:
        if is_interrupt(error):
            cancel_start(level, error)
            raise
        report_internal_error("start", "Starting the span of a level failed. The work continues without it.")
        if not level.recording:
            _ignore(level)


def _is_below_remote(level: LevelHandle) -> bool:
    """Return whether the parent is a handle of another process that was not used yet."""
    above = level._parent
    while above is not None and above._node is UNSTARTED_NODE:
        if above._arguments.kind == "remote":
            return True
        above = above._parent
    return False


def _start_below_remote(level: LevelHandle) -> None:
    """Start a level in a process that its parent configures."""
    if level._parent is not None:
        level._parent.start()
    backend = backend_slot.current
    if backend is None:
        level._node = NOOP_NODE
    else:
        _start(backend, level)


def cancel_start(level: LevelHandle, error: BaseException) -> None:
    """End a level whose start was interrupted. Its handle can start again."""
    node, backend = level._node, level._backend
    if backend is not None and node is not UNSTARTED_NODE and node is not NOOP_NODE:
        backend.store.end_level(node, Status.CANCELLED, message=type(error).__name__)
    _reset(level)


def _reset(level: LevelHandle) -> None:
    level._node = UNSTARTED_NODE
    level._backend = None


def _ignore(level: LevelHandle) -> None:
    level._node = NOOP_NODE
    level._backend = None


def _start(backend: RecordingBackend, level: LevelHandle) -> None:
    arguments, parent = level._arguments, level._parent
    parent_node = None if parent is None else _get_started_node(parent)
    if parent_node is NOOP_NODE:
        level._node = NOOP_NODE
        return
    if arguments.kind == "stage":
        opened = _open_stage(backend, arguments, parent_node)
        if opened is None:
            level._node = NOOP_NODE
            return
        node = opened
        if node.total is not None:
            node.call_site = capture_call_site()
        level._backend, level._node = backend, node
        watch_handle(level, node)
    else:
        spec = normalize_arguments(backend, arguments, parent_node)
        if parent_node is None:
            if arguments.kind == "level":
                # Why the name: a loop has no argument for an id.
                is_named = type(arguments) is ResumingArguments and spec.name is not None
                spec = spec._replace(id=normalize_id(spec.name)) if is_named else _to_operation_spec(spec)
            link = find_parent_link(backend)
            if link is not None:
                spec = spec._replace(link=link)
        new_node = backend.store.create_node(parent_node, spec)
        if parent_node is None and type(arguments) is ResumingArguments:
            new_node = _resume(backend, spec, new_node)
        elif parent_node is None and type(arguments) is RelayedArguments:
            operation = new_node.operation
            operation.run, operation.sequence = arguments.run, arguments.sequence
            new_node.attempt = arguments.attempt
        level._backend = backend
        # Why in one statement: a signal handler or another thread may start the same handle at the
        # same time, and neither runs before the statement has ended.
        node = level._node = new_node if level._node is UNSTARTED_NODE else level._node
        if node is new_node:
            if node.total is not None:
                node.call_site = capture_call_site()
            guard = level._guard
            # Why not watch_handle: each start of a level calls this.
            if guard is None or guard() is None:
                guard = HandleReference(level, add_orphan)
            guard.node, node.handle = node, guard
        if not backend.store.start_node(node):
            _ignore(level)
            return
        if node is not new_node:
            return
    if backend.strict:
        node.ensure_counter()
        node.count_one = StrictCounter(node, backend.reject).count_one
    _start_span(backend, arguments, node, parent)
    level._span = node.span


def _resume(backend: RecordingBackend, spec: Spec, node: Node) -> Node:
    """Continue the newest run of an operation. Return its pending node.

    Raises OperationRunningError if a live process runs the operation.
    """
    if spec.id is None:
        expected = "expected an id, or the name of a loop. Pass the same one in each session"
        backend.reject(Rejection("resume", f"Invalid resume of an operation without an id: {expected}."))
        return node
    if backend.resumer is None:
        backend.store.continue_run(node, None)
        return node
    other_id = backend.resumer.resume(node)
    if other_id is None:
        return node
    node = backend.store.create_node(None, spec._replace(id=other_id))
    backend.store.continue_run(node, None)
    return node


def watch_handle(level: LevelHandle, node: Node) -> None:
    """End the level when its handle, or the exit of its ``with`` block, is collected."""
    reference = level._guard
    if reference is None or reference() is None:
        reference = HandleReference(level, add_orphan)
    reference.node = node
    node.handle = reference


def _get_started_node(level: LevelHandle) -> Node:
    node = level._node
    if node is UNSTARTED_NODE:
        return level.start()._node
    if node.status is Status.CANCELLED and node.ended_at is None:
        renew_handle(level)
    return level._node


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
    work = None if node.parent is not None else node.operation.completed_work
    earlier = None if work is None or work.work is None else work.work.root.info
    span = spans.start_span(backend.tracer, arguments.scope, node, parent_context, earlier)
    context = span.get_span_context()
    if context.is_valid:
        node.trace = (context.trace_id, context.span_id)
    node.info, node.dirty = None, True
    if node.status is not Status.RUNNING:
        # Another thread ended the level before its span existed.
        spans.finish_span(node)


COMMIT_S: Final = 5.0
"""Time that a checkpoint and ``resume_from`` wait for the journal, in seconds. Beyond it the next
write contains the value.
"""


def store_checkpoint(backend: RecordingBackend, node: Node, text: str) -> bool:
    """Store a checkpoint, and wait for the commit. Return False without a commit."""
    operation = node.operation
    if operation.superseded_by is not None:
        return False
    backend.store.set_checkpoint(operation, text)
    if backend.resumer is None or not backend.resumer.commit(COMMIT_S):
        return False
    # Why again: the write may have found that another process has continued the run.
    return operation.superseded_by is None


def was_completed(node: Node) -> bool:
    """Return True if an earlier session completed a level with an id."""
    work, parent = node.operation.completed_work, node.parent
    if work is None or parent is None or node.spec.id is None:
        return False
    return work.is_completed(parent.path, node.path_segment)


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
    return UpdateServer(levels.apply, levels.end_abandoned, levels.end_remaining)


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


class GuardedExit:
    """Descriptor of an exit that detects when a block is left without it.

    It is that of ``__exit__`` or ``__aexit__``. A signal handler may raise at the first bytecode of
    the exit, where no ``try`` can catch it.
    The bound method of a ``with`` statement has no other reference. So it is collected when the
    statement ends, and its level is ended by the next tick or query.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __get__(self, level: LevelHandle | None, owner: type | None = None) -> Callable[..., object]:
        if level is None:
            return self._function
        method = MethodType(self._function, level)
        guard = level._guard
        if (guard is None or guard() is None) and backend_slot.current is not None:
            level._guard = HandleReference(method, add_orphan)
        return method


class _Done:
    """Awaitable without a result that is done already."""

    __slots__ = ()

    def __await__(self) -> Iterator[Any]:
        return iter(())


DONE: Final = _Done()
"""Result of every ``__aexit__``, which leaves the block when it is called.

A coroutine could be interrupted before its first statement.
"""
