"""Level handles: counting, children, opaque steps, pauses and tracked iteration.

A handle writes to a node of the live store and never blocks. It starts when it is entered,
started, or first used. Without ``configure()`` all methods do nothing. An invalid value is
counted, logged once per call site, and ignored. In strict mode it raises.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from opentelemetry.trace import Span

from otel_progress import redaction
from otel_progress.errors import ProgressError
from otel_progress.instrument import spans
from otel_progress.instrument.arguments import (
    MAX_METADATA,
    LevelArguments,
    UnitLike,
    make_level_arguments,
    normalize_metadata,
    parse_checkpoint,
    parse_expected_seconds,
    parse_number,
    parse_outcome,
)
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.blocks import (
    BlockEntry,
    BlockExit,
    remove_entry,
    take_entry,
)
from otel_progress.instrument.context import (
    ContextEntry,
    cancel_entry,
    enter_level_context,
    get_current_level,
    leave_level_context,
)
from otel_progress.instrument.copying import SharedHandle, find_handle, is_own_reference, make_reference
from otel_progress.instrument.decorators import decorate
from otel_progress.instrument.exits import classify_exception
from otel_progress.instrument.failures import ErrorLike, to_failure
from otel_progress.instrument.iteration import (
    SHARED,
    SharedAsyncIterator,
    SharedIterator,
    can_iterate_in_c,
    find_loop_kind,
    get_length,
    is_async_loop,
    iterate,
    iterate_in_c,
    make_cancelled_error,
    start_async_generator,
    watch_loop,
)
from otel_progress.instrument.keyed_iteration import (
    KeyedAsyncIterator,
    KeyedIterator,
    KeyedLoop,
    start_keyed_loop,
)
from otel_progress.instrument.lifecycle import (
    COMMIT_S,
    DONE,
    NOOP_NODE,
    UNSTARTED_NODE,
    GuardedExit,
    build_child_environment,
    cancel_start,
    describe_level,
    has_reached_total,
    renew_handle,
    serve_updates,
    start_level,
    store_checkpoint,
    take_level_snapshot,
    was_completed,
    watch_handle,
)
from otel_progress.instrument.nesting import (
    find_enclosing_loop,
    next_number,
    register_loop,
)
from otel_progress.instrument.rejections import Rejection, capture_call_site, get_frame, reject_excess
from otel_progress.live.node import (
    REASON_COLLECTED,
    CounterMissing,
    HandleReference,
    Node,
    SharedLoopReference,
    merge_metadata,
)
from otel_progress.live.rollup import exceeds_total
from otel_progress.model import NO_METADATA, Eta, LevelSnapshot, Number, Outcome, Status
from otel_progress.stages import StagesLike
from otel_progress.text import truncate

if TYPE_CHECKING:
    from datetime import timedelta
    from enum import Enum

    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.propagation.environment import ChildEnvironment
    from otel_progress.propagation.remote import RemoteReference
    from otel_progress.settings.parsing import PreviewAt


T = TypeVar("T")


F = TypeVar("F", bound=Callable[..., Any])


_ONE: Final = 1


_KINDS_WITHOUT_PARENT: Final = ("operation", "remote")
"""Kinds of levels that do not start below the current level."""


class Level(SharedHandle):
    """One level of work: an operation, a stage, or a level below one.

    Use it in ``with`` or ``async with``, as a decorator, or with :meth:`start` and an end method.
    :func:`operation`, :func:`level`, and the methods :meth:`level`, :meth:`stage` and
    :meth:`track` of a level return levels.

    All methods may be called from any thread. Without :func:`otel_progress.configure` they do
    nothing. An invalid value is ignored, counted and logged once per call site. With the setting
    ``strict`` it raises RejectedValueError or RejectedTypeError.

    Nested blocks of one handle end the level once, at the end of the last active block. A block
    of a handle whose level has ended is a new level with the same arguments. A copy is the handle
    itself, and so is a pickle that is loaded in the same process. In another process, the loaded
    handle adds its units and levels to this level, through the store that both processes use. Only
    the process that started a level ends it.
    """

    __slots__ = ("_arguments", "_backend", "_entries", "_guard", "_node", "_parent", "_span")

    def __init__(self, arguments: LevelArguments, parent: LevelHandle | None) -> None:
        self._arguments = arguments
        self._parent = parent
        self._backend: RecordingBackend | None = None
        self._node = UNSTARTED_NODE
        self._entries: list[ContextEntry] | None = None
        """Active blocks, of all threads and tasks."""
        self._span: Span = NOOP_NODE.span
        self._guard: HandleReference | None = None

    # --- counting: the hot path ------------------------------------------------------------------

    def increment(self, n: Number = 1, message: str | None = None) -> None:
        """Count ``n`` more units of work as done and set the message if one is given.

        ``n`` is a number of at least 0.
        """
        # Why identity: True == 1, and the == of a foreign type may raise.
        if n is _ONE and message is None:
            try:
                self._node.count_one()
            except CounterMissing:
                self._count_first()
        else:
            self._increment(n, message)

    def _count_first(self) -> None:
        node = self._get_running_node()
        if node is not None:
            node.ensure_counter()
            node.count_one()

    def _increment(self, n: Number, message: str | None) -> None:
        node = self._get_running_node()
        if node is None:
            return
        step = n if type(n) is int and 0 <= n < 2**63 else parse_number(n, "increment")
        if isinstance(step, Rejection):
            self._reject(step)
        elif (
            self._backend.strict  # type: ignore[union-attr]
            and node.total is not None
            and exceeds_total(node.ensure_counter().value() + step, node.total)
        ):
            self._reject(reject_excess(node, node.ensure_counter().value() + step))
        else:
            node.ensure_counter().add(step)
        if message is not None:
            node.message = truncate(message)
            node.dirty = True

    def update(
        self,
        *,
        current: Number | None = None,
        total: Number | None = None,
        message: str | None = None,
        **metadata: object,
    ) -> None:
        """Set the units done, the total, the message and metadata.

        Other values stay unchanged.

        ``current`` and ``total`` are numbers of at least 0, and ``current`` is at most the total.
        Metadata values are converted to OpenTelemetry attribute types. A level has at most 128
        metadata keys.
        """
        node = self._get_running_node()
        if node is None:
            return
        if total is not None and total is not node.total:
            self._set_total(node, total)
        if current is not None:
            self._set_current(node, current)
        if message is not None:
            node.message = truncate(message)
        if metadata:
            self._set_metadata(node, metadata)
        node.dirty = True

    def set_total(self, total: Number | None) -> None:
        """Set the number of units in all. None makes it unknown again."""
        node = self._get_running_node()
        if node is None:
            return
        if total is None:
            node.total = None
        else:
            self._set_total(node, total)
        node.dirty = True

    def item(
        self,
        name: str,
        *,
        outcome: Outcome | str = Outcome.COMPLETED,
        error: ErrorLike | None = None,
        **metadata: object,
    ) -> None:
        """Count one unit of work with its outcome and store it as an event.

        For example ``item("a.wav", outcome="failed", error=e)``. On the level of a ``track`` loop
        it does not count the unit, because the loop counts it.
        """
        node = self._get_running_node()
        if node is None:
            return
        parsed_outcome = parse_outcome(outcome)
        if isinstance(parsed_outcome, Rejection):
            self._reject(parsed_outcome)
            return
        if parsed_outcome is Outcome.FAILED:
            node.fail_one()
        elif parsed_outcome is Outcome.SKIPPED:
            node.skip_one()
        if not node.tracked:
            node.ensure_counter()
            node.count_one()
        item_name = redaction.redact_name(truncate(name))
        failure = None if error is None else to_failure(error)
        item_metadata = normalize_metadata(metadata) if metadata else NO_METADATA
        node.dirty = True
        self._backend.store.add_item(node, item_name, parsed_outcome, failure, item_metadata)  # type: ignore[union-attr]
        if parsed_outcome is Outcome.FAILED:
            spans.add_item_event(node, item_name, parsed_outcome.value, failure)

    def resume_from(self, current: Number) -> None:
        """Set how many units an earlier session completed.

        They count as done, but estimates use only the rate of this session. A resumed run is not
        added to the history for later estimates. The children of the level count in addition until
        it counts units itself. On an operation the call waits until the journal has the value, at
        most 5 s.
        """
        node = self._get_running_node()
        units = None if node is None else self._accept_current(node, current)
        if node is not None and units is not None:
            backend = self._backend
            backend.store.resume_from(node, units)  # type: ignore[union-attr]
            if backend is not None and backend.resumer is not None and node.parent is None:
                # Why: a session that is killed before the next tick would leave 0.
                backend.resumer.commit(COMMIT_S)

    def checkpoint(self, value: object) -> bool:
        """Store a checkpoint of the operation in the journal, with all counts so far.

        ``value`` is JSON of at most 64 KiB. It replaces the previous checkpoint. Another value is
        rejected and changes nothing. Return True after the commit. This call waits for the journal,
        at most 5 s, so it is not for hot loops or event loops. Return False if the checkpoint is
        not committed: without a journal, while the journal fails, or because another process has
        continued the operation. Unless that is the reason, it is part of the next write.

        Checkpoints are not redacted. :attr:`last_checkpoint` returns them in this session and in
        the next one that is started with ``resume=True``.
        """
        node = self._get_running_node()
        backend = self._backend
        if node is None or backend is None:
            return False
        text = parse_checkpoint(value)
        if isinstance(text, Rejection):
            self._reject(text)
            return False
        return store_checkpoint(backend, node, text)

    @property
    def last_checkpoint(self) -> Any:
        """Last checkpoint of the operation. None without one.

        It is of this session or an earlier one.
        """
        self.start()
        text = self._node.operation.checkpoint
        return None if text is None else json.loads(text)

    @property
    def already_completed(self) -> bool:
        """True if an earlier session completed this level, so its work can be left out.

        The operation was started with ``resume=True``, and the level has an id. The property starts
        the level.
        """
        self.start()
        return was_completed(self._node)

    def preview(self, image: object, name: str = "preview", *, at: PreviewAt | None = None) -> None:
        """Offer a preview of the work. It is captured only if a preview is due.

        ``image`` is a PIL image, a numpy array (height, width[, 1 to 4 channels]), a matplotlib
        figure, the bytes of an image file, a ``pathlib.Path``, a text, or a dict or list for JSON.
        It can also be a function without arguments that returns one of these. The function is
        called in another thread if a preview is due, so the data it reads must not change.

        ``at`` overrides the setting ``preview_at``: fractions such as ``(0.25, 0.5)`` of this
        level, seconds, or ``"always"``. Without a total the fractions are those of the nearest
        ancestor with one. A level processes one preview at a time. A preview that is due in the
        meantime is dropped and due again at the next call. Never raises.
        """
        node = self._node
        if node is UNSTARTED_NODE:
            node = self.start()._node
        elif node.status is Status.CANCELLED and node.ended_at is None and renew_handle(self):
            node = self._node
        backend = self._backend
        if backend is not None and backend.previewer is not None:
            from otel_progress.instrument import previews

            previews.offer_preview(backend.previewer, backend.store, node, image, name, at)

    # --- children --------------------------------------------------------------------------------

    def level(
        self,
        type: str,
        id: object = None,
        name: str | None = None,
        *,
        total: Number | None = None,
        unit: UnitLike | None = None,
        weight: Number | None = None,
        stages: StagesLike | None = None,
        **metadata: object,
    ) -> Level:
        """Return a child of this level, for any thread or task.

        See :func:`otel_progress.level`.
        """
        scope = self._arguments.scope
        return Level(
            make_level_arguments(
                ("level", type, id, name, total, unit, weight, None, stages, metadata, None, None, scope)
            ),
            self,
        )

    def stage(self, name: str | Enum) -> Level:
        """Return the handle of a stage. Its start ends the previous stage.

        A stage cannot start after a later stage has started.
        """
        return Level(LevelArguments("stage", name, id=name, name=name, scope=self._arguments.scope), self)

    def track(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        name: str | None = None,
        *,
        type: str = "track",
        total: Number | None = None,
        unit: UnitLike | None = None,
        weight: Number | None = None,
        key: Callable[[T], object] | None = None,
        resume: bool | None = None,
        **metadata: object,
    ) -> Track[T]:
        """Iterate with progress, as a child of this level.

        See :func:`otel_progress.track`.
        """
        arguments = LevelArguments(
            "level",
            type,
            name=name,
            total=total,
            unit=unit,
            weight=weight,
            metadata=metadata,
            scope=self._arguments.scope,
        )
        return Track(iterable, arguments, self, key, resume)

    def opaque(self, expected: float | timedelta | None = None) -> OpaqueStep:
        """Return a context manager that marks this level as an opaque step.

        An opaque step cannot report progress, for example a subprocess or one long call into a
        library. Use it in ``with`` or ``async with``. Its progress is estimated from
        the duration of past runs, or from ``expected`` (seconds or a timedelta). Every view marks
        it as estimated. It approaches the end without reaching it and does not count as an advance.

        ``with op.stage("encode").opaque(expected=30):`` starts and ends the stage. On a running
        level the block counts as one unit of its total.
        """
        seconds = parse_expected_seconds(expected)
        if isinstance(seconds, Rejection):
            self._reject(seconds)
            seconds = None
        return OpaqueStep(self, seconds)

    def paused(self, reason: str | None = None) -> Pause:
        """Return a context manager that pauses the operation of this level.

        The paused time is excluded from estimates and is not a stall. ``reason`` is the message
        during the pause. Nested pauses, in any thread, count as one.
        """
        return Pause(self, reason)

    # --- child processes -------------------------------------------------------------------------

    def environment(self, *, updates: bool = False) -> ChildEnvironment:
        """Return a context manager with the environment of a child process.

        ``with level.environment() as env: subprocess.run(command, env=env)``. The value is a dict:
        a copy of ``os.environ`` with the trace context, this level as the parent, and the store.
        Operations of the child process are then part of this level. ``os.environ`` does not change.
        Entering starts the level. If nothing is recorded, the dict is a plain copy. Never raises.

        With ``updates`` the child process and those below it can change this level until the block
        ends, with the commands ``otel-progress update`` and ``otel-progress level``.
        """
        from otel_progress.propagation.environment import ChildEnvironment

        serve = partial(serve_updates, self) if updates else None
        return ChildEnvironment(partial(build_child_environment, self), serve)

    # --- start and end ---------------------------------------------------------------------------

    def start(self) -> Level:
        """Start the level without ``with``.

        End it with :meth:`complete`, :meth:`fail`, :meth:`cancel` or :meth:`skip`.
        """
        if self._node is UNSTARTED_NODE:
            if self._parent is None and self._arguments.kind not in _KINDS_WITHOUT_PARENT:
                self._parent = get_current_level()
            try:
                start_level(self)
                return self
            except ProgressError:
                raise
            except BaseException as error:
                cancel_start(self, error)
                raise
        return self

    def complete(self) -> None:
        """End the level as completed."""
        try:
            node = self._node
            if node.status is Status.RUNNING and self._backend is not None:
                if not self._backend.store.end_level(node, Status.COMPLETED):
                    self._reject_end()
            else:
                self._end(Status.COMPLETED)
        except BaseException as error:
            self._repeat_end(error, Status.COMPLETED)
            raise

    def fail(self, error: ErrorLike) -> None:
        """End the level as failed. ``error`` is an exception, a text or a Failure."""
        try:
            self._end(Status.FAILED, error)
        except BaseException as interruption:
            self._repeat_end(interruption, Status.FAILED, error)
            raise

    def cancel(self, reason: str = "cancelled") -> None:
        """End the level as cancelled, with the reason as its message."""
        try:
            self._end(Status.CANCELLED, message=reason)
        except BaseException as error:
            self._repeat_end(error, Status.CANCELLED, message=reason)
            raise

    def skip(self, reason: str = "skipped") -> None:
        """End the level as skipped because there was nothing to do.

        The reason is its message.
        """
        try:
            self._end(Status.SKIPPED, message=reason)
        except BaseException as error:
            self._repeat_end(error, Status.SKIPPED, message=reason)
            raise

    def _end(self, status: Status, error: ErrorLike | None = None, message: str | None = None) -> None:
        node = self._get_running_node()
        if node is None or self._backend is None:
            return
        if isinstance(error, BaseException):
            spans.record_exception(node, error)
        has_ended = self._backend.store.end_level(
            node,
            status,
            error=None if status is not Status.FAILED else to_failure(error),
            message=None if message is None else truncate(message),
        )
        if not has_ended:
            self._reject_end()

    def _reject_end(self) -> None:
        """Reject the end of a level of another process."""
        if self._arguments.kind == "remote" and self.recording:
            text = f"Invalid end of {self._arguments.type}: expected the process that started the level."
            self._reject(Rejection("other_process", f"{text} End it there."))

    def _repeat_end(
        self,
        interruption: BaseException,
        status: Status,
        error: ErrorLike | None = None,
        message: str | None = None,
    ) -> None:
        """End a running level after an exception interrupted its end."""
        if not isinstance(interruption, ProgressError) and self.recording:
            self._end(status, error, message)

    # --- with, async with, decorator -------------------------------------------------------------

    def __enter__(self) -> Level:
        node = self._node
        if node.status is Status.CANCELLED and node.ended_at is None:
            renew_handle(self)
        number = len(self._entries) if self._entries else 0
        try:
            if self._node is not UNSTARTED_NODE and self._node.status.finished and not self._entries:
                self._node, self._backend = UNSTARTED_NODE, None
            if self._parent is not None and self._node is UNSTARTED_NODE:
                start_level(self)
            else:
                self.start()
            if self._backend is not None:
                if self._entries is None:
                    self._entries = []
                enter_level_context(self, self._entries)
                guard = self._guard
                if guard is not None and self._node.handle is not guard:
                    guard.node, self._node.handle = self._node, guard
            return self
        except ProgressError:
            raise
        except BaseException as error:
            self._cancel_enter(number, error)
            raise

    def _cancel_enter(self, number: int, error: BaseException) -> None:
        """Undo the start of a block that an exception interrupted."""
        if self._entries is not None and len(self._entries) > number:
            cancel_entry(self._entries)
        if not self._entries:
            cancel_start(self, error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        number = len(self._entries) if self._entries else 0
        try:
            if number:
                leave_level_context(self._entries, self)  # type: ignore[arg-type]
            node, backend = self._node, self._backend
            # Why not _leave: most blocks end here.
            if error is None and backend is not None and node.status is Status.RUNNING and not self._entries:
                backend.store.end_level(node, Status.COMPLETED)
            else:
                self._leave(error, number)
            if self._entries:
                self._release_guard()
            else:
                self._guard = None
        except ProgressError:
            raise
        except BaseException:
            self._leave(error, number)
            self._release_guard()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    if not TYPE_CHECKING:
        __exit__ = GuardedExit(__exit__)

        def __aexit__(self, kind, error, traceback):
            Level.__exit__(self, kind, error, traceback)
            return DONE

        __aexit__ = GuardedExit(__aexit__)

    def _release_guard(self) -> None:
        """Stop watching the exit of the block. Other active blocks need the handle only."""
        if self._guard is not None:
            self._guard = None
            if self._entries and self.recording:
                watch_handle(self, self._node)

    def _leave(self, error: BaseException | None, number: int) -> None:
        """Restore the context and end the level. Idempotent for the block ``number``."""
        if self._entries and len(self._entries) >= number:
            leave_level_context(self._entries, self)
        if self._entries or self._backend is None or self._node.status is not Status.RUNNING:
            return
        if self._arguments.kind == "remote":
            return
        if error is None:
            self.complete()
            return
        leaving = classify_exception(error)
        if leaving.kind == "failed":
            self.fail(error)
        elif leaving.kind == "exited" and has_reached_total(self._node, self._backend):
            self.complete()
        else:
            self._end(Status.CANCELLED, error, leaving.reason)

    async def __aenter__(self) -> Level:
        return self.__enter__()

    def __reduce__(self) -> tuple[object, ...]:
        arguments = self._arguments
        # Why: the process that pickled a handle first loads the original.
        is_loaded = arguments.kind == "remote" and arguments.name is not None
        reference = arguments.name if is_loaded else make_reference(self)
        return _load_level, (reference, str(arguments.type), describe_level(self))

    def __call__(self, function: F) -> F:
        """Decorate a function so that each call is a level of its own.

        The function is plain, async, a generator function or an async generator function.
        """
        return decorate(function, partial(Level, self._arguments, self._parent))

    # --- state -----------------------------------------------------------------------------------

    @property
    def cancel_requested(self) -> bool:
        """True after cancellation of the operation was requested.

        Cheap enough for a hot loop.
        """
        return self._node.operation.cancel_requested_at is not None

    def check_cancelled(self) -> None:
        """Raise OperationCancelledError if cancellation of the operation was requested.

        A ``with`` block or decorated function that the error leaves ends its level as cancelled.
        """
        if self._node.operation.cancel_requested_at is not None:
            raise make_cancelled_error(self._node)

    @property
    def recording(self) -> bool:
        """True while this level is running and recorded."""
        return self._node.status is Status.RUNNING

    @property
    def span(self) -> Span:
        """Span of the level, for attributes, links and events of the caller.

        It is an invalid span if nothing is recorded. After the setting ``segment_after`` it is the
        current segment.
        """
        self.start()
        extras = self._node.extras
        return self._span if extras is None or extras.segments is None else extras.segments.span

    @property
    def path(self) -> str:
        """Place in the tree: ``type:id`` segments joined by ``/``.

        It is empty for the operation.
        """
        self.start()
        return self._node.path

    @property
    def operation_id(self) -> str:
        """Id of the operation that this level belongs to.

        It gets ``~2`` at its end while the operation runs if another live process uses it.
        """
        self.start()
        return self._node.operation.id

    def snapshot(self) -> LevelSnapshot:
        """Return the current state of this level, including all units counted so far."""
        self.start()
        return take_level_snapshot(self._node, self._backend)

    @property
    def eta(self) -> Eta | None:
        """Current estimate of this level's remaining time.

        It is None while no estimate exists, and after the level ended.
        """
        self.start()
        return None if self._backend is None else self._backend.store.reader.get_eta(self._node)

    def __repr__(self) -> str:
        node = self._node
        return f"<Level {self._arguments.type!r} {node.path!r} {node.status.value}>"

    # --- validation ------------------------------------------------------------------------------

    def _get_running_node(self) -> Node | None:
        """Return the running node, or None if the level has ended.

        Starts the level if necessary.
        """
        node = self._node
        if node.status is not Status.RUNNING:
            if node is UNSTARTED_NODE:
                node = self.start()._node
            if node.status is Status.PENDING and self._backend is not None:
                return node  # an interrupted call of this thread, or another thread, starts it
            if node.status.finished and renew_handle(self):
                return self._node
            if node.status is not Status.RUNNING:
                if self._backend is not None:
                    text = f"Invalid change to {self._arguments.type}: expected a level that has not ended."
                    self._reject(Rejection("ended", text))
                return None
        return node

    def _set_total(self, node: Node, total: object) -> None:
        number = total if type(total) is int and 0 <= total < 2**63 else parse_number(total, "total")
        if isinstance(number, Rejection):
            self._reject(number)
        else:
            node.total = number
            if node.call_site is None:
                node.call_site = capture_call_site()

    def _set_current(self, node: Node, current: object) -> None:
        number = self._accept_current(node, current)
        if number is not None:
            node.ensure_counter().set(number)

    def _accept_current(self, node: Node, current: object) -> Number | None:
        """Return a valid ``current``. Rejects any other value and returns None."""
        number = (
            current if type(current) is int and 0 <= current < 2**63 else parse_number(current, "current")
        )
        if isinstance(number, Rejection):
            self._reject(number)
        elif node.total is not None and exceeds_total(number, node.total):
            self._reject(reject_excess(node, number))
        else:
            return number
        return None

    def _set_metadata(self, node: Node, metadata: dict[str, object]) -> None:
        merged = merge_metadata(node.metadata, normalize_metadata(metadata))
        if len(merged) > MAX_METADATA:
            text = f"Invalid metadata of {len(merged)} keys: expected at most {MAX_METADATA} per level."
            self._reject(Rejection("metadata", f"{text} The newest keys were dropped."))
            merged = dict(list(merged.items())[:MAX_METADATA])
        node.metadata = merged

    def _reject(self, rejection: Rejection) -> None:
        backend = self._backend or backend_slot.current
        if backend is not None:
            backend.reject(rejection)


def _load_level(reference: tuple[str, int, int], type: str, remote: RemoteReference | None = None) -> Level:
    """Return the pickled handle, or in another process a handle of its level.

    If nothing was recorded, or if the handle was deleted, the methods do nothing.
    """
    level: Level | None = find_handle(reference)
    if level is None and remote is not None and not is_own_reference(reference):
        return Level(LevelArguments("remote", type, id=remote, name=reference), None)
    if level is None:
        level = Level(LevelArguments("level", type), None)
        level._node = NOOP_NODE
        backend = backend_slot.current
        if backend is not None:
            text = (
                f"Invalid handle of {type}: expected a handle of this process. Its methods do nothing here."
            )
            backend.report_rejection("other_process", text)
    return level


class OpaqueStep(SharedHandle):
    """Context manager of a step with estimated progress. See :meth:`Level.opaque`.

    A level that is not running starts and ends with the step.
    """

    __slots__ = ("_entries", "_expected", "_level", "_prepared")

    def __init__(self, level: Level, expected: float | None) -> None:
        self._level = level
        self._expected = expected
        self._entries: list[BlockEntry] = []
        self._prepared: BlockEntry | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return OpaqueStep, (self._level, self._expected)

    def __enter__(self) -> Level:
        level, entry = self._level, take_entry(self)
        try:
            if entry.guard is not None:
                entry.guard.leave = partial(self._leave_collected, entry)
            entry.is_owner = level._node is UNSTARTED_NODE
            if entry.is_owner:
                level.__enter__()
            backend, node = level._backend, level._node
            entry.backend, entry.node = backend, node
            self._entries.append(entry)
            if backend is not None:
                backend.store.start_opaque(node, entry, self._expected, is_whole_level=entry.is_owner)
            return level
        except BaseException as error:
            self._leave(entry, error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_block(self._entries[-1], error)

    def _end_block(self, entry: BlockEntry, error: BaseException | None) -> None:
        try:
            self._leave(entry, error)
        except ProgressError:
            raise
        except BaseException:
            self._leave(entry, error)
            raise

    def _leave_collected(self, entry: BlockEntry) -> None:
        """End the step after its exit was collected. A level that it started is cancelled."""
        if entry.is_owner:
            self._level.cancel(REASON_COLLECTED)
        self._leave(entry)

    def _leave(self, entry: BlockEntry, error: BaseException | None = None) -> None:
        """End the step, and its level if the step started it. Idempotent."""
        if entry.is_owner and self._level.recording:
            # Ends the level before the mark is removed, so that its ratio is never unknown.
            self._level.__exit__(None if error is None else type(error), error, None)
        entry.is_owner = False
        if entry.backend is not None and entry.node is not None:
            entry.backend.store.end_opaque(entry.node, entry)
        remove_entry(self._entries, entry)

    async def __aenter__(self) -> Level:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    if not TYPE_CHECKING:
        __aexit__ = BlockExit(__exit__, DONE, starts_level=True)
        __exit__ = BlockExit(__exit__, starts_level=True)


class Pause(SharedHandle):
    """Context manager that pauses an operation. See :meth:`Level.paused`."""

    __slots__ = ("_entries", "_level", "_prepared", "_reason")

    def __init__(self, level: Level, reason: object) -> None:
        self._level = level
        self._reason = None if reason is None else truncate(reason)
        self._entries: list[BlockEntry] = []
        self._prepared: BlockEntry | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return Pause, (self._level, self._reason)

    def __enter__(self) -> Level:
        entry = take_entry(self)
        try:
            if entry.guard is not None:
                entry.guard.leave = partial(self._leave, entry)
            level = self._level.start()
            entry.backend, entry.node = level._backend, level._node
            self._entries.append(entry)
            if entry.backend is not None:
                entry.backend.store.start_pause(entry.node.operation, entry, self._reason)
            return level
        except BaseException:
            self._leave(entry)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_block(self._entries[-1], error)

    def _end_block(self, entry: BlockEntry, error: BaseException | None) -> None:  # noqa: ARG002
        try:
            self._leave(entry)
        except BaseException:
            self._leave(entry)
            raise

    def _leave(self, entry: BlockEntry) -> None:
        """End the pause. Idempotent."""
        if entry.backend is not None and entry.node is not None:
            entry.backend.store.end_pause(entry.node.operation, entry, self._reason)
        remove_entry(self._entries, entry)

    async def __aenter__(self) -> Level:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    if not TYPE_CHECKING:
        __aexit__ = BlockExit(__exit__, DONE)
        __exit__ = BlockExit(__exit__)


class Track(SharedHandle, Generic[T]):
    """Iterable or async iterable whose iteration is a level.

    The level starts with the first element and ends after the last one. Leaving the loop early
    ends it as cancelled. It is never the current level, so the caller's context stays unchanged.
    After cancellation was requested, OperationCancelledError is raised between two elements.

    A track that was created without a handle starts below the current level. If its thread runs the
    body of another loop, it starts below the level of that loop.

    Threads may share the iterator if they may share that of the iterable itself. The same applies
    to tasks and an async iterable. The length of the iterable is requested at most once, at the
    start of an iteration, if no total was given and something is configured. A pickle is the
    iterable.
    """

    __slots__ = ("_arguments", "_handle", "_iterable", "_key", "_number", "_parent", "_resume")

    def __init__(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        arguments: LevelArguments,
        parent: Level | None,
        key: Callable[[T], object] | None = None,
        resume: bool | None = None,
    ) -> None:
        self._iterable = iterable
        self._key = key
        self._resume = resume
        self._arguments = arguments
        self._parent = parent
        self._handle: Level | None = None
        self._number = next_number()
        """Only loops that were registered earlier can be around this one."""

    @property
    def level(self) -> Level:
        """Handle of the running iteration or the next one, for messages and item outcomes."""
        if self._handle is None:
            self._handle = Level(self._arguments, self._find_parent(get_frame(1)))
        return self._handle

    def __len__(self) -> int:
        return len(cast(Sized, self._iterable))

    def __bool__(self) -> bool:
        return bool(self._iterable)

    def __reduce__(self) -> tuple[object, ...]:
        return _load_track, (make_reference(self), self._iterable)

    def __iter__(self) -> Iterator[T]:
        iterator = iter(cast("Iterable[T]", self._iterable))
        frame = get_frame(1)
        level = self._start(frame)
        node = level._node
        if node is NOOP_NODE:
            return iterator
        kind = find_loop_kind(frame)
        keys: KeyedLoop[T] | None = None
        if self._key is not None or self._resume:
            keys = start_keyed_loop(level, self._key, self._resume)
        if keys is not None or kind is not SHARED:
            guard = watch_loop(level, kind)
        else:
            guard = watch_loop(level, kind, SharedLoopReference)
        register_loop(frame, guard)
        if keys is not None:
            return KeyedIterator(iterator, level, keys, guard)
        # Why: no other thread can use the iterator of a ``for`` statement. Other callers may share
        # it.
        if kind is not SHARED:
            return iterate(iterator, level, node, guard)
        if can_iterate_in_c(iterator, level):
            return iterate_in_c(iterator, level, node, guard)
        return SharedIterator(iterator, level, node, guard)

    def __aiter__(self) -> AsyncIterator[T]:
        iterator = cast("AsyncIterable[T]", self._iterable).__aiter__()
        frame = get_frame(1)
        level = self._start(frame)
        if level._node is NOOP_NODE:
            return iterator
        keys: KeyedLoop[T] | None = None
        if self._key is not None or self._resume:
            keys = start_keyed_loop(level, self._key, self._resume)
        guard = watch_loop(level, SHARED)
        register_loop(frame, guard)
        if keys is not None:
            return KeyedAsyncIterator(iterator, level, keys, guard)
        if is_async_loop(frame):
            return start_async_generator(iterator, level, guard)
        return SharedAsyncIterator(iterator, level, guard)

    def _start(self, frame: FrameType | None) -> Level:
        handle = self._handle
        if handle is not None and (handle._node.tracked or handle._node.status.finished):
            # The handle belongs to an earlier or running iteration.
            # Each iteration is a level of its own.
            handle = self._handle = None
        if backend_slot.current is not None:
            if handle is None:
                handle = self._handle = Level(self._arguments, self._find_parent(frame))
            elif handle._node is UNSTARTED_NODE:
                handle._parent = self._find_parent(frame)
            if self._arguments.total is None:
                self._read_length(handle)
        return self.level.start()

    def _find_parent(self, frame: FrameType | None) -> LevelHandle | None:
        """Return the parent that was given, or the loop in whose body the track is used.

        ``frame`` uses the track. None is the current level.
        """
        # Why not to resume: the name of the loop is the id of its operation.
        if self._parent is not None or self._resume:
            return self._parent
        level = find_enclosing_loop(frame, self._number)
        if level is not None and self._key is not None and level._node.operation.completed_work is not None:
            # Why: the same key may be one of several loops with the same name.
            return None
        return level

    def _read_length(self, handle: Level) -> None:
        """Set the length of the iterable as the total of a handle without one."""
        if isinstance(self._iterable, Sized) and handle._arguments.total is None:
            if handle._node is UNSTARTED_NODE:
                handle._arguments = handle._arguments._replace(total=get_length(self._iterable))
            elif handle._node.total is None:
                handle.set_total(get_length(self._iterable))


def _load_track(reference: tuple[str, int, int], iterable: object) -> object:
    """Return the pickled track, or its iterable in another process."""
    track = find_handle(reference)
    return iterable if track is None else track
