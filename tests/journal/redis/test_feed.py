"""Watching a Redis journal through its feed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from otel_progress.journal.redis import feed
from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.model import Status
from tests.support.factories import ended, make_change_set, snapshot
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.server

Opener = Callable[..., RedisJournal]


def _list_runs(operations: object) -> list[tuple[str, Status]]:
    return sorted((operation.run, operation.status) for operation in operations)  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost", ["trimmed", "deleted", "ahead"])
def test_watch_after_lost_entries_reads_everything(
    open_another: Opener, redis_server: RedisServer, lost: str
) -> None:
    """Operations that ended, or started and ended, in between are yielded a last time."""
    writer = open_another()
    writer.write(make_change_set(*(snapshot(run=f"r{n}", operation_id=f"o{n}") for n in range(3))))
    watch = open_another().watch()
    assert len(next(watch)) == 3
    writer.write(make_change_set(ended(run="r0", operation_id="o0")))
    writer.write(make_change_set(ended(run="new", operation_id="new")))
    key = writer._keys.feed
    if lost == "trimmed":
        redis_server.execute("XTRIM", key, "MAXLEN", 0)
    elif lost == "deleted":
        redis_server.execute("DEL", key)
    else:
        # The clock of the server went back, so new entries have lower ids than the position.
        redis_server.execute("DEL", key)
        redis_server.execute("XADD", key, "1-1", "v", "3", "r", "[]")
    found = _list_runs(next(watch))
    assert found == [("new", Status.COMPLETED), ("r0", Status.COMPLETED)]
    assert list(next(watch)) == []
    watch.close()  # type: ignore[attr-defined]


def test_watch_of_emptied_server_starts_again(open_another: Opener, redis_server: RedisServer) -> None:
    """The journal has another id then."""
    writer = open_another()
    root = snapshot()
    writer.write(make_change_set(root))
    watch = open_another().watch()
    next(watch)
    redis_server.execute("DEL", *redis_server.connect().keys(f"otelp:{writer._keys.name}:*"))
    assert list(next(watch)) == []
    writer.write(make_change_set(root))
    assert _list_runs(next(watch)) == [("run-1", Status.RUNNING)]
    watch.close()  # type: ignore[attr-defined]


def test_watch_reads_more_entries_than_one_read(
    open_another: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are read at once."""
    monkeypatch.setattr(feed, "MAX_ENTRIES_PER_READ", 3)
    writer = open_another()
    writer.write(make_change_set())
    watch = open_another().watch()
    next(watch)
    for number in range(10):
        writer.write(make_change_set(snapshot(run=f"r{number}", operation_id=f"o{number}")))
    assert len(next(watch)) == 10
    watch.close()  # type: ignore[attr-defined]


def test_idle_watch_is_woken_by_a_change(open_real: Opener) -> None:
    """The control, a watch that only sleeps, needs its whole interval."""
    writer = open_real()
    writer.write(make_change_set(snapshot()))
    seconds = {}
    for kind, options in {"woken": {}, "sleeping": {"sleep": time.sleep}}.items():
        with closing(open_real(**options).watch(interval=3.0)) as watch:  # type: ignore[type-var]
            while next(watch):
                pass
            started = time.monotonic()
            change = make_change_set(snapshot(run=f"new-{kind}", operation_id=kind))
            timer = threading.Timer(0.2, writer.write, [change])
            timer.start()
            while not next(watch):
                pass
            seconds[kind] = time.monotonic() - started
            timer.join()
    assert seconds["woken"] < seconds["sleeping"]
    assert seconds["sleeping"] >= 2.9


def test_constant_values_are_read_once(open_another: Opener, redis_server: RedisServer) -> None:
    """A reader caches them by their digest."""
    writer, reader = open_another(), open_another()
    writer.write(make_change_set(snapshot(), snapshot("song:1")))
    assert reader.get("friday-42") is not None
    redis_server.execute("DEL", writer._keys.infos("run-1"))
    writer.write(make_change_set(snapshot("song:2", sequence=2)))
    found = reader.get("friday-42")
    assert found is not None
    assert {level.path for level in found.levels} == {"song:1", "song:2"}
