"""Completed work of earlier sessions, and estimates of resumed operations."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

import otel_progress as progress
from otel_progress.live.completed_work import CompletedWork
from otel_progress.model import Number, Status
from otel_progress.resumption import (
    CompletedKey,
    ResumedWork,
    digest_key,
    digest_level_scope,
    digest_loop_scope,
)
from otel_progress.testing import Recorder
from tests.support.factories import snapshot
from tests.support.interruptions import Interrupter

ROOT = digest_level_scope("")


def _resume(recorder: Recorder, work: ResumedWork | None) -> None:
    """Let the next operation with ``resume`` continue some work."""

    class Resumer:
        def resume(self, node: object) -> None:
            recorder.runtime._store.continue_run(node, work)  # type: ignore[arg-type]

        def commit(self, timeout_s: float) -> bool:
            return timeout_s > 0

    recorder.runtime._recording.resumer = Resumer()


def _work(*keys: tuple[bytes, bytes, Number], counts_children: bool, **fields: Number) -> ResumedWork:
    root = replace(snapshot(**fields), counts_children=counts_children)
    return ResumedWork(root, 2, None, keys)


def test_estimate_of_own_counts_uses_the_rate_of_this_session(recorder: Recorder) -> None:
    """Forty units at once are not a rate."""
    _resume(recorder, _work(counts_children=False, current=40, total=100))
    with progress.operation("train", id="t", total=100, resume=True) as op:
        recorder.tick()
        assert op.snapshot().current == 40
        for _ in range(10):
            recorder.clock.advance(1.0)
            op.increment()
            recorder.tick()
        assert recorder.operation("t").remaining_seconds == pytest.approx(50.0, rel=0.1)
        assert recorder.operation("t").root.info.attempt == 2


def test_estimate_of_levels_uses_the_rate_of_this_session(recorder: Recorder) -> None:
    """The levels that are left out take no time."""
    keys = [(ROOT, digest_key(f"epoch:{epoch}"), 1) for epoch in range(40)]
    _resume(recorder, _work(*keys, counts_children=True, current=40, total=100))
    with progress.operation("train", id="t", total=100, resume=True) as op:
        recorder.tick()
        for epoch in range(50):
            with op.level("epoch", epoch) as level:
                if level.already_completed:
                    continue
                recorder.clock.advance(1.0)
            recorder.tick()
        operation = recorder.operation("t")
        assert (operation.root.current, operation.root.resumed_from, operation.ratio) == (50, 40, 0.5)
        assert operation.remaining_seconds == pytest.approx(50.0, rel=0.1)


def test_keyed_loop_has_an_estimate(recorder: Recorder) -> None:
    """Its rate is that of this session, too."""
    scope = digest_loop_scope("", "track", "", 1)
    keys = [(scope, digest_key(str(number)), 1) for number in range(400)]
    _resume(recorder, _work(*keys, counts_children=True))
    with progress.operation("job", id="t", resume=True) as op:
        loop = op.track(range(1000), key=str)
        for number in loop:
            recorder.clock.advance(1.0)
            if number % 20 == 0:
                recorder.tick()
            if number == 500:
                break
        recorder.tick()
        level = loop.level.snapshot()
        assert level.resumed_from == 400
        assert level.current == 500


def test_units_beyond_a_smaller_total_are_cut(recorder: Recorder) -> None:
    """The total may have changed between two sessions."""
    _resume(recorder, _work(counts_children=False, current=40, total=100))
    with progress.operation("train", id="t", total=10, resume=True) as op:
        assert (op.snapshot().current, op.snapshot().ratio) == (10, 1.0)
    assert recorder.operation("t").status is Status.COMPLETED


def test_running_restored_level_is_cancelled_with_its_parent(recorder: Recorder) -> None:
    """A level that runs again ends like any other one."""
    key = (ROOT, digest_key("part:a"), 1)
    _resume(recorder, _work(key, counts_children=True, current=1, total=2))
    with progress.operation("job", id="t", total=2, resume=True) as op:
        level = op.level("part", "a").start()
    assert level.snapshot().status is Status.CANCELLED
    assert recorder.operation("t").root.current == 0


def _create(entries: list[CompletedKey], dropped: list[bool], **options: int) -> CompletedWork:
    def drop() -> None:
        dropped.append(True)

    return CompletedWork("run-1", None, add_entry=entries.append, on_dropped=drop, **options)


def test_keys_are_added_once() -> None:
    """A repeated one is reported by the result."""
    entries: list[CompletedKey] = []
    work = _create(entries, [])
    assert [work.add(b"s", b"k"), work.add(b"s", b"k"), work.add(b"t", b"k")] == [True, False, True]
    assert entries == [CompletedKey("run-1", b"s", b"k", 1), CompletedKey("run-1", b"t", b"k", 1)]
    assert work.list_entries() == entries


def test_keys_beyond_the_limit_are_dropped() -> None:
    """Each of them is reported."""
    entries: list[CompletedKey] = []
    dropped: list[bool] = []
    work = _create(entries, dropped, max_keys=2)
    for key in (b"a", b"b", b"c", b"d"):
        work.add(b"s", key)
    assert (len(entries), len(dropped)) == (2, 2)


def test_loops_with_one_name_have_scopes_by_their_order() -> None:
    """Two sessions that start the same loops find the same scopes."""
    first, second = _create([], []), _create([], [])
    scopes = [first.create_loop_scope("part:a", "track", name) for name in ("x", "x", "y")]
    assert len(set(scopes)) == 3
    assert [second.create_loop_scope("part:a", "track", name) for name in ("y", "x", "x")] == [
        scopes[2], scopes[0], scopes[1],
    ]  # fmt: skip


def test_lost_journal_gets_all_keys_again(recorder: Recorder) -> None:
    """Keys of earlier sessions and the last checkpoint are included."""
    key = (ROOT, digest_key("part:a"), 1)
    _resume(recorder, _work(key, counts_children=True, current=1))
    store = recorder.runtime._store
    with progress.operation("job", id="t", resume=True) as op:
        with op.level("part", "b"):
            pass
        op.checkpoint("last")
        first = store.collect()
        store.resend(ended=True)
        again = store.collect()
    assert [entry.key for entry in first.completed_keys] == [digest_key("part:b")]
    assert {entry.key for entry in again.completed_keys} == {digest_key("part:a"), digest_key("part:b")}
    assert list(first.checkpoints.values()) == list(again.checkpoints.values()) == ['"last"']


def test_tick_at_each_bytecode_loses_no_checkpoint(recorder: Recorder) -> None:
    """Another thread collects the changes while this one stores a checkpoint."""
    store, collected = recorder.runtime._store, []

    def collect() -> None:
        collected.append(dict(store.collect().checkpoints))

    def collect_in_another_thread() -> None:
        # Why: it waits for the lock of this thread.
        if not store._state.guard.is_owned():
            thread = threading.Thread(target=collect)
            thread.start()
            thread.join()

    with progress.operation("job") as op:
        operation = op._node.operation
        for act in (bool, collect_in_another_thread):  # since Python 3.12 the first run traces no bytecode
            interrupter = Interrupter(act, event="opcode", files=frozenset({"store.py"}))
            interrupter.run(lambda: store.set_checkpoint(operation, "1"))
        collect()
    assert interrupter.calls > 10
    assert interrupter.errors == []
    assert [each for each in collected if each] == [{operation.run: "1"}] * 2
