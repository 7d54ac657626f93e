"""The handle of a batch: many operations with one aggregate, in one process or, by its id, in many."""

from __future__ import annotations

import time
from types import TracebackType

from opentelemetry import context as context_api

from otel_progress.instrument.arguments import (
    DeadlineLike,
    EtaKey,
    Rejection,
    make_level_arguments,
    parse_batch_id,
    parse_number,
)
from otel_progress.instrument.backend import BATCH_KEY, RecordingBackend, backend_slot
from otel_progress.instrument.context import detach_if_current
from otel_progress.instrument.level import Level
from otel_progress.model import Number
from otel_progress.operations import BatchSnapshot
from otel_progress.stages import StagesLike
from otel_progress.text import normalize_id, truncate


class OperationBatch:
    """A batch of operations. Use it in ``with`` or ``async with``, or by hand with :meth:`start` and :meth:`close`.

    Operations that begin in its context (this thread or task, and no operation of it above them) belong to it; in any thread those
    made by :meth:`operation` do; in any process those that name its id. Made by :func:`otel_progress.batch`. Inert until ``configure``.
    """

    __slots__ = ("__weakref__", "_arguments", "_closed", "_id", "_recording", "_scope", "_started", "_token")

    def __init__(self, name: object, id: object, type: object, total: object, scope: str) -> None:
        self._arguments = (name, id, type, total)
        self._scope = scope
        self._id = ""
        self._recording: RecordingBackend | None = None
        self._started = False
        self._closed = False
        self._token: object = None

    def start(self) -> OperationBatch:
        """Declare the batch now, without ``with``; :meth:`close` it when no more operations come."""
        if not self._started:
            self._started = True
            self._declare()
        return self

    def close(self) -> None:
        """Say that no more operations come, in whatever process; those that run still count when they end. Idempotent."""
        self.start()
        self._closed = True
        if self._recording is not None:
            self._recording.store.close_batch(self._id)

    def operation(
        self,
        type: str,
        name: str | None = None,
        *,
        id: object = None,
        total: Number | None = None,
        unit: str | None = None,
        deadline: DeadlineLike | None = None,
        stages: StagesLike | None = None,
        eta_key: EtaKey | None = None,
        **metadata: object,
    ) -> Level:
        """Make an operation of this batch, in whatever thread or task; see :func:`otel_progress.operation`."""
        asked = (
            "operation",
            type,
            id,
            name,
            total,
            unit,
            None,
            deadline,
            stages,
            metadata,
            self.join,
            eta_key,
            self._scope,
        )
        return Level(make_level_arguments(asked), None)

    def set_total(self, total: int) -> None:
        """Say how many operations there are in all, a whole number of at least 0."""
        self.start()
        if self._recording is None:
            return
        clean = _count_or_none(self._recording, total)
        if clean is not None:
            self._recording.store.set_batch_total(self._id, clean)

    @property
    def id(self) -> str:
        """Id of the batch, for other processes to join it by; empty when it was not given and nothing is recorded."""
        return self.start()._id

    def join(self) -> str | None:
        """Return the id for an operation that is to belong to this batch; None when nothing is recorded."""
        self.start()
        return None if self._recording is None else self._id

    def snapshot(self) -> BatchSnapshot:
        """Return the batch as this process knows it now, everything counted so far included; an empty one when nothing is recorded.

        :func:`otel_progress.get_batch` takes in other processes as well.
        """
        self.start()
        known = None if self._recording is None else self._recording.store.reader.batch(self._id)
        if known is not None:
            return known
        now = time.time()
        from otel_progress import batches  # an import that only those pay for who ask
        from otel_progress.batches import BatchDeclaration, BatchTally

        return batches.summarise(
            BatchDeclaration(self._id, "", "batch", None, now, None, 0), BatchTally(), (), (), now
        )

    def __enter__(self) -> OperationBatch:
        if self._closed:  # once more: it is open again, under the id it has
            self._closed = False
            self._declare()
        self.start()
        if self._recording is not None and self._token is None:
            self._token = context_api.attach(context_api.set_value(BATCH_KEY, self._id))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            detach_if_current(token, BATCH_KEY, self._id)
        self.close()

    async def __aenter__(self) -> OperationBatch:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<OperationBatch {self._id!r}>" if self._started else "<OperationBatch, not started>"

    def _declare(self) -> None:
        name, id_, type_, total = self._arguments
        id_ = self._id or id_
        clean = parse_batch_id(id_) if id_ is not None else None
        self._id = clean if isinstance(clean, str) else ""
        recording = backend_slot.current
        if recording is None:
            return
        if isinstance(clean, Rejection):  # it goes on under an id that is made
            recording.reject_value(clean.reason, clean.text)
            clean = None
        many = None if total is None else _count_or_none(recording, total)
        self._recording = recording
        self._id = recording.store.declare_batch(
            clean, truncate(name, 256), normalize_id(type_) or "batch", many
        )


def _count_or_none(recording: RecordingBackend, value: object) -> int | None:
    """Return a number of operations; None when it is none, which is told."""
    clean = parse_number(value, "the total of a batch")
    if isinstance(clean, Rejection):
        recording.reject_value(clean.reason, clean.text, of_type=clean.wrong_type)
        return None
    if clean != int(clean):
        recording.reject_value(
            "type", f"the total of a batch must be a whole number of operations, not {clean}", of_type=True
        )
        return None
    return int(clean)
