"""The handle of a level: what a caller holds, counts with and ends. It writes to a node and never waits for anything.

A handle begins when it is entered, started, or first used. Without ``configure`` it stays inert: every method is there and does
nothing. A bad value never raises (unless strict): it is counted, warned about once, and the last good value stays.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from opentelemetry import context as context_api
from opentelemetry.trace import Span

from otel_progress import values
from otel_progress.errors import OperationCancelledError
from otel_progress.instrument import begin, blocks, spans, wrap
from otel_progress.instrument.blocks import OpaqueStep, Pause
from otel_progress.instrument.looking import Looking
from otel_progress.instrument.track import Track
from otel_progress.live.node import Node, NotReady, merged
from otel_progress.live.rollup import exceeds
from otel_progress.model import NO_METADATA, Number, Outcome, Status
from otel_progress.recording import LEVEL_KEY, Recording, slot
from otel_progress.stages import StagesLike
from otel_progress.text import cut
from otel_progress.values import Bad, ErrorLike

if TYPE_CHECKING:
    from datetime import timedelta
    from enum import Enum

    from otel_progress.instrument.begin import Request
    from otel_progress.parsing import PreviewAt

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_ONE: Final = 1


class Level(Looking):
    """One level of work: an operation, a stage, or anything below. Use it in ``with`` or ``async with``, as a decorator, or by hand.

    Made by :func:`operation`, :func:`level`, or a handle's own :meth:`level`, :meth:`stage` and :meth:`track`.
    """

    __slots__ = ("__weakref__", "_above", "_node", "_recording", "_request", "_span", "_token")

    def __init__(self, request: Request, above: Level | None) -> None:
        self._request = request
        self._above = above
        self._recording: Recording | None = None
        self._node = begin.UNSTARTED
        self._token: object = None
        self._span: Span = begin.INERT.span

    # --- counting: the hot path --------------------------------------------------------------------------------

    def increment(self, n: Number = 1, message: str | None = None) -> None:
        """Count ``n`` more units of work done (a number of at least 0) and, if given, say what is being done."""
        if n is _ONE and message is None:  # by identity: the == of a wrong type may raise, and True is no number
            try:
                self._node.one()
            except NotReady:
                self._first()
        else:
            self._increment(n, message)

    def _first(self) -> None:
        node = self._ready()
        if node is not None:
            node.counting()
            node.one()

    def _increment(self, n: Number, message: str | None) -> None:
        node = self._ready()
        if node is None:
            return
        step = n if type(n) is int and 0 <= n < 2**63 else values.number(n, "the increment")
        if isinstance(step, Bad):
            self._reject(step)
        elif self._recording.strict and node.total is not None and exceeds(node.counting().value() + step, node.total):  # type: ignore[union-attr]
            self._reject(values.beyond(node, node.counting().value() + step))
        else:
            node.counting().add(step)
        if message is not None:
            node.message = cut(message)
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
        node = self._ready()
        if node is None:
            return
        if total is not None and total is not node.total:
            self._set_total(node, total)
        if current is not None:
            self._set_current(node, current)
        if message is not None:
            node.message = cut(message)
        if metadata:
            self._set_metadata(node, metadata)
        node.dirty = True

    def set_total(self, total: Number | None) -> None:
        """Say how many units there are in all; None makes the total unknown again."""
        node = self._ready()
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
        node = self._ready()
        if node is None:
            return
        how = values.outcome(outcome)
        if isinstance(how, Bad):
            self._reject(how)
            return
        if how is Outcome.FAILED:
            node.fail_one()
        elif how is Outcome.SKIPPED:
            node.skip_one()
        if not node.tracked:
            node.counting()
            node.one()
        clean, why = cut(name), None if error is None else values.failure(error)
        kept = values.metadata(metadata) if metadata else NO_METADATA
        node.dirty = True
        self._recording.store.record(node, clean, how, why, kept)  # type: ignore[union-attr]
        if how is Outcome.FAILED:
            spans.item_event(node, clean, how.value, why)

    def resume_from(self, current: Number) -> None:
        """Say how many units an earlier session had done. They count as done, but the estimate's pace is that of this session alone.

        A run that was resumed is no example for later ones.
        """
        node = self._ready()
        clean = None if node is None else self._clean_current(node, current)
        if node is not None and clean is not None:
            self._recording.store.interruptions.resume_from(node, clean)  # type: ignore[union-attr]

    def preview(self, image: object, name: str = "preview", *, at: PreviewAt | None = None) -> None:
        """Offer what the work looks like now; it is taken when one is due, and costs some microseconds when none is.

        ``image`` is a PIL image, a numpy array (height, width[, 1 to 4 channels]), a matplotlib figure, the bytes of a picture, a
        ``pathlib.Path``, a text, a dict or list for JSON, or a function without arguments that returns one of them: called only when one
        is due, off this thread, so what it reads has to stay as it is. ``at`` says when, in place of the setting ``preview_at``:
        fractions ``(0.25, 0.5)`` of this level (of the nearest one above where its total is unknown), seconds, or ``"always"``. One at a
        time a level: one that is due meanwhile is dropped, and due again at the next call. Never raises: what cannot be used is counted.
        """
        node = self._node
        if node is begin.UNSTARTED:
            node = self.start()._node
        recording = self._recording
        if recording is not None and recording.previewer is not None:
            from otel_progress.instrument import previewing

            previewing.offer(recording.previewer, recording.store, node, image, name, at)

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
        scope = self._request[-1]
        return Level(
            begin.request(("level", type, id, name, total, unit, weight, None, stages, metadata, None, None, scope)), self
        )

    def stage(self, name: str | Enum) -> Level:
        """Make the handle of a stage; beginning it ends the stage before it. Stages only go forward."""
        scope = self._request.scope
        return Level(begin.Request("stage", name, name, name, None, None, None, None, None, {}, None, None, scope), self)

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
        """Iterate with progress as a level below this one; see :func:`otel_progress.instrument.track`."""
        scope = self._request.scope

        def make(total: Number | None) -> Level:
            asked = begin.Request("level", type, None, name, total, unit, weight, None, None, metadata, None, None, scope)
            return Level(asked, self)

        return Track(iterable, total, make)

    def opaque(self, expected: float | timedelta | None = None) -> OpaqueStep:
        """Mark this level, in ``with`` or ``async with``, as a step that cannot report: a subprocess, one long call into a library.

        Its progress is then estimated, and marked so in every view: from how long past runs took, or from ``expected`` (seconds or
        a timedelta). It approaches its end and never reaches it, and is no advance. ``with op.stage("encode").opaque(expected=30):``
        begins and ends the stage; on a level that has begun, only the block is marked, as one unit of its total.
        """
        clean = blocks.seconds(expected)
        if isinstance(clean, Bad):
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
        if self._node is begin.UNSTARTED:
            if self._above is None and self._request[0] != "operation":
                self._above = begin.current_level()
            self._node, self._recording = begin.begin(self._request, self._above)
            self._span = self._node.span
        return self

    def complete(self) -> None:
        """End it: the work is done."""
        node = self._node
        if node.status is Status.RUNNING and self._recording is not None:
            self._recording.store.close(node, Status.COMPLETED)
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
        node = self._ready()
        if node is None or self._recording is None:
            return
        if isinstance(error, BaseException):
            spans.record_exception(node, error)
        self._recording.store.close(
            node,
            status,
            error=None if status is not Status.FAILED else values.failure(error),
            message=None if message is None else cut(message),
        )

    # --- with, async with, decorator ---------------------------------------------------------------------------

    def __enter__(self) -> Level:
        self.start()
        if self._recording is not None and self._token is None:
            self._token = context_api.attach(begin.current_context(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        token, self._token = self._token, None
        if token is not None:
            begin.leave(token, LEVEL_KEY, self)
        node = self._node
        if self._recording is None or node.status is not Status.RUNNING:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.complete()  # sys.exit() and sys.exit(0) are how a script says that all is well
        elif isinstance(error, OperationCancelledError):
            self._end(Status.CANCELLED, error, cut(error) or "cancelled")
        elif _stops(error):
            self._end(Status.CANCELLED, error, values.exception_type(error))
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
        return wrap.wrap(function, partial(Level, self._request, self._above))

    def __del__(self) -> None:
        node = getattr(self, "_node", None)
        if node is not None and node.status is Status.RUNNING:
            node.orphaned = node.operation.orphaned = (
                True  # the store closes it at its next look; a lock here could be held by this very thread
            )

    # --- looking: see Looking ----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        node = self._node
        return f"<Level {self._request.type!r} {node.path!r} {node.status.value}>"

    # --- bad values --------------------------------------------------------------------------------------------

    def _ready(self) -> Node | None:
        """Return the running node, beginning it first if need be; None when there is nothing to write to."""
        node = self._node
        if node.status is not Status.RUNNING:
            if node is begin.UNSTARTED:
                node = self.start()._node
            if node.status is not Status.RUNNING:
                if self._recording is not None:
                    self._reject(Bad("ended", f"{self._request.type} has ended; nothing can be changed after that"))
                return None
        return node

    def _set_total(self, node: Node, total: object) -> None:
        clean = total if type(total) is int and 0 <= total < 2**63 else values.number(total, "the total")
        if isinstance(clean, Bad):
            self._reject(clean)
        else:
            node.total = clean

    def _set_current(self, node: Node, current: object) -> None:
        clean = self._clean_current(node, current)
        if clean is not None:
            node.counting().set(clean)

    def _clean_current(self, node: Node, current: object) -> Number | None:
        clean = current if type(current) is int and 0 <= current < 2**63 else values.number(current, "current")
        if isinstance(clean, Bad):
            self._reject(clean)
        elif node.total is not None and exceeds(clean, node.total):
            self._reject(values.beyond(node, clean))
        else:
            return clean
        return None

    def _set_metadata(self, node: Node, metadata: dict[str, object]) -> None:
        clean = values.metadata(metadata)
        whole = merged(node.metadata, clean)
        if len(whole) > values.MAX_METADATA:
            whole = dict(list(whole.items())[: values.MAX_METADATA])
            self._reject(Bad("metadata", f"a level keeps {values.MAX_METADATA} metadata keys; the newest ones were left out"))
        node.metadata = whole

    def _reject(self, bad: Bad) -> None:
        recording = self._recording or slot.active
        if recording is not None:
            recording.reject(bad.reason, bad.text, of_type=bad.of_type)


def _stops(error: BaseException) -> bool:
    """True for exceptions that mean somebody stopped the work, not that it failed."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        return True
    asyncio = sys.modules.get("asyncio")  # importing it takes longer than all of this package
    return asyncio is not None and isinstance(error, asyncio.CancelledError)
