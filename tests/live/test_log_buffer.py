"""Log records in the live store: kept with their operation, bounded every way, and carried once by the next batch."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.instrument.level import Level
from otel_progress.live import buffers as logbook
from otel_progress.live.buffers import LogBuffer
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.model import NO_METADATA
from otel_progress.protocols import LogQuery
from otel_progress.records import LogRecord
from otel_progress.testing import Recorder


def _node(name: str) -> Node:
    operation = Operation(name, "job", f"run-{name}", "i")
    return Node(operation, None, "", name, Spec("job", name, None, None, None, 1, None, None, NO_METADATA))


def _record(node: Node, path: str = "", at: float = 0.0, severity: int = 20) -> LogRecord:
    operation = node.operation
    number = operation.next_log()
    return LogRecord(
        operation.id,
        operation.type,
        operation.run,
        path,
        number,
        at,
        severity,
        "INFO",
        "app",
        f"record {number}",
    )


def _log(recorder: Recorder, level: Level, **fields: float) -> None:
    node = level._node
    recorder.runtime._store.add_log(node, _record(node, node.path, recorder.clock.wall(), **fields))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x:1", "x:2"])), max_size=120))
def test_the_newest_records_are_kept(entries: list[tuple[str, str]]) -> None:
    """Against a model: the newest of a level, of an operation, and of all; read in order; each carried exactly once."""
    nodes = {name: _node(name) for name in "ab"}
    book, model = LogBuffer(), [(name, _record(nodes[name], path)) for name, path in entries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logbook, "MAX_LOGS_PER_LEVEL", 5)
        patch.setattr(logbook, "MAX_LOGS_PER_OPERATION", 12)
        patch.setattr(logbook, "MAX_LOGS", 17)
        kept: list[tuple[str, LogRecord]] = []
        for name, record in model:
            assert book.add(nodes[name], record)
            book.distribute()
            kept.append((name, record))
            for bound, belongs in (
                (5, lambda one, who=name, where=record.path: one[0] == who and one[1].path == where),
                (12, lambda one, who=name: one[0] == who),
                (17, lambda one: True),
            ):
                alike = [one for one in kept if belongs(one)]
                if len(alike) > bound:
                    kept.remove(alike[0])
        for name, node in nodes.items():
            assert list(book.logs_of(node.operation)) == [record for one, record in kept if one == name]
        assert len(book._order) <= 2 * 17 + 1
    assert book.drain() == [record for _, record in model]
    assert book.drain() == []


def test_too_many_that_wait_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no tick takes them, records beyond the bound are refused and not kept; after a tick there is room again."""
    monkeypatch.setattr(logbook, "MAX_UNSENT_LOGS", 3)
    node, book = _node("a"), LogBuffer()
    assert [book.add(node, _record(node)) for _ in range(5)] == [True, True, True, False, False]
    assert len(book.drain()) == 3
    assert book.add(node, _record(node))


def test_records_are_found_and_stay_with_an_ended_operation(recorder: Recorder) -> None:
    """By place, severity, moment and number; after the end as before, and not after the operation was deleted."""
    store = recorder.runtime._store
    with progress.operation("job", id="j") as op, op.level("x", 1) as one, op.level("x", 10) as ten:
        _log(recorder, op)
        recorder.clock.advance(1.0)
        _log(recorder, one, severity=40)
        _log(recorder, ten)
    for _ in range(2):
        assert [record.number for record in store.logs("j")] == [1, 2, 3]
        assert [record.number for record in store.logs("j", LogQuery(path="x:1"))] == [2]
        assert [record.number for record in store.logs("j", LogQuery(severity=30))] == [2]
        assert [record.number for record in store.logs("j", LogQuery(since=recorder.clock.wall()))] == [2, 3]
        assert [record.number for record in store.logs("j", LogQuery(after=1, limit=1))] == [3]
        assert store.logs("j", LogQuery(limit=0)) == store.logs("nobody") == []
        recorder.tick()
    assert store.delete("j") == 1
    assert store.logs("j") == []


def test_a_batch_carries_records_once(recorder: Recorder) -> None:
    """The next batch has every new record, also one that was read before; the store is idle after that."""
    store = recorder.runtime._store
    op = progress.operation("job", id="j").start()
    _log(recorder, op)
    assert len(store.logs("j")) == 1
    op.complete()
    assert not store.idle
    assert Counter(record.number for record in store.collect().logs) == {1: 1}
    assert store.collect().logs == []
    assert store.idle
