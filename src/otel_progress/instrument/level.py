"""The handle of a level: what a caller holds, counts with and ends. It writes to a node and never waits for anything.

A handle begins when it is entered, started, or first used. Without ``configure`` it stays inert: every method is there and does
nothing. A bad value never raises (unless strict): it is counted, warned about once, and the last good value stays.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sized
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from opentelemetry import context as context_api
from opentelemetry.trace import Span

from otel_progress.errors import OperationCancelledError
from otel_progress.instrument import spans
from otel_progress.instrument.arguments import (
    MAX_METADATA,
    ErrorLike,
    LevelArguments,
    Rejection,
    make_level_arguments,
    normalize_metadata,
    parse_expected_seconds,
    parse_number,
    parse_outcome,
    qualified_type_name,
    to_failure,
    total_exceeded,
)
from otel_progress.instrument.backend import LEVEL_KEY, RecordingBackend, backend_slot
from otel_progress.instrument.base import LevelBase
from otel_progress.instrument.context import context_with, current_level, detach_if_current
from otel_progress.instrument.decorators import decorate
from otel_progress.instrument.iteration import _iterate, _iterate_async, _length
from otel_progress.instrument.lifecycle import NOOP_NODE, UNSTARTED_NODE, start_level
from otel_progress.live.node import CounterMissing, Node, merge_metadata
from otel_progress.live.rollup import exceeds_total
from otel_progress.model import NO_METADATA, Number, Outcome, Status
from otel_progress.stages import StagesLike
from otel_progress.text import truncate

if TYPE_CHECKING:
    from datetime import timedelta
    from enum import Enum

    from otel_progress.settings.parsing import PreviewAt


T = TypeVar("T")


F = TypeVar("F", bound=Callable[..., Any])


_ONE: Final = 1


class Level(LevelBase):
    """One level of work: an operation, a stage, or anything below. Use it in ``with`` or ``async with``, as a decorator, or by hand.

    Made by :func:`operation`, :func:`level`, or a handle's own :meth:`level`, :meth:`stage` and :meth:`track`.
    """

    __slots__ = ("__weakref__", "_arguments", "_node", "_parent", "_recording", "_span", "_token")

    def __init__(self, request: LevelArguments, above: Level | None) -> None:
        self._arguments = request
        self._parent = above
        self._recording: RecordingBackend | None = None
        self._node = UNSTARTED_NODE
        self._token: object = None
        self._span: Span = NOOP_NODE.span

    # --- counting: the hot path --------------------------------------------------------------------------------

    def increment(self, n: Number = 1, message: str | None = None) -> None:
        """Count ``n`` more units of work done (a number of at least 0) and, if given, say what is being done."""
        if (
            n is _ONE and message is None
        ):  # by identity: the == of a wrong type may raise, and True is no number
            try:
                self._node.count_one()
            except CounterMissing:
                self._count_first()
        else:
            self._increment(n, message)

    def _count_first(self) -> None:
        node = self._running_node()
        if node is not None:
            node.ensure_counter()
            node.count_one()

    def _increment(self, n: Number, message: str | None) -> None:
        node = self._running_node()
        if node is None:
            return
        step = n if type(n) is int and 0 <= n < 2**63 else parse_number(n, "the increment")
        if isinstance(step, Rejection):
            self._reject(step)
        elif (
            self._recording.strict  # type: ignore[union-attr]
            and node.total is not None
            and exceeds_total(node.ensure_counter().value() + step, node.total)
        ):
            self._reject(total_exceeded(node, node.ensure_counter().value() + step))
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
        """Say how far the work is: units done, units in all, a message, and any metadata. What is not given stays.

        ``current`` and ``total`` are numbers of at least 0, ``current`` at most the total. Metadata values become OpenTelemetry
        attribute values; at most 128 keys a level are kept.
        """
        node = self._running_node()
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
        """Say how many units there are in all; None makes the total unknown again."""
        node = self._running_node()
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
        """Count one unit of work, with its outcome, and remember it as an event: ``item("a.wav", outcome="failed", error=e)``."""
        node = self._running_node()
        if node is None:
            return
        how = parse_outcome(outcome)
        if isinstance(how, Rejection):
            self._reject(how)
            return
        if how is Outcome.FAILED:
            node.fail_one()
        elif how is Outcome.SKIPPED:
            node.skip_one()
        if not node.tracked:
            node.ensure_counter()
            node.count_one()
        clean, why = truncate(name), None if error is None else to_failure(error)
        kept = normalize_metadata(metadata) if metadata else NO_METADATA
        node.dirty = True
        self._recording.store.add_item(node, clean, how, why, kept)  # type: ignore[union-attr]
        if how is Outcome.FAILED:
            spans.add_item_event(node, clean, how.value, why)

    def resume_from(self, current: Number) -> None:
        """Say how many units an earlier session had done. They count as done, but the estimate's pace is that of this session alone.

        A run that was resumed is no example for later ones.
        """
        node = self._running_node()
        clean = None if node is None else self._clean_current(node, current)
        if node is not None and clean is not None:
            self._recording.store.resume_from(node, clean)  # type: ignore[union-attr]

    def preview(self, image: object, name: str = "preview", *, at: PreviewAt | None = None) -> None:
        """Offer what the work looks like now; it is taken when one is due, and costs some microseconds when none is.

        ``image`` is a PIL image, a numpy array (height, width[, 1 to 4 channels]), a matplotlib figure, the bytes of a picture, a
        ``pathlib.Path``, a text, a dict or list for JSON, or a function without arguments that returns one of them: called only when one
        is due, off this thread, so what it reads has to stay as it is. ``at`` says when, in place of the setting ``preview_at``:
        fractions ``(0.25, 0.5)`` of this level (of the nearest one above where its total is unknown), seconds, or ``"always"``. One at a
        time a level: one that is due meanwhile is dropped, and due again at the next call. Never raises: what cannot be used is counted.
        """
        node = self._node
        if node is UNSTARTED_NODE:
            node = self.start()._node
        recording = self._recording
        if recording is not None and recording.previewer is not None:
            from otel_progress.instrument import previews as previewing

            previewing.offer_preview(recording.previewer, recording.store, node, image, name, at)

    # --- below -------------------------------------------------------------------------------------------------

    def level(
        self,
        type: str,
        id: object = None,
        name: str | None = None,
        *,
        total: Number | None = None,
        unit: str | None = None,
        weight: Number | None = None,
        stages: StagesLike | None = None,
        **metadata: object,
    ) -> Level:
        """Make a level below this one, in whatever thread or task; see :func:`otel_progress.level`."""
        scope = self._arguments[-1]
        return Level(
            make_level_arguments(
                ("level", type, id, name, total, unit, weight, None, stages, metadata, None, None, scope)
            ),
            self,
        )

    def stage(self, name: str | Enum) -> Level:
        """Make the handle of a stage; beginning it ends the stage before it. Stages only go forward."""
        scope = self._arguments.scope
        return Level(
            LevelArguments("stage", name, name, name, None, None, None, None, None, {}, None, None, scope),
            self,
        )

    def track(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        name: str | None = None,
        *,
        type: str = "track",
        total: Number | None = None,
        unit: str | None = None,
        weight: Number | None = None,
        **metadata: object,
    ) -> Track[T]:
        """Iterate with progress as a level below this one; see :func:`otel_progress.instrument.iteration`."""
        scope = self._arguments.scope

        def make(total: Number | None) -> Level:
            asked = LevelArguments(
                "level", type, None, name, total, unit, weight, None, None, metadata, None, None, scope
            )
            return Level(asked, self)

        return Track(iterable, total, make)

    def opaque(self, expected: float | timedelta | None = None) -> OpaqueStep:
        """Mark this level, in ``with`` or ``async with``, as a step that cannot report: a subprocess, one long call into a library.

        Its progress is then estimated, and marked so in every view: from how long past runs took, or from ``expected`` (seconds or
        a timedelta). It approaches its end and never reaches it, and is no advance. ``with op.stage("encode").opaque(expected=30):``
        begins and ends the stage; on a level that has begun, only the block is marked, as one unit of its total.
        """
        clean = parse_expected_seconds(expected)
        if isinstance(clean, Rejection):
            self._reject(clean)
            clean = None
        return OpaqueStep(self, clean)

    def paused(self, reason: str | None = None) -> Pause:
        """Pause the operation of this level, in ``with`` or ``async with``: that time is no part of estimates and no stall.

        ``reason`` is its message meanwhile. Pauses within pauses, in whatever thread, count as one.
        """
        return Pause(self, reason)

    # --- the end -----------------------------------------------------------------------------------------------

    def start(self) -> Level:
        """Begin now, without ``with``; end with :meth:`complete`, :meth:`fail`, :meth:`cancel` or :meth:`skip`."""
        if self._node is UNSTARTED_NODE:
            if self._parent is None and self._arguments[0] != "operation":
                self._parent = current_level()
            self._node, self._recording = start_level(self._arguments, self._parent)
            self._span = self._node.span
        return self

    def complete(self) -> None:
        """End it: the work is done."""
        node = self._node
        if node.status is Status.RUNNING and self._recording is not None:
            self._recording.store.end_level(node, Status.COMPLETED)
        else:
            self._end(Status.COMPLETED)

    def fail(self, error: ErrorLike) -> None:
        """End it as failed; ``error`` is an exception, a text or a Failure."""
        self._end(Status.FAILED, error)

    def cancel(self, reason: str = "cancelled") -> None:
        """End it as cancelled, with the reason as its message."""
        self._end(Status.CANCELLED, message=reason)

    def skip(self, reason: str = "skipped") -> None:
        """End it as skipped: there was nothing to do, for the reason given."""
        self._end(Status.SKIPPED, message=reason)

    def _end(self, status: Status, error: ErrorLike | None = None, message: str | None = None) -> None:
        node = self._running_node()
        if node is None or self._recording is None:
            return
        if isinstance(error, BaseException):
            spans.record_exception(node, error)
        self._recording.store.end_level(
            node,
            status,
            error=None if status is not Status.FAILED else to_failure(error),
            message=None if message is None else truncate(message),
        )

    # --- with, async with, decorator ---------------------------------------------------------------------------

    def __enter__(self) -> Level:
        self.start()
        if self._recording is not None and self._token is None:
            self._token = context_api.attach(context_with(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            detach_if_current(token, LEVEL_KEY, self)
        node = self._node
        if self._recording is None or node.status is not Status.RUNNING:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.complete()  # sys.exit() and sys.exit(0) are how a script says that all is well
        elif isinstance(error, OperationCancelledError):
            self._end(Status.CANCELLED, error, truncate(error) or "cancelled")
        elif _is_interruption(error):
            self._end(Status.CANCELLED, error, qualified_type_name(error))
        else:
            self.fail(error)

    async def __aenter__(self) -> Level:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Decorate a function (plain, async, generator or async generator): every call is a level of its own."""
        return decorate(function, partial(Level, self._arguments, self._parent))

    def __del__(self) -> None:
        node = getattr(self, "_node", None)
        if node is not None and node.status is Status.RUNNING:
            node.orphaned = node.operation.orphaned = (
                True  # the store closes it at its next look; a lock here could be held by this very thread
            )

    # --- looking: see Looking ----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        node = self._node
        return f"<Level {self._arguments.type!r} {node.path!r} {node.status.value}>"

    # --- bad values --------------------------------------------------------------------------------------------

    def _running_node(self) -> Node | None:
        """Return the running node, beginning it first if need be; None when there is nothing to write to."""
        node = self._node
        if node.status is not Status.RUNNING:
            if node is UNSTARTED_NODE:
                node = self.start()._node
            if node.status is not Status.RUNNING:
                if self._recording is not None:
                    self._reject(
                        Rejection(
                            "ended", f"{self._arguments.type} has ended; nothing can be changed after that"
                        )
                    )
                return None
        return node

    def _set_total(self, node: Node, total: object) -> None:
        clean = total if type(total) is int and 0 <= total < 2**63 else parse_number(total, "the total")
        if isinstance(clean, Rejection):
            self._reject(clean)
        else:
            node.total = clean

    def _set_current(self, node: Node, current: object) -> None:
        clean = self._clean_current(node, current)
        if clean is not None:
            node.ensure_counter().set(clean)

    def _clean_current(self, node: Node, current: object) -> Number | None:
        clean = current if type(current) is int and 0 <= current < 2**63 else parse_number(current, "current")
        if isinstance(clean, Rejection):
            self._reject(clean)
        elif node.total is not None and exceeds_total(clean, node.total):
            self._reject(total_exceeded(node, clean))
        else:
            return clean
        return None

    def _set_metadata(self, node: Node, metadata: dict[str, object]) -> None:
        clean = normalize_metadata(metadata)
        whole = merge_metadata(node.metadata, clean)
        if len(whole) > MAX_METADATA:
            whole = dict(list(whole.items())[:MAX_METADATA])
            self._reject(
                Rejection(
                    "metadata", f"a level keeps {MAX_METADATA} metadata keys; the newest ones were left out"
                )
            )
        node.metadata = whole

    def _reject(self, bad: Rejection) -> None:
        recording = self._recording or backend_slot.current
        if recording is not None:
            recording.reject_value(bad.reason, bad.text, of_type=bad.wrong_type)


def _is_interruption(error: BaseException) -> bool:
    """True for exceptions that mean somebody stopped the work, not that it failed."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    asyncio = sys.modules.get("asyncio")  # importing it takes longer than all of this package
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


class Block:
    """A block for ``with`` and ``async with`` that gives the level it was made from."""

    __slots__ = ("_level",)

    def __init__(self, level: Level) -> None:
        self._level = level

    def __enter__(self) -> Level:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Level:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class OpaqueStep(Block):
    """A step that shows estimated progress. A level that has not begun begins and ends with it; see :meth:`Level.opaque`."""

    __slots__ = ("_entered", "_expected")

    def __init__(self, level: Level, expected: float | None) -> None:
        super().__init__(level)
        self._expected = expected
        self._entered: list[tuple[bool, tuple[RecordingBackend, Node] | None]] = []
        """For each time it was entered and not left: whether it began the level, and what it marked."""

    def __enter__(self) -> Level:
        level, marked = self._level, None
        owns = level._node is UNSTARTED_NODE
        if owns:
            level.__enter__()
        if level._recording is not None and level._recording.store.start_opaque(
            level._node, self._expected, is_whole_level=owns
        ):
            marked = (level._recording, level._node)
        self._entered.append((owns, marked))
        return level

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owns, marked = self._entered.pop()
        if (
            owns
        ):  # the mark goes with the level: between the two there is no moment at which nothing is known of it
            self._level.__exit__(kind, error, traceback)
        if marked is not None:
            marked[0].store.end_opaque(marked[1])


class Pause(Block):
    """A block during which the work of the whole operation is paused; see :meth:`Level.paused`."""

    __slots__ = ("_entered", "_reason")

    def __init__(self, level: Level, reason: object) -> None:
        super().__init__(level)
        self._reason = None if reason is None else truncate(reason)
        self._entered: list[tuple[RecordingBackend, Node, str | None] | None] = []
        """For each time it was entered and not left: what it paused, and the message before."""

    def __enter__(self) -> Level:
        level = self._level.start()
        recording, node = level._recording, level._node
        if recording is None:
            self._entered.append(None)
        else:
            self._entered.append((recording, node, recording.store.start_pause(node.operation, self._reason)))
        return level

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        paused = self._entered.pop()
        if paused is not None:
            recording, node, before = paused
            recording.store.end_pause(node.operation, self._reason, before)


class Track(Generic[T]):
    """An iterable, or async iterable, whose iteration is a level: begun with the first element, ended with the last.

    ``level`` is the handle of the iteration that is under way, for messages and item outcomes. It is never the current level:
    nothing leaks into the caller's context. Leaving the loop early ends the level as cancelled. Once somebody has asked for the
    operation to stop, OperationCancelledError is raised between two elements.
    """

    __slots__ = ("_handle", "_iterable", "_make", "_total")

    def __init__(
        self,
        iterable: Iterable[T] | AsyncIterable[T],
        total: Number | None,
        make: Callable[[Number | None], Level],
    ) -> None:
        self._iterable = iterable
        self._total = total if total is not None or not isinstance(iterable, Sized) else _length(iterable)
        self._make = make
        self._handle: Level | None = None

    @property
    def level(self) -> Level:
        """The handle of the iteration under way, or of the next one."""
        if self._handle is None:
            self._handle = self._make(self._total)
        return self._handle

    def __len__(self) -> int:
        return len(cast(Sized, self._iterable))

    def __bool__(self) -> bool:
        return bool(self._iterable)

    def __iter__(self) -> Iterator[T]:
        iterable = iter(cast("Iterable[T]", self._iterable))
        level = self._begin()
        if level._node is NOOP_NODE:
            return iterable
        return _iterate(iterable, level, level._node)

    def __aiter__(self) -> AsyncIterator[T]:
        iterator = cast("AsyncIterable[T]", self._iterable).__aiter__()
        level = self._begin()
        if level._node is NOOP_NODE:
            return iterator
        return _iterate_async(iterator, level)

    def _begin(self) -> Level:
        if self._handle is not None and (self._handle._node.tracked or self._handle._node.status.finished):
            self._handle = (
                None  # of an iteration before, or of one that is under way: each is a level of its own
            )
        return self.level.start()
