"""Reads of many operations at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.journal.redis.scripts import MAX_READ_RUNS
from otel_progress.operations import OperationSnapshot
from tests.support.factories import make_change_set, snapshot
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.server

Opener = Callable[..., RedisJournal]


def describe(operations: Sequence[OperationSnapshot]) -> list[object]:
    """Return what both ways of reading have to agree on."""
    return [(each.root, each.resources, each.cancel_requested_at, each.alive) for each in operations]


def test_operations_without_levels_equal_those_with_levels(
    open_another: Opener, redis_server: RedisServer
) -> None:
    """There are more than one call reads. Unknown runs are left out."""
    writer, reader = open_another(), open_another()
    runs = [f"r{number}" for number in range(2 * MAX_READ_RUNS + 3)]
    for number, run in enumerate(runs):
        root = snapshot(run=run, operation_id=f"o{number}", current=number)
        writer.write(make_change_set(root, snapshot("song:1", run=run, operation_id=f"o{number}")))
    assert writer.request_cancel("o7", "enough")
    redis_server.execute("DEL", writer._keys.levels("r5"))
    wanted = ["unknown", *reversed(runs)]
    read = reader._queries.load_operations
    roots, operations = read(wanted, levels=False), read(wanted, levels=True)
    assert [each.run for each in roots] == [run for run in reversed(runs) if run != "r5"]
    assert describe(roots) == describe(operations)
    assert sum(each.cancel_requested_at is not None for each in roots) == 1
    assert {len(each.levels) for each in roots} == {0}
