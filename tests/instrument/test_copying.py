"""Copies, pickles and nested blocks of handles."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.model import Status
from otel_progress.testing import Recorder

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a container": lambda handle: copy.deepcopy({"handle": [handle]})["handle"][0],
    "pickle": lambda handle: pickle.loads(pickle.dumps(handle)),
}
WAIT_S = 60.0


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_copy_of_level_is_the_level(recorder: Recorder, make_copy: Callable[[Any], Any]) -> None:
    """Dropping the copy does not end the level."""
    with progress.operation("job", id="j", total=2) as op:
        twin = make_copy(op)
        assert twin is op
        twin.increment()
        del twin
        gc.collect()
        recorder.tick()
        assert op.recording
        op.increment()
    assert recorder.operation("j").root.current == 2


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_copy_of_other_handle_is_the_handle(recorder: Recorder, make_copy: Callable[[Any], Any]) -> None:
    with progress.operation("job", id="j") as op:
        assert recorder.runtime.get_active_operations()
        for handle in (op.track([1]), progress.batch("b"), progress.operation("unstarted")):
            assert make_copy(handle) is handle


def test_pickled_opaque_step_and_pause_are_usable(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op:
        with pickle.loads(pickle.dumps(op.opaque(expected=3))) as level:
            assert level is op
        with pickle.loads(pickle.dumps(op.paused("wait"))):
            assert recorder.operation("j").root.message == "wait"


def test_handle_without_configure_can_be_copied() -> None:
    handle = progress.operation("job").start()
    assert copy.deepcopy(handle) is pickle.loads(pickle.dumps(handle)) is handle


def test_pickle_of_deleted_handle_has_no_effect(recorder: Recorder) -> None:
    op = progress.operation("job", id="j").start()
    data = pickle.dumps(op)
    op.complete()
    del op
    gc.collect()
    loaded = pickle.loads(data)
    loaded.increment()
    with loaded.level("file"):
        loaded.fail("no")
    assert recorder.operation("j").status is Status.COMPLETED


@pytest.mark.process
def test_pickle_in_a_process_without_the_store_is_a_linked_operation(recorder: Recorder) -> None:
    """The rejection is counted, and logged once. A pickled track is its iterable."""
    code = (
        "import pickle, sys, otel_progress as progress\n"
        "progress.configure(console=False, store='memory:')\n"
        "handles = pickle.loads(sys.stdin.buffer.read())\n"
        "handles['level'].increment()\n"
        "with handles['level'].level('file'): pass\n"
        "(found,) = progress.get_active_operations()\n"
        "assert (found.root.info.parent.operation_id, found.root.current) == ('j', 1)\n"
        "assert list(handles['track']) == [1, 2]\n"
        "assert handles['batch'].id == 'nightly', handles['batch'].id\n"
        "print(len(progress.get_active_operations()), len(progress.get_history()))\n"
    )
    with progress.operation("job", id="j") as op, progress.batch("b", id="nightly") as batch:
        assert recorder.runtime.get_active_operations()
        data = pickle.dumps({"level": op, "track": op.track([1, 2]), "batch": batch})
        result = subprocess.run(
            [sys.executable, "-c", code], input=data, capture_output=True, timeout=WAIT_S, check=False
        )
    assert (result.returncode, result.stdout.split()) == (0, [b"1", b"0"]), result.stderr
    assert result.stderr.count(b"Invalid store for a handle of job of another process") == 1


@pytest.mark.process
def test_pickle_without_a_recording_has_no_effect_in_another_process() -> None:
    """Nothing was configured when the handle was pickled."""
    code = (
        "import pickle, sys, otel_progress as progress\n"
        "progress.configure(console=False, store='memory:')\n"
        "level = pickle.loads(sys.stdin.buffer.read())\n"
        "level.increment()\n"
        "with level.level('file'): pass\n"
        "print(len(progress.get_active_operations()), len(progress.get_history()))\n"
    )
    data = pickle.dumps(progress.operation("job", id="j"))
    result = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, timeout=WAIT_S, check=False
    )
    assert (result.returncode, result.stdout.split()) == (0, [b"0", b"0"]), result.stderr
    assert result.stderr.count(b"Invalid handle of job: expected a handle of this process") == 1


def test_nested_blocks_of_one_handle_end_it_once(recorder: Recorder) -> None:
    with progress.operation("job", id="j", total=2) as op:
        with op as inner:
            assert inner is op
            op.increment()
        assert op.recording
        assert progress.current_level() is op
        op.increment()
    assert (recorder.operation("j").status, recorder.operation("j").root.current) == (Status.COMPLETED, 2)
    assert not progress.current_level().recording


def test_nested_block_below_a_child_restores_the_child(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op, op.level("file", 1) as file:
        with op:
            assert progress.current_level() is op
        assert progress.current_level() is file
        assert op.recording
    assert recorder.operation("j").status is Status.COMPLETED


def test_error_that_leaves_the_nested_block_only_does_not_fail(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op:
        with pytest.raises(ValueError, match="inner"), op:
            raise ValueError("inner")
        assert op.recording
    assert recorder.operation("j").status is Status.COMPLETED


def test_blocks_of_one_handle_in_threads_end_with_the_last(recorder: Recorder) -> None:
    """Each thread has the level as its current level only inside its block."""
    op = progress.operation("job", id="j").start()
    inside, leave = threading.Barrier(3), threading.Event()
    current: list[bool] = []

    def work(waits: bool) -> None:
        with op:
            inside.wait(WAIT_S)
            current.append(progress.current_level() is op)
            if waits:
                assert leave.wait(WAIT_S)
        current.append(progress.current_level() is not op)

    threads = [threading.Thread(target=work, args=(waits,)) for waits in (False, True)]
    for thread in threads:
        thread.start()
    inside.wait(WAIT_S)
    threads[0].join(WAIT_S)
    assert op.recording
    leave.set()
    threads[1].join(WAIT_S)
    assert current == [True] * 4
    assert recorder.operation("j").status is Status.COMPLETED


def test_blocks_of_one_handle_in_tasks_end_with_the_last(recorder: Recorder) -> None:
    async def work(op: progress.Level, delays: int) -> bool:
        async with op:
            for _ in range(delays):
                await asyncio.sleep(0)
            is_inside = progress.current_level() is op
        return is_inside and progress.current_level() is not op

    async def run_tasks() -> list[bool]:
        op = progress.operation("job", id="j")
        return await asyncio.gather(*(work(op, delays) for delays in (5, 1, 3)))

    assert asyncio.run(run_tasks()) == [True] * 3
    assert recorder.operation("j").status is Status.COMPLETED


def test_block_after_the_end_is_a_new_level(recorder: Recorder) -> None:
    with progress.operation("job", id="j") as op:
        step = op.level("step", "a", total=1)
        for _ in range(3):
            with step:
                step.increment()
    (level,) = recorder.operation("j").levels
    assert (level.info.attempt, level.current, level.status) == (3, 1, Status.COMPLETED)


def test_nested_blocks_of_one_batch_close_it_once(recorder: Recorder) -> None:
    with progress.batch("b", id="b") as batch:
        with batch:
            pass
        with progress.operation("job"):
            pass
        assert not recorder.runtime.reader.batch("b").is_finished
    assert batch.snapshot().is_finished
    assert batch.snapshot().finished_count == 1


def test_level_without_parent_gets_an_id_of_its_own(recorder: Recorder) -> None:
    """Ids of levels are unique only among siblings."""
    for start in (0, "a.txt", -1):
        with progress.level("file", start):
            pass
    ended = recorder.runtime.get_history("file")
    assert sorted(operation.root.info.name for operation in ended) == ["-1", "0", "a.txt"]
    assert all(operation.operation_id.startswith("file-") for operation in ended)
