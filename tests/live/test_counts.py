"""Tests of counts: early ends, and failures of levels at all depths."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import LevelSnapshot, Outcome, Status
from otel_progress.testing import Recorder, recording


def read_counts(level: LevelSnapshot) -> tuple[float, int, int, float]:
    """Return the current, failed, failed below and completed units of a level."""
    return level.current, level.failed, level.failed_below, level.completed


def fail_level(parent: progress.Level, kind: str, id_: object = None) -> None:
    """Start and fail a level by an exception that the caller handles."""
    with contextlib.suppress(ValueError), parent.level(kind, id_):
        raise ValueError(kind)


# --- early ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "done", "ratio", "early"),
    [
        (6, 0, 0.0, True),
        (1000, 5, 0.005, True),
        (5, 5, 1.0, False),
        (0, 0, 1.0, False),
        (None, 3, 1.0, False),
    ],
)
def test_operation_completed_below_total_ended_early(
    recorder: Recorder, total: int | None, done: int, ratio: float, early: bool
) -> None:
    """Its ratio is that of its units. The status is completed."""
    with progress.operation("job", id="j", total=total) as op:
        if done:
            op.increment(done)
    root = recorder.operation("j").root
    assert (root.status, root.ended_early, root.ratio) == (Status.COMPLETED, early, ratio)


def test_failed_and_skipped_units_count_as_done(recorder: Recorder) -> None:
    """A level whose units all ended did not end early."""
    with progress.operation("job", id="j", total=3) as op:
        for outcome in Outcome:
            op.item("a", outcome=outcome)
    root = recorder.operation("j").root
    assert (root.ended_early, root.ratio, root.completed) == (False, 1.0, 1)


def test_sum_of_fractions_reaches_total(recorder: Recorder) -> None:
    """Rounding errors are no early end."""
    with progress.operation("job", id="j", total=1.0) as op:
        for _ in range(10):
            op.increment(0.1)
    root = recorder.operation("j").root
    assert root.current < 1.0
    assert (root.ended_early, root.ratio) == (False, 1.0)


@pytest.mark.parametrize("end", ["cancel", "skip", "fail"])
def test_level_with_other_end_did_not_end_early(recorder: Recorder, end: str) -> None:
    """Only completed levels end early."""
    with progress.operation("job", id="j", total=3) as op:
        getattr(op, end)("reason")
    assert not recorder.operation("j").root.ended_early


def test_loop_left_by_break_is_cancelled(recorder: Recorder) -> None:
    """It did not complete."""
    with progress.operation("job", id="j") as op:
        for number in op.track(range(10)):
            if number == 3:
                break
    (level,) = recorder.operation("j").levels
    assert (level.status, level.ended_early) == (Status.CANCELLED, False)


def test_parent_counts_level_that_ended_early_as_done(recorder: Recorder) -> None:
    """The level is one of the units of its parent."""
    with progress.operation("job", id="j", total=2) as op:
        with op.level("part", total=10) as part:
            part.increment(4)
        assert op.snapshot().ratio == 0.5
        with op.level("part", total=10) as part:
            part.increment(10)
    operation = recorder.operation("j")
    assert [level.ratio for level in (operation.root, *operation.levels)] == [1.0, 0.4, 1.0]
    assert not operation.root.ended_early


def test_opaque_level_with_total_completes_all_units(recorder: Recorder) -> None:
    """An opaque step cannot count."""
    with progress.operation("job", id="j") as op, op.level("encode", total=100).opaque():
        pass
    (level,) = recorder.operation("j").levels
    assert (level.current, level.ratio, level.ended_early) == (100, 1.0, False)


def run_job(recorder: Recorder, units: int) -> None:
    with progress.operation("job", total=10) as op:
        for _ in range(units):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()


@pytest.mark.parametrize(("units", "runs"), [(10, 4), (4, 0)])
def test_run_that_ended_early_is_not_in_history(recorder: Recorder, units: int, runs: int) -> None:
    """Complete runs are the control."""
    for _ in range(4):
        run_job(recorder, units)
    with progress.operation("job", id="j", total=10) as op:
        recorder.clock.advance(1.0)
        op.increment()
        recorder.tick()
        eta = op.eta
    assert (0 if eta is None else eta.runs) == runs


# --- failures at all depths ----------------------------------------------------------------------


def test_failures_two_levels_down_are_on_the_operation(recorder: Recorder) -> None:
    """They are not units of the operation, so all of its tables completed."""
    with progress.operation("load", id="o", total=5, unit="table") as op:
        for number in range(5):
            with op.level("table", number, total=20) as table:
                for partition in range(20):
                    if 20 * number + partition < 39:
                        fail_level(table, "partition", partition)
                    else:
                        table.level("partition", partition).start().complete()
            assert op.snapshot().failed == min(39, 20 * (number + 1))
    operation = recorder.operation("o")
    assert read_counts(operation.root) == (5, 39, 39, 5)
    assert [read_counts(level) for level in operation.levels if level.info.depth == 1] == [
        (20, 20, 0, 0),
        (20, 19, 0, 1),
        *[(20, 0, 0, 20)] * 3,
    ]
    assert operation.get_overall_progress().failed == 39


def test_failures_of_running_levels_are_on_the_operation(recorder: Recorder) -> None:
    """The operation does not wait for the end of the levels between."""
    with progress.operation("load", id="o") as op, op.level("a") as a, a.level("b") as b, b.level("c") as c:
        for number in range(3):
            c.item(f"{number}", outcome="failed")
        recorder.tick()
        assert [level.snapshot().failed for level in (op, a, b, c)] == [3, 3, 3, 3]
        assert recorder.operation("o").root.failed_below == 3


def test_failure_that_leaves_several_levels_counts_once(recorder: Recorder) -> None:
    """The parents failed because of their child."""

    def work() -> None:
        with progress.operation("load", id="o") as op, op.level("a") as a, a.level("b") as b, b.level("c"):
            raise ValueError("c")

    with pytest.raises(ValueError, match="c"):
        work()
    operation = recorder.operation("o")
    assert [level.failed for level in (operation.root, *operation.levels)] == [1, 1, 1, 0]


def test_failed_level_with_failures_below_counts_them(recorder: Recorder) -> None:
    """Three partitions failed, and the third one made the table fail."""
    with progress.operation("load", id="o", total=2) as op:
        with contextlib.suppress(ValueError), op.level("table", total=9) as table:
            fail_level(table, "partition")
            fail_level(table, "partition")
            with table.level("partition"):
                raise ValueError("third")
        fail_level(op, "table")
    assert read_counts(recorder.operation("o").root) == (2, 4, 2, 0)


def test_failures_in_stage_are_on_the_operation(recorder: Recorder) -> None:
    """A stage that completed may have failures."""
    with progress.operation("load", id="o", stages=["read", "write"]) as op:
        with op.stage("read") as stage:
            fail_level(stage, "file")
        with op.stage("write"):
            pass
    assert read_counts(recorder.operation("o").root) == (2, 1, 1, 2)


@pytest.mark.usefixtures("recorder")
def test_next_attempt_removes_failures_of_the_earlier_one() -> None:
    """At each level above."""
    with progress.operation("load", id="o") as op, op.level("day", 1) as day:
        for expected in (2, 0):
            with day.level("table", 1) as table:
                for _ in range(expected):
                    fail_level(table, "partition")
            assert [op.snapshot().failed, day.snapshot().failed] == [expected, expected]


def test_failures_of_evicted_levels_remain(recorder: Recorder) -> None:
    """The failed count is not limited by the levels in memory."""
    with progress.operation("load", id="o") as op, op.level("table") as table:
        for _ in range(700):
            fail_level(table, "partition")
    operation = recorder.operation("o")
    assert len(operation.levels) < 700
    assert operation.root.failed == 700


def test_failures_beyond_weight_are_not_truncated(recorder: Recorder) -> None:
    """The level is as many units as its total, but more failed below it."""
    with progress.operation("load", id="o", total=4) as op, op.level("folder", total=4, weight=4) as folder:
        for number in range(4):
            with folder.level("file", number) as file:
                for item in range(3):
                    file.item(f"{item}", outcome="failed")
    assert read_counts(recorder.operation("o").root) == (4, 12, 12, 4)


Shape = st.recursive(st.booleans(), lambda inner: st.lists(inner, max_size=4), max_leaves=20)


@given(Shape)
def test_failures_of_any_tree_are_those_of_its_leaves(shape: object) -> None:
    """Each failed leaf counts once at all levels above it."""

    def work(parent: progress.Level, part: object) -> int:
        if isinstance(part, bool):
            if part:
                fail_level(parent, "leaf")
            return int(part)
        with parent.level("node") as level:
            failed = sum([work(level, inner) for inner in part])  # type: ignore[attr-defined]
            assert level.snapshot().failed == failed
        return failed

    with recording() as recorder:
        with progress.operation("load", id="o") as op:
            failed = work(op, shape)
        root = recorder.operation("o").root
        assert root.failed == failed
        assert 0 <= root.failed_below <= failed


def test_items_metric_counts_a_failure_in_one_level_type(recorder: Recorder) -> None:
    """The levels above have it in their failed count only."""
    with progress.operation("load", id="o") as op, op.level("table") as table:
        fail_level(table, "partition")
        changes = recorder.runtime._store.collect()
    items = {key: units for key, units in changes.items.items() if key[2] == "failed"}
    assert items == {("load", "table", "failed"): 1}


# --- units ---------------------------------------------------------------------------------------


def start_operation(**arguments: object) -> progress.Level:
    return progress.operation("job", id="j", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("unit", "forms"),
    [
        ("file", ("file", "files")),
        ("epoch", ("epoch", "epoch")),
        ("entry", ("entry", "entry")),
        ("children", ("children", "children")),
        (("child", "children"), ("child", "children")),
        (["index", "indices"], ("index", "indices")),
        ("%", ("%", "%")),
        (None, (None, None)),
    ],
)
@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize(
    "start",
    [
        start_operation,
        lambda **a: progress.operation("job", id="j").start().level("part", **a),
        lambda **a: progress.operation("job", id="j").start().track([], **a).level,
        lambda **a: progress.batch("b").operation("job", id="j", **a),
        lambda **a: progress.get_tracer("library").operation("job", id="j", **a),
    ],
    ids=["operation", "level", "track", "batch", "tracer"],
)
def test_unit_has_two_forms(
    start: Callable[..., progress.Level], unit: object, forms: tuple[str | None, str | None]
) -> None:
    """Every helper accepts a unit, or its singular and plural."""
    level = start(unit=unit).start()
    info = level.snapshot().info
    assert (info.unit, info.unit_plural) == forms
    level.complete()


INVALID_UNITS = [("a",), ("a", "b", "c"), (1, 2), ("", "b"), ()]


@pytest.mark.parametrize("unit", INVALID_UNITS)
@pytest.mark.usefixtures("lenient")
def test_unit_that_is_not_a_pair_is_ignored(unit: object) -> None:
    """The level starts without a unit."""
    with start_operation(unit=unit) as op:
        assert op.snapshot().info.unit is None


@pytest.mark.parametrize("unit", INVALID_UNITS)
@pytest.mark.usefixtures("recorder")
def test_strict_unit_that_is_not_a_pair_raises(unit: object) -> None:
    """The message contains the expected value."""
    with pytest.raises(progress.RejectedTypeError, match=r"Invalid unit .*: expected a text"):
        start_operation(unit=unit).start()
