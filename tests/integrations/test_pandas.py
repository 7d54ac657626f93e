"""``progress_apply`` of pandas through the drop-in replacement of tqdm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.testing import Recorder

pandas = pytest.importorskip("pandas", reason="these tests run the real library")
drop_in = pytest.importorskip("otel_progress.tqdm", reason="pandas.apply is followed through it")

pytestmark = pytest.mark.slow  # pandas is a heavy library


@pytest.fixture
def frame() -> Any:
    drop_in.tqdm.pandas(desc="rows", disable=None)
    return pandas.DataFrame({"group": [0, 0, 1, 2], "value": [1, 2, 3, 4]})


@pytest.fixture
def wait(recorder: Recorder) -> Callable[[Any], Any]:
    """Return a function that lets time pass, because shorter bars are not recorded."""

    def pass_time(value: Any) -> Any:
        recorder.clock.advance(2.0)
        recorder.tick()
        return value

    return pass_time


@pytest.mark.parametrize(
    ("apply", "result", "count"),
    [
        (lambda frame, wait: frame["value"].progress_apply(lambda value: wait(2 * value)), [2, 4, 6, 8], 4),
        (lambda frame, wait: frame["value"].progress_map(lambda value: wait(2 * value)), [2, 4, 6, 8], 4),
        (lambda frame, wait: frame.progress_apply(lambda row: wait(sum(row)), axis=1), [1, 2, 4, 6], 4),
        (
            lambda frame, wait: frame.groupby("group")["value"].progress_apply(
                lambda values: wait(sum(values))
            ),
            [3, 3, 4],
            3,
        ),
    ],
    ids=["apply", "map", "rows", "groups"],
)
def test_progress_apply_counts_each_call(
    apply: Any, result: list[int], count: int, frame: Any, wait: Callable[[Any], Any]
) -> None:
    with progress.operation("clean", id="clean-1"):
        assert list(apply(frame, wait)) == result
    operation = progress.get_operation("clean-1")
    assert operation is not None
    (level,) = operation.levels
    assert (level.info.name, level.status) == ("rows", Status.COMPLETED)
    assert (level.current, level.total) == (count, count)


def test_progress_apply_of_failing_function_raises_its_error(frame: Any, wait: Callable[[Any], Any]) -> None:
    with progress.operation("clean", id="clean-1"), pytest.raises(ZeroDivisionError):
        frame["value"].progress_apply(lambda value: wait(value) / 0)
    operation = progress.get_operation("clean-1")
    assert operation is not None
    (level,) = operation.levels
    assert level.status is not Status.COMPLETED
