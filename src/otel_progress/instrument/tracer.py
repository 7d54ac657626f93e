"""The tracer-style helpers: ``operation``, ``batch``, ``level``, ``track``, ``current_level``, and a tracer per library.

They need opentelemetry-api only. Until the application calls ``configure`` they are inert, so libraries can use them freely.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, TypeVar

from otel_progress.instrument.arguments import (
    SCOPE,
    DeadlineLike,
    EtaKey,
    LevelArguments,
    make_level_arguments,
)
from otel_progress.instrument.context import current_level as _current_level
from otel_progress.instrument.level import Level, Track
from otel_progress.instrument.lifecycle import NOOP_NODE
from otel_progress.model import Number
from otel_progress.stages import StagesLike

if TYPE_CHECKING:
    from otel_progress.instrument.batch import OperationBatch


T = TypeVar("T")


def current_level() -> Level:
    """Return the level in force in this context; an inert one, whose methods do nothing, when there is none."""
    level = _current_level()
    if level is None:
        level = Level(
            LevelArguments("level", "none", None, None, None, None, None, None, None, {}, None, None, SCOPE),
            None,
        )
        level._node = NOOP_NODE
    return level


class ProgressTracer:
    """Makes operations and levels under one instrumentation scope; get one a library with :func:`get_tracer`."""

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
        unit: str | None = None,
        deadline: DeadlineLike | None = None,
        stages: StagesLike | None = None,
        batch: OperationBatch | str | None = None,
        eta_key: EtaKey | None = None,
        **metadata: object,
    ) -> Level:
        """Make the handle of a whole run, to be used in ``with``, as a decorator, or by hand with ``start()``.

        ``type`` is the kind of work and of low cardinality; ``name`` is for people; ``id`` finds it again and is generated when not
        given; ``total`` is in ``unit``; ``deadline`` is seconds from now, a timedelta or a datetime; ``stages`` a
        :class:`Stages`, the name of a category, weights by name, or an Enum; ``batch`` a batch, or its id, that it belongs to.
        Estimates are learned from earlier runs of the same ``type``; ``eta_key`` tells apart those that are not alike: a text, or the
        keys of metadata given here whose values make it. Anything else is metadata.
        """
        joined = batch if batch is None or isinstance(batch, str) else _join_of(batch)
        asked = make_level_arguments(
            (
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
                joined,
                eta_key,
                self.name,
            )
        )
        return Level(asked, None)

    def batch(
        self, name: str, *, id: object = None, type: str = "batch", total: int | None = None
    ) -> OperationBatch:
        """Make the handle of a batch: many operations with one aggregate, to be used in ``with`` or by hand.

        ``total`` is the number of operations expected; ``id`` is what other processes join it by, and generated when not given.
        """
        from otel_progress.instrument.batch import (
            OperationBatch,
        )  # only programs that have batches pay for it

        return OperationBatch(name, id, type, total, self.name)

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
        """Make the handle of a level below the current one (an operation of its own when there is none).

        ``type`` is its kind; ``id`` distinguishes it from its siblings and is numbered when not given; entering the same id
        again is another attempt. ``weight`` is how many units it counts for in the level above (1 unless given).
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
        unit: str | None = None,
        weight: Number | None = None,
        **metadata: object,
    ) -> Track[T]:
        """Iterate over ``iterable`` (sync or async) with progress, as a level below the current one.

        The total is the iterable's length where it has one. ``track(...).level`` is the handle, for messages and failed items.
        """

        def make(total: Number | None) -> Level:
            return Level(
                LevelArguments(
                    "level",
                    type,
                    None,
                    name,
                    total,
                    unit,
                    weight,
                    None,
                    None,
                    metadata,
                    None,
                    None,
                    self.name,
                ),
                None,
            )

        return Track(iterable, total, make)

    def current_level(self) -> Level:
        """Return the level in force in this context; an inert one when there is none."""
        return current_level()


def get_tracer(name: str) -> ProgressTracer:
    """Return a tracer whose spans carry the instrumentation scope ``name``, usually the name of the library."""
    return ProgressTracer(name)


_default = ProgressTracer(SCOPE)


operation = _default.operation


batch = _default.batch


level = _default.level


track = _default.track


def _join_of(batch: object) -> object:
    """Return what gives the id of a batch once the operation begins; anything else as it is, to be taken as an id."""
    from otel_progress.instrument.batch import OperationBatch

    return batch.join if isinstance(batch, OperationBatch) else batch
