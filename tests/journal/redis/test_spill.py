"""Ended operations that wait in files of this machine while the server is down."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.ends import encode_end
from otel_progress.journal import open_journal
from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.journal.spill import SpillFile, list_segments
from otel_progress.model import LevelSnapshot, Status
from otel_progress.protocols import HistoryQuery
from otel_progress.runtime.sink_worker import PendingLimits
from otel_progress.testing import CountingIds, recording
from tests.support.factories import batch_info, ended, local_instance, make_change_set, snapshot
from tests.support.redis_servers import RedisServer
from tests.support.servers import poll

pytestmark = pytest.mark.server

DEAD_PID = 2**22 + 1
"""Process id above the largest one of Linux."""
COUNT = 60
FLUSH_S = 60.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Path next to which ended operations wait."""
    return tmp_path / "state" / "redis-1"


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for the state of programs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "otel-progress"


def end(number: int, **fields: object) -> LevelSnapshot:
    """Return an operation of a dead process that has ended."""
    names = {"operation_id": f"o{number}", "run": f"run-{number}", "id": f"o{number}"}
    return ended(instance=f"local-{DEAD_PID}", **names, **fields)


def find_stored(journal: RedisJournal) -> set[str]:
    """Return the ids of all ended operations."""
    return {one.operation_id for one in journal.history(HistoryQuery(limit=10_000))}


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> PendingLimits:
    """Limits of waiting operations that a test can exceed."""
    limits = PendingLimits(ends=10, unspilled_ends=20, ends_per_write=7)
    monkeypatch.setattr("otel_progress.runtime.sink_worker.PendingLimits", lambda: limits)
    return limits


@pytest.mark.usefixtures("small_limits")
def test_ends_beyond_the_limit_in_an_outage_are_stored_after_it(
    own_server: RedisServer, state_folder: Path
) -> None:
    """More operations end than fit into the memory. No file is left."""
    with recording(store=own_server.url) as recorder:
        with progress.operation("job", id="before"):
            assert recorder.runtime.force_flush(FLUSH_S)
        own_server.kill()
        for number in range(COUNT):
            with progress.operation("job", id=f"o{number}"):
                pass
            recorder.tick()
        assert list(state_folder.glob("redis-*-ends-*"))
        own_server.start()
        poll(lambda: recorder.runtime.force_flush(FLUSH_S), FLUSH_S, what="the end of the outage")
    journal = open_journal(own_server.url, read_only=True)
    found = {one.operation_id for one in journal.history(HistoryQuery(limit=1_000))}
    journal.close()
    assert found >= {f"o{number}" for number in range(COUNT)}
    assert not list(state_folder.glob("redis-*-ends-*"))


@pytest.mark.usefixtures("small_limits")
def test_ends_of_a_process_that_exits_in_an_outage_are_stored_by_the_next_one(
    own_server: RedisServer, state_folder: Path
) -> None:
    ids = CountingIds()  # No two operations may have one run.
    with recording(store=own_server.url, ids=ids) as recorder:
        own_server.kill()
        for number in range(COUNT):
            with progress.operation("job", id=f"o{number}"):
                pass
            recorder.tick()
        recorder.runtime.shutdown(1.0)
    assert list(state_folder.glob("redis-*-ends-*"))
    own_server.start()
    with recording(store=own_server.url, ids=ids) as recorder, progress.operation("job", id="later"):
        assert recorder.runtime.force_flush(FLUSH_S)
    journal = open_journal(own_server.url, read_only=True)
    found = {one.operation_id for one in journal.history(HistoryQuery(limit=1_000))}
    journal.close()
    assert found >= {f"o{number}" for number in range(COUNT)}
    assert not list(state_folder.glob("redis-*-ends-*"))


def test_journal_stores_the_ends_of_a_dead_process_once(
    open_real: Callable[..., RedisJournal], base: Path
) -> None:
    """A process that has stored them already does not change, and is not alive again."""
    spill_file = SpillFile(base, local_instance(DEAD_PID), "journal", max_segment_bytes=1_000)
    statuses = [Status.FAILED if number == 3 else Status.COMPLETED for number in range(9)]
    ends = [end(number, batch="b", status=status) for number, status in enumerate(statuses)]
    spill_file.append([encode_end(each) for each in ends])
    count = len(list_segments(base))
    assert count > 1
    control = open_real()
    control.write(
        make_change_set(
            snapshot(instance=f"local-{DEAD_PID}", operation_id="o1", run="run-1", id="o1", batch="b"),
            batches=[batch_info("b", total=9)],
            instance=local_instance(DEAD_PID),
        )
    )
    before = control.get("o1")
    assert before is not None
    assert not before.alive
    journal = open_real(spill_base=base)
    for _ in range(count):
        journal.write(make_change_set())
    assert find_stored(journal) == {f"o{number}" for number in range(9)}
    assert list_segments(base) == []
    batch = journal.batch("b")
    assert batch is not None
    assert (batch.finished_count, batch.counts[Status.FAILED], batch.counts[Status.RUNNING]) == (9, 1, 0)
    assert (batch.status, batch.name) == (Status.FAILED, "Name of b")


def test_files_of_a_live_process_stay(open_real: Callable[..., RedisJournal], base: Path) -> None:
    spill_file = SpillFile(base, local_instance(os.getppid()), "journal")
    spill_file.append([encode_end(end(1))])
    journal = open_real(spill_base=base)
    journal.write(make_change_set())
    journal.close()
    assert len(list_segments(base)) == 1
