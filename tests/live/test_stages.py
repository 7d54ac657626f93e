"""Stages of a running operation: weights, going forward, skipping, failing and trying again."""

from __future__ import annotations

from enum import Enum

import pytest

import otel_progress as progress
from otel_progress import Stages, Status
from otel_progress.testing import Recorder

IMAGE = Stages(queue=0.05, model_loading=0.15, generation=0.70, post_processing=0.10)


class Step(Enum):
    """Stages as an Enum of percent starts."""

    LOAD = 0
    RUN = 40


def statuses(recorder: Recorder, operation_id: str = "o") -> dict[str, str]:
    """Return status by stage."""
    return {level.info.id: level.status.value for level in recorder.operation(operation_id).levels}


def test_ratio_follows_the_weights(recorder: Recorder) -> None:
    """A stage adds its share of the whole, a part of it while it runs."""
    ratios = []
    with progress.operation("o", id="o", stages=IMAGE) as op:
        ratios.append(op.snapshot().ratio)
        for name in IMAGE.names:
            with op.stage(name) as stage:
                stage.update(current=1, total=2)
                ratios.append(op.snapshot().ratio)
        ratios.append(op.snapshot().ratio)
    assert ratios == pytest.approx([0.0, 0.025, 0.125, 0.55, 0.95, 1.0])
    assert set(statuses(recorder).values()) == {"completed"}
    assert [span.name for span in recorder.spans()] == ["stage"] * 4 + ["o"]


def test_stages_are_announced(recorder: Recorder) -> None:
    """Before anything runs, all stages are there, pending, in order, with their weights, and counted as the units."""
    with progress.operation("o", id="o", stages="image") as op:
        one = recorder.operation("o")
        assert [level.info.id for level in one.levels] == list(Stages.named("image").names)
        assert {level.status for level in one.levels} == {Status.PENDING}
        assert [level.info.weight for level in one.levels] == [0.05, 0.15, 0.70, 0.10]
        assert all(level.info.declared and level.info.started_at is None for level in one.levels)
        assert (one.root.current, one.root.total, one.root.stage) == (0, 4, None)
        recorder.tick()
        with op.stage("model_loading"):
            assert recorder.operation("o").root.stage == "model_loading"
        assert (op.snapshot().current, op.snapshot().skipped, op.snapshot().completed) == (2, 1, 1)


def test_beginning_a_stage_ends_the_one_before(recorder: Recorder) -> None:
    """Stages without blocks: the next one completes the last one, and the end of the operation the last of all."""
    with progress.operation("o", id="o", stages=Step) as op:
        first = op.stage(Step.LOAD).start()
        second = op.stage(Step.RUN).start()
        assert statuses(recorder) == {"LOAD": "completed", "RUN": "running"}
        assert not first.recording
        assert second.recording
    assert statuses(recorder) == {"LOAD": "completed", "RUN": "completed"}


def test_going_back_is_refused(recorder: Recorder) -> None:
    """An earlier stage, and one that is done, cannot begin again."""
    with progress.operation("o", id="o", stages=IMAGE) as op:
        with op.stage("generation"):
            pass
        for name in ("queue", "generation"):
            with pytest.raises(ValueError, match="expected a stage after 'generation'"):
                op.stage(name).start()
        with pytest.raises(ValueError, match="expected one of queue, model_loading"):
            op.stage("upload").start()
    assert statuses(recorder) == {
        "queue": "skipped",
        "model_loading": "skipped",
        "generation": "completed",
        "post_processing": "skipped",
    }


@pytest.mark.usefixtures("lenient")
def test_a_refused_stage_by_default_is_inert() -> None:
    """What was refused does nothing, and what is counted in it is lost without harm."""
    with progress.operation("o", id="o", stages=IMAGE) as op:
        with op.stage("generation"):
            pass
        with op.stage("queue") as stage, stage.level("x") as inner:
            stage.increment()
            inner.increment()
            assert not stage.recording
    assert op.snapshot().ratio == 1.0


def test_a_failed_stage_can_be_tried_again(recorder: Recorder) -> None:
    """A stage that failed keeps how far it came, and another attempt takes that back."""
    with progress.operation("o", id="o", stages={"a": 1, "b": 1}) as op:
        with pytest.raises(OSError, match="gone"), op.stage("a") as stage:  # noqa: PT012 - the block is what is tested
            stage.update(current=1, total=2)
            raise OSError("gone")
        assert (op.snapshot().ratio, op.snapshot().failed) == (0.25, 1)
        with op.stage("a") as stage:
            assert stage.snapshot().info.attempt == 2
            assert (op.snapshot().ratio, op.snapshot().failed) == (0.0, 0)
        assert op.snapshot().ratio == 0.5
        with pytest.raises(OSError, match="gone"), op.stage("b"):
            raise OSError("gone")
    assert statuses(recorder) == {"a": "completed", "b": "failed"}
    assert op.snapshot().status is Status.COMPLETED


def test_a_failed_operation_leaves_stages_pending(recorder: Recorder) -> None:
    """What was never begun is still pending when the operation fails, and its ratio is how far it came."""
    with pytest.raises(OSError, match="gone"), progress.operation("o", id="o", stages=IMAGE) as op:  # noqa: PT012 - the block is what is tested
        with op.stage("queue"):
            pass
        with op.stage("model_loading"):
            raise OSError("gone")
    assert list(statuses(recorder).values()) == ["completed", "failed", "pending", "pending"]
    assert op.snapshot().ratio == pytest.approx(0.05)


@pytest.mark.usefixtures("recorder")
def test_levels_below_a_stage() -> None:
    """A stage is a level: what runs in it rolls up into it."""
    with progress.operation("o", id="o", stages={"a": 1, "b": 3}) as op, op.stage("b") as stage:
        stage.set_total(4)
        for number in range(2):
            with stage.level("file", number):
                pass
        assert op.snapshot().ratio == pytest.approx(0.25 + 0.75 * 0.5)
        with progress.level("file", 3) as below:
            assert below.path == "stage:b/file:3"


@pytest.mark.usefixtures("recorder")
def test_a_counted_operation_with_stages() -> None:
    """An operation that counts itself shows its own count, and the ratio of its stages."""
    with progress.operation("o", id="o", total=100, stages={"a": 1, "b": 1}) as op:
        op.update(current=80)
        with op.stage("a"):
            pass
        snapshot = op.snapshot()
    assert (snapshot.current, snapshot.total, snapshot.ratio) == (80, 100, 0.5)


@pytest.mark.usefixtures("recorder")
def test_stages_of_a_level() -> None:
    """Any level can have stages; its ratio rolls up in turn."""
    with progress.operation("o", id="o", total=2) as op, op.level("song", 1, stages={"a": 1, "b": 1}) as song:
        with song.stage("a"):
            pass
        assert op.snapshot().ratio == 0.25


def test_stages_that_were_not_declared(recorder: Recorder) -> None:
    """Without declared stages, a stage is a level of that name and can be entered again."""
    with progress.operation("o", id="o") as op:
        for _ in range(2):
            with op.stage("warm-up") as stage:
                assert stage.path == "stage:warm-up"
    assert recorder.operation("o").levels[0].info.attempt == 2


@pytest.mark.usefixtures("recorder")
def test_the_end_of_the_operation_ends_stages_of_stages() -> None:
    """Ending an operation in mid-stage by hand ends what runs below the stage as cancelled."""
    op = progress.operation("o", id="o", stages={"a": 1}).start()
    stage = op.stage("a").start()
    level = stage.level("x").start()
    op.cancel("enough")
    assert {level.snapshot().status, stage.snapshot().status, op.snapshot().status} == {Status.CANCELLED}
    with pytest.raises(ValueError, match="but it has ended"):
        op.stage("a").start()
