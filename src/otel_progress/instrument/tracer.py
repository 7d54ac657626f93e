"""Helpers that return operations, batches and levels, and tracers of libraries.

They need only opentelemetry-api. They do nothing until the application calls ``configure()``, so
libraries can use them without configuration.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar, cast

from otel_progress.instrument.arguments import (
    SCOPE,
    DeadlineLike,
    EtaKey,
    LevelArguments,
    UnitLike,
    make_level_arguments,
    make_resuming_arguments,
)
from otel_progress.instrument.callers import find_caller
from otel_progress.instrument.context import get_current_level
from otel_progress.instrument.level import Level, Track
from otel_progress.instrument.lifecycle import NOOP_NODE
from otel_progress.model import Number
from otel_progress.stages import StagesLike

if TYPE_CHECKING:
    from otel_progress.instrument.batch import OperationBatch


T = TypeVar("T")


def current_level() -> Level:
    """Return the current level of this context.

    Without one the methods of the returned level do nothing.
    """
    level = cast("Level | None", get_current_level())
    if level is None:
        level = Level(LevelArguments("level", "none"), None)
        level._node = NOOP_NODE
    return level


class ProgressTracer:
    """Factory of operations and levels with one instrumentation scope.

    See :func:`get_tracer`.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

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
        batch: OperationBatch | str | None = None,
        eta_key: EtaKey | None = None,
        resume: bool = False,
        **metadata: object,
    ) -> Level:
        """Return the handle of an operation.

        Use it in ``with``, as a decorator, or with ``start()``. ``type`` is the kind of work, with
        few different values. ``name`` is a display name. ``id`` identifies the operation and is
        generated if it is not given. ``total`` is the number of units, and ``unit`` their name.
        ``deadline`` is seconds from now, a timedelta or a datetime. ``stages`` is a
        :class:`Stages`, the name of a category, weights by name, or an Enum. ``batch`` is the
        batch that the operation belongs to, or its id.

        Estimates use the history of operations of the same ``type`` and service. ``eta_key``
        separates runs that are not comparable: metadata keys whose values name the group, or a
        text, which is shared by all services that use it. Other keyword arguments are metadata.

        With ``resume`` the operation continues the newest run of its ``id``, unless that run was
        completed or skipped. Counts continue, completed levels have
        :attr:`Level.already_completed`, and :attr:`Level.last_checkpoint` is the checkpoint of that
        run. The start waits for the journal. It raises OperationRunningError if a live process runs
        the operation. Without a journal it starts from the beginning.
        """
        batch_id = batch if batch is None or isinstance(batch, str) else _get_join_function(batch)
        arguments = (
            *("operation", type, id, name, total, unit, None, deadline, stages, metadata, batch_id, eta_key),
            self.name,
        )
        if resume:
            return Level(make_resuming_arguments(arguments), None)
        return Level(make_level_arguments(arguments), None)

    def batch(
        self, name: str, *, id: object = None, type: str = "batch", total: int | None = None
    ) -> OperationBatch:
        """Return the handle of a batch: several operations with one summary.

        Use it in ``with`` or with ``start()`` and ``close()``. ``total`` is the expected number of
        operations. Other processes join the batch by its ``id``, which is generated if it is not
        given.
        """
        # Why here: only programs with batches pay for the import.
        from otel_progress.instrument.batch import OperationBatch

        return OperationBatch(name, id, type, total, self.name)

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
        """Return the handle of a child of the current level.

        Without a current level it is an operation with a generated id. ``type`` is its kind.
        ``id`` identifies it among its siblings and is a number if it is not given. Starting the
        same id again is another attempt. ``weight`` is the number of units that it counts for in
        its parent, 1 by default.
        """
        return Level(
            make_level_arguments(
                ("level", type, id, name, total, unit, weight, None, stages, metadata, None, None, self.name)
            ),
            None,
        )

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
        """Iterate over ``iterable`` with progress, as a child of the current level.

        In the body of another ``track`` it is a child of that loop. The iterable is sync or async.
        The total defaults to its length. ``track(...).level`` is the handle, for messages and
        failed items. After cancellation was requested, the iteration raises OperationCancelledError
        between two elements.

        ``key`` returns a text or another value that identifies an element. With ``resume`` the loop
        leaves out elements whose keys an earlier session of the operation has completed. ``resume``
        defaults to that of the operation. A loop without an operation needs a ``name``, which is
        the id of its operation then.
        """
        arguments = LevelArguments(
            "level",
            type,
            name=name,
            total=total,
            unit=unit,
            weight=weight,
            metadata=metadata,
            eta_key=find_caller(),
            scope=self.name,
        )
        if resume:
            arguments = make_resuming_arguments(arguments)
        return Track(iterable, arguments, None, key, resume)

    def current_level(self) -> Level:
        """Return the current level of this context.

        Without one the methods of the returned level do nothing.
        """
        return current_level()


def get_tracer(name: str) -> ProgressTracer:
    """Return a tracer whose spans have the instrumentation scope ``name``.

    The name is usually that of the library.
    """
    return ProgressTracer(name)


_default = ProgressTracer(SCOPE)


operation = _default.operation


batch = _default.batch


level = _default.level


track = _default.track


def _get_join_function(batch: object) -> object:
    """Return the function that returns the id of a batch.

    Other values are returned unchanged.
    """
    from otel_progress.instrument.batch import OperationBatch

    return batch.join if isinstance(batch, OperationBatch) else batch
