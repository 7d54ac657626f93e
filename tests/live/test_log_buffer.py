"""Log records in the live store: kept with their operation, bounded every way, and carried once by the next batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.instrument.level import Level
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
def test_log_buffer_stores_the_newest_records_within_its_limits(entries: list[tuple[str, str]]) -> None:
    """A simple model defines the newest records of a level, of an operation and of all operations."""
    nodes = {name: _node(name) for name in "ab"}
    buffer = LogBuffer(max_per_level=5, max_per_operation=12, max_total=17)
    records = [(name, _record(nodes[name], path)) for name, path in entries]
    expected: list[tuple[str, LogRecord]] = []
    for name, record in records:
        assert buffer.add(nodes[name], record)
        buffer.distribute_locked()
        expected.append((name, record))
        limits: tuple[tuple[int, Callable[[tuple[str, LogRecord]], bool]], ...] = (
            (5, lambda entry, name=name, path=record.path: (entry[0], entry[1].path) == (name, path)),  # type: ignore[misc]
            (12, lambda entry, name=name: entry[0] == name),  # type: ignore[misc]
            (17, lambda entry: True),
        )
        for limit, is_counted in limits:
            counted = [entry for entry in expected if is_counted(entry)]
            if len(counted) > limit:
                expected.remove(counted[0])
    for name, node in nodes.items():
        stored = list(buffer.list_logs_locked(node.operation))
        assert stored == [record for owner, record in expected if owner == name]
    assert len(buffer._order) <= 2 * 17 + 1
    assert buffer.drain_locked() == [record for _, record in records]
    assert buffer.drain_locked() == []


def test_log_buffer_beyond_its_unsent_limit_drops_new_records() -> None:
    """After a tick the buffer accepts records again."""
    node, buffer = _node("a"), LogBuffer(max_unsent=3)
    assert [buffer.add(node, _record(node)) for _ in range(5)] == [True, True, True, False, False]
    assert len(buffer.drain_locked()) == 3
    assert buffer.add(node, _record(node))


def test_records_are_found_and_stay_with_an_ended_operation(recorder: Recorder) -> None:
    """By place, severity, moment and number; after the end as before, and not after the operation was deleted."""
    store = recorder.runtime._store
    with progress.operation("job", id="j") as op, op.level("x", 1) as one, op.level("x", 10) as ten:
        _log(recorder, op)
        recorder.clock.advance(1.0)
        _log(recorder, one, severity=40)
        _log(recorder, ten)
    for _ in range(2):
        assert [record.number for record in store.reader.logs("j")] == [1, 2, 3]
        assert [record.number for record in store.reader.logs("j", LogQuery(path="x:1"))] == [2]
        assert [record.number for record in store.reader.logs("j", LogQuery(severity=30))] == [2]
        assert [
            record.number for record in store.reader.logs("j", LogQuery(since=recorder.clock.wall()))
        ] == [2, 3]
        assert [record.number for record in store.reader.logs("j", LogQuery(after=1, limit=1))] == [3]
        assert store.reader.logs("j", LogQuery(limit=0)) == store.reader.logs("nobody") == []
        recorder.tick()
    assert store.delete("j") == 1
    assert store.reader.logs("j") == []


def test_a_batch_carries_records_once(recorder: Recorder) -> None:
    """The next batch has every new record, also one that was read before; the store is idle after that."""
    store = recorder.runtime._store
    op = progress.operation("job", id="j").start()
    _log(recorder, op)
    assert len(store.reader.logs("j")) == 1
    op.complete()
    assert not store.idle
    assert Counter(record.number for record in store.collect().logs) == {1: 1}
    assert store.collect().logs == []
    assert store.idle
