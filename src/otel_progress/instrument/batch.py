"""Handle of a batch: operations of one or several processes with one summary."""

from __future__ import annotations

import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from otel_progress import redaction
from otel_progress.errors import ProgressError
from otel_progress.instrument.arguments import (
    DeadlineLike,
    EtaKey,
    UnitLike,
    make_level_arguments,
    make_resuming_arguments,
    parse_batch_id,
    parse_number,
)
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.blocks import BlockEntry, BlockExit, drop_guard, take_entry
from otel_progress.instrument.context import (
    ContextEntry,
    cancel_entry,
    enter_batch_context,
    get_guard,
    leave_batch_context,
)
from otel_progress.instrument.copying import SharedHandle, find_handle, make_reference
from otel_progress.instrument.level import Level
from otel_progress.instrument.lifecycle import DONE
from otel_progress.instrument.rejections import Rejection
from otel_progress.live.node import BlockReference
from otel_progress.model import Number
from otel_progress.operations import BatchSnapshot
from otel_progress.stages import StagesLike
from otel_progress.text import MAX_NAME, normalize_id, truncate


class OperationBatch(SharedHandle):
    """Batch of operations.

    Use it in ``with`` or ``async with``, or with :meth:`start` and :meth:`close`.
    :func:`otel_progress.batch` returns it. Three kinds of operations belong to it: those started
    in its context (this thread or task) without a parent operation, those of :meth:`operation` in
    any thread, and those of any process that pass its id. Without ``configure()`` all methods do
    nothing. All methods may be called from any thread. With the setting ``strict`` an invalid value
    raises RejectedValueError or RejectedTypeError.

    Nested blocks of one handle close the batch at the end of the last active block. A copy is the
    handle itself. A pickle is too, and in another process it is a handle of the same batch.
    """

    __slots__ = ("_arguments", "_backend", "_closed", "_entries", "_id", "_prepared", "_scope", "_started")

    def __init__(self, name: object, id: object, type: object, total: object, scope: str) -> None:
        self._arguments = (name, id, type, total)
        self._scope = scope
        self._id = ""
        self._backend: RecordingBackend | None = None
        self._started = False
        self._closed = False
        self._entries: list[ContextEntry] = []
        self._prepared: BlockEntry | None = None

    def start(self) -> OperationBatch:
        """Declare the batch without ``with``.

        Call :meth:`close` after its last operation started.
        """
        if not self._started:
            self._declare()
            self._started = True
        return self

    def close(self) -> None:
        """Declare that no process will start further operations of the batch. Idempotent.

        Running operations still count when they end.
        """
        self.start()
        self._closed = True
        if self._backend is not None:
            self._backend.store.close_batch(self._id)

    def operation(
        self,
        type: str,
        name: str | None = None,
        *,
        id: object = None,
        total: Number | None = None,
        unit: UnitLike | None = None,
        deadline: DeadlineLike | None = None,
        stages: StagesLike | None = None,
        eta_key: EtaKey | None = None,
        resume: bool = False,
        **metadata: object,
    ) -> Level:
        """Return an operation of this batch, for any thread or task.

        See :func:`otel_progress.operation`.
        """
        arguments = (
            *("operation", type, id, name, total, unit, None, deadline, stages, metadata, self.join, eta_key),
            self._scope,
        )
        if resume:
            return Level(make_resuming_arguments(arguments), None)
        return Level(make_level_arguments(arguments), None)

    def set_total(self, total: int) -> None:
        """Set the number of operations in all, a whole number of at least 0."""
        self.start()
        if self._backend is None:
            return
        count = _accept_count(self._backend, total)
        if count is not None:
            self._backend.store.set_batch_total(self._id, count)

    @property
    def id(self) -> str:
        """Id of the batch, with which other processes join it.

        It is empty if no id was given and nothing is recorded.
        """
        return self.start()._id

    def join(self) -> str | None:
        """Return the id for an operation of this batch, or None if nothing is recorded."""
        self.start()
        return None if self._backend is None else self._id

    def snapshot(self) -> BatchSnapshot:
        """Return the current state of the batch in this process.

        It includes all units counted so far, and is empty if nothing is recorded.
        :func:`otel_progress.get_batch` includes other processes.
        """
        self.start()
        snapshot = None if self._backend is None else self._backend.store.reader.batch(self._id)
        if snapshot is not None:
            return snapshot
        now = time.time()
        from otel_progress import batches  # only callers of this method pay for the import

        declaration = batches.BatchDeclaration(self._id, "", "batch", None, now, None, 0)
        return batches.summarise(declaration, batches.BatchTally(), (), (), now)

    def __enter__(self) -> OperationBatch:
        number = len(self._entries)
        try:
            guard = take_entry(self).guard
            if self._closed:
                # Entered again: the batch is open again, with the same id.
                self._closed = False
                self._declare()
            self.start()
            if self._backend is not None:
                if guard is not None:
                    guard.leave = partial(self._leave_collected, guard)
                enter_batch_context(self._id, self._entries, guard)
            return self
        except ProgressError:
            raise
        except BaseException:
            if len(self._entries) > number:
                cancel_entry(self._entries)
            if not self._entries:
                self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_block(None, error)

    def _end_block(self, entry: BlockEntry | None, error: BaseException | None) -> None:  # noqa: ARG002
        """Leave the block of the current context. ``entry`` identifies its exit only."""
        number = len(self._entries)
        try:
            self._leave(number)
        except ProgressError:
            raise
        except BaseException:
            self._leave(number)
            raise
        if entry is not None:
            drop_guard(entry)

    def _leave(self, number: int) -> None:
        """Restore the context and close the batch. Idempotent for the block ``number``."""
        if self._entries and len(self._entries) >= number:
            leave_batch_context(self._entries)
        if not self._entries:
            self.close()

    def _leave_collected(self, guard: BlockReference) -> None:
        """Close the batch after the exit of its block was collected. Idempotent.

        The next use of the package in the thread of the block restores the context.
        """
        for index, entry in enumerate(self._entries):
            if get_guard(entry) is guard:
                del self._entries[index]
                break
        if not self._entries:
            self.close()

    def __reduce__(self) -> tuple[object, ...]:
        name, _, type_, total = self._arguments
        return _load_batch, (make_reference(self), (name, self.id or None, type_, total, self._scope))

    async def __aenter__(self) -> OperationBatch:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    if not TYPE_CHECKING:
        __aexit__ = BlockExit(__exit__, DONE)
        __exit__ = BlockExit(__exit__)

    def __repr__(self) -> str:
        return f"<OperationBatch {self._id!r}>" if self._started else "<OperationBatch, not started>"

    def _declare(self) -> None:
        name, given_id, type_, total = self._arguments
        given_id = self._id or given_id
        batch_id = parse_batch_id(given_id) if given_id is not None else None
        self._id = batch_id if isinstance(batch_id, str) else ""
        backend = backend_slot.current
        if backend is None:
            return
        if isinstance(batch_id, Rejection):
            backend.reject(batch_id)
            batch_id = None  # The store generates an id.
        count = None if total is None else _accept_count(backend, total)
        self._backend = backend
        self._id = backend.store.declare_batch(
            batch_id,
            redaction.redact_name(truncate(name, MAX_NAME)),
            redaction.redact_id(normalize_id(type_)) or "batch",
            count,
        )


def _load_batch(
    reference: tuple[str, int, int], arguments: tuple[object, object, object, object, str]
) -> OperationBatch:
    """Return the pickled handle. In another process return a handle of the same batch."""
    batch: OperationBatch | None = find_handle(reference)
    return OperationBatch(*arguments) if batch is None else batch


def _accept_count(backend: RecordingBackend, value: object) -> int | None:
    """Return a number of operations. Rejects any other value and returns None."""
    number = parse_number(value, "batch total", "a whole number of at least 0")
    if isinstance(number, Rejection):
        backend.reject(number)
        return None
    if number != int(number):
        text = f"Invalid batch total {number}: expected a whole number of at least 0."
        backend.reject(Rejection("type", text, is_wrong_type=True))
        return None
    return int(number)
