"""Tests of the types of the public API.

mypy (strict) checks this file, and a run checks the values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

import pytest
from opentelemetry.trace import Span

import otel_progress as progress
from otel_progress.testing import Recorder, recording

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: object, _: object) -> object:
        """Do nothing at run time."""
        return value


class Phase(Enum):
    """Stages with percent starts."""

    LOADING = 0
    WORKING = 20


@pytest.fixture(autouse=True)
def recorder() -> Iterator[Recorder]:
    """Record in memory, strictly."""
    with recording() as recorder:
        yield recorder


def test_helpers_return_levels() -> None:
    """Operations, levels, stages and their context managers return Level."""
    with progress.operation(
        "render", "A frame", id=7, total=2, unit="tile", deadline=60.0, stages=Phase, shot="s1"
    ) as op:
        assert_type(op, progress.Level)
        with op.stage(Phase.WORKING) as stage:
            assert_type(stage, progress.Level)
            stage.increment()
            stage.increment(2.5, message="half a tile")
            stage.update(current=3, total=10, message="tiles", gpu="0")
            stage.set_total(None)
            stage.item("tile 1", outcome="failed", error=ValueError("bad"))
            stage.item("tile 2", outcome=progress.Outcome.SKIPPED)
            assert_type(stage.span, Span)
            assert_type(stage.path, str)
            assert_type(stage.snapshot(), progress.LevelSnapshot)
            assert_type(stage.snapshot().ratio, "float | None")
            assert_type(stage.eta, "progress.Eta | None")
        assert_type(op.opaque(expected=30), progress.OpaqueStep)
        with op.level("convert").opaque(expected=timedelta(seconds=3)) as step:
            assert_type(step, progress.Level)
            step.resume_from(0)
        with op.paused("waiting for a machine") as same:
            assert_type(same, progress.Level)
        assert_type(op.paused(), progress.Pause)
    assert_type(progress.operation("render", eta_key=["shot"], shot="s1"), progress.Level)
    assert_type(progress.operation("render", eta_key="1080p"), progress.Level)
    assert_type(progress.current_level(), progress.Level)
    assert_type(progress.get_tracer("a library").level("step", 1), progress.Level)


def test_batch_members_have_public_types() -> None:
    """A batch is an OperationBatch, with Levels as operations and a BatchSnapshot."""
    with progress.batch("thumbnails", id=7, total=2) as batch:
        assert_type(batch, progress.OperationBatch)
        assert_type(batch.start(), progress.OperationBatch)
        assert_type(batch.operation("thumbnail", "one", size=3), progress.Level)
        with progress.operation("thumbnail", batch=batch) as op, progress.operation("thumbnail", batch="7"):
            assert_type(op.cancel_requested, bool)
            op.check_cancelled()
        batch.set_total(3)
    assert_type(batch.id, str)
    assert_type(batch.snapshot(), progress.BatchSnapshot)
    assert_type(progress.get_batch("7"), "progress.BatchSnapshot | None")
    assert_type(progress.get_tracer("a library").batch("b"), progress.OperationBatch)


def test_track_keeps_the_element_type() -> None:
    """Elements of sync and async iterables keep their type."""
    for text in progress.track(["a", "b"], "letters"):
        assert_type(text, str)
    tracked = progress.track(range(3))
    assert_type(tracked, "progress.Track[int]")
    assert_type(tracked.level, progress.Level)

    async def numbers() -> AsyncIterator[float]:
        yield 1.0

    async def consume() -> None:
        async for number in progress.track(numbers()):
            assert_type(number, float)

    assert consume is not None


def test_decorators_keep_the_signature() -> None:
    """A decorated function keeps its type."""

    @progress.operation("double")
    def double(value: int) -> int:
        return 2 * value

    assert_type(double(4), int)
    assert double(4) == 8


def test_queries_return_public_types() -> None:
    """Queries have typed results, with None for a missing operation."""
    missing = progress.get_operation("nothing")
    assert_type(missing, "progress.OperationSnapshot | None")
    assert missing is None
    assert_type(progress.get_active_operations(), "list[progress.OperationSnapshot]")
    assert_type(progress.get_history("render", limit=3), "list[progress.OperationSnapshot]")
    assert_type(progress.get_events("nothing"), "list[progress.Event]")
    with progress.operation("render", id="r", total=3) as op:
        op.increment()
        running = progress.get_operation("r")
        assert running is not None
        assert_type(running.get_level(""), "progress.LevelSnapshot | None")
        assert_type(running.get_overall_progress(), progress.OverallProgress)
        assert_type(running.status, progress.Status)
        assert_type(running.condition, progress.Condition)
        assert_type(running.remaining_seconds, "float | None")


def test_add_callback_accepts_typed_function() -> None:
    """A callback receives the event and the operation."""

    def on_change(event: progress.CallbackEvent, operation: progress.OperationSnapshot) -> None:
        assert event
        assert operation.operation_id

    progress.add_callback(on_change, interval=0.5)
    progress.remove_callback(on_change)


def test_stages_have_public_types() -> None:
    """Stages are created from weights, starts or an Enum, and return Stage records."""
    stages = progress.Stages(queue=0.1, work=0.9)
    assert_type(stages["work"], progress.Stage)
    assert_type(progress.Stages.from_starts(a=0, b=50), progress.Stages)
    assert_type(progress.Stages.from_enum(Phase), progress.Stages)
    assert stages.names == ("queue", "work")
