"""Files of ended operations next to a journal: their queue, and their recovery."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from otel_progress.diagnostics import internal_error_counts
from otel_progress.ends import encode_end
from otel_progress.errors import JournalError
from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.spill import SpillFile, list_segments
from otel_progress.journal.spilled_ends import RECOVERY_INTERVAL_S
from otel_progress.model import LevelSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S, current_instance
from otel_progress.protocols import HistoryQuery
from tests.support.factories import WALL, ended, instance, local_instance, make_change_set
from tests.support.fake_time import FakeTime

Opener = Callable[..., Journal]

DEAD_PID = 2**22 + 1
"""Process id above the largest one of Linux."""


def end(number: int) -> LevelSnapshot:
    """Return an operation that has ended."""
    found = ended()
    info = replace(found.info, run=f"run-{number}", operation_id=f"o{number}", id=f"o{number}")
    return replace(found, info=info)


def records(*numbers: int) -> list[bytes]:
    """Return the records of ended operations."""
    return [encode_end(end(number)) for number in numbers]


def read_all(spill_file: SpillFile, at_once: int = 3) -> list[bytes]:
    """Return and remove all records."""
    found: list[bytes] = []
    while len(spill_file):
        found += spill_file.read(at_once)
        spill_file.remove_read()
    return found


def find_stored(journal: SqliteJournal) -> set[str]:
    """Return the ids of all ended operations."""
    return {one.root.info.operation_id for one in journal.history(HistoryQuery(limit=10_000))}


@pytest.fixture
def spill_file(path: Path) -> SpillFile:
    """A queue with small files."""
    return SpillFile(path, local_instance(DEAD_PID), "journal", max_segment_bytes=1_000)


def test_spill_file_returns_records_in_order_and_removes_its_files(spill_file: SpillFile, path: Path) -> None:
    """Records may be appended between two reads."""
    assert spill_file.append(records(*range(10))) == 10
    assert len(list_segments(path)) > 1
    first = spill_file.read(4)
    assert spill_file.append(records(10)) == 1
    assert spill_file.read(4) == first, "nothing was removed"
    spill_file.remove_read()
    assert first + read_all(spill_file) == records(*range(11))
    assert list_segments(path) == []
    assert spill_file.append(records(11)) == 1
    assert read_all(spill_file) == records(11)
    assert spill_file.lost == 0


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_spill_file_is_private(spill_file: SpillFile, path: Path) -> None:
    """Messages and metadata may be confidential."""
    spill_file.append(records(1))
    (segment,) = list_segments(path)
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600


def test_spill_file_beyond_its_size_limit_stores_the_first_records_only(path: Path) -> None:
    """The caller learns how many of them."""
    spill_file = SpillFile(path, instance(), "tick", max_bytes=3_000, max_segment_bytes=1_000)
    stored = spill_file.append(records(*range(100)))
    assert 3 <= stored < 20
    assert sum(segment.stat().st_size for segment in list_segments(path)) < 4_500
    assert spill_file.append(records(100)) == 0
    assert read_all(spill_file) == records(*range(stored))


def test_spill_file_that_another_program_removed_counts_its_records_as_lost(
    spill_file: SpillFile, path: Path
) -> None:
    """Later records are stored in a new file."""
    assert spill_file.append(records(1, 2)) == 2
    (segment,) = list_segments(path)
    segment.unlink()
    assert spill_file.append(records(3)) == 1
    assert read_all(spill_file) == records(3)
    assert spill_file.lost == 2


def test_spill_file_replaced_by_another_file_is_not_changed(spill_file: SpillFile, path: Path) -> None:
    """Neither reads nor writes nor the removal use the other file."""
    spill_file.append(records(1))
    (segment,) = list_segments(path)
    segment.rename(path.with_name("moved"))
    segment.write_text("of another program")
    assert spill_file.read(10) == []
    assert spill_file.append(records(2)) == 1
    assert read_all(spill_file) == records(2)
    assert segment.read_text() == "of another program"


def test_spill_file_without_a_writable_directory_stores_nothing(tmp_path: Path) -> None:
    """The error is reported, not raised."""
    (tmp_path / "file").write_text("")
    spill_file = SpillFile(tmp_path / "file" / "progress.db", instance(), "tick")
    before = internal_error_counts["journal"]
    assert spill_file.append(records(1)) == 0
    assert internal_error_counts["journal"] == before + 1
    assert len(spill_file) == 0


def test_spill_file_after_restart_leaves_the_files_of_the_parent(spill_file: SpillFile, path: Path) -> None:
    """A forked child has a queue of its own."""
    spill_file.append(records(1))
    child = SpillFile(path, local_instance(DEAD_PID), "journal")
    child.restart(local_instance(DEAD_PID + 1))
    assert len(child) == 0
    child.append(records(2))
    assert read_all(child) == records(2)
    assert read_all(spill_file) == records(1)


def test_journal_stores_the_ends_of_a_dead_process_and_removes_its_files(
    open_another: Opener, spill_file: SpillFile, path: Path
) -> None:
    """Each write stores one file."""
    spill_file.append(records(*range(10)))
    count = len(list_segments(path))
    journal = open_another()
    for _ in range(count):
        journal.write(make_change_set())
    assert find_stored(journal) == {f"o{number}" for number in range(10)}
    assert list_segments(path) == []
    found = journal.get("o3")
    assert found is not None
    assert (found.root.status, found.root.duration_s) == (end(3).status, end(3).duration_s)


def test_journal_leaves_the_files_of_a_living_process(
    open_another: Opener, path: Path, fake_time: FakeTime
) -> None:
    """They are stored after its end, at the next search."""
    living = SpillFile(path, current_instance("job"), "tick")
    living.append(records(1))
    journal = open_another()
    journal.write(make_change_set())
    assert find_stored(journal) == set()
    living.close()
    journal.write(make_change_set())
    assert find_stored(journal) == set()
    fake_time.pass_(RECOVERY_INTERVAL_S + 1.0)
    journal.write(make_change_set())
    assert find_stored(journal) == {"o1"}


def test_second_queue_of_a_process_keeps_the_files_of_the_first(open_another: Opener, path: Path) -> None:
    """A journal stores what the closed one left. Both have the id of the process."""
    owner = current_instance("job")
    first, second = SpillFile(path, owner, "tick"), SpillFile(path, owner, "tick")
    first.append(records(1))
    first.close()
    assert second.append(records(2)) == 1
    journal = open_another()
    journal.write(make_change_set())
    journal.write(make_change_set())
    assert find_stored(journal) == {"o1"}
    assert read_all(second) == records(2)


def test_journal_leaves_the_files_of_another_host_until_its_heartbeat_is_old(
    open_another: Opener, path: Path, fake_time: FakeTime
) -> None:
    """Its process cannot be checked."""
    owner = instance("remote")
    SpillFile(path, owner, "tick").append(records(1))
    os.utime(list_segments(path)[0], (WALL, WALL))
    journal = open_another()
    journal.write(make_change_set(instance=owner))
    assert find_stored(journal) == set()
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1.0)
    journal.write(make_change_set(instance=instance("other")))
    assert find_stored(journal) == {"o1"}


@pytest.mark.parametrize("torn", [1, 100], ids=["line end", "text"])
def test_journal_skips_damaged_and_torn_records(
    open_another: Opener, spill_file: SpillFile, path: Path, torn: int
) -> None:
    """A changed byte fails the checksum, and a torn tail has no line end."""
    spill_file.append(records(1, 2, 3))
    (segment,) = list_segments(path)
    content = segment.read_bytes()
    position = content.index(b'"o2"')
    damaged = content[:position] + b'"o9"' + content[position + 4 :]
    segment.write_bytes(damaged[:-torn])
    before = internal_error_counts["journal"]
    journal = open_another()
    journal.write(make_change_set())
    assert find_stored(journal) == {"o1"}
    assert internal_error_counts["journal"] == before + 1
    assert list_segments(path) == []


def test_journal_ignores_foreign_and_incomplete_files(
    open_another: Opener, path: Path, fake_time: FakeTime
) -> None:
    """A file whose header is incomplete has no record, so it is removed later."""
    path.parent.mkdir(parents=True)
    foreign, torn = (path.with_name(f"{path.name}-ends-{name}") for name in ("a", "b"))
    foreign.write_text("of another program\n")
    torn.write_text("otel-progress ends 1 {")
    for each in (foreign, torn):
        os.utime(each, (WALL, WALL))
    path.with_name(f"{path.name}-ends-c").mkdir()
    journal = open_another()
    journal.write(make_change_set())
    assert torn.exists()
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1.0)
    journal.write(make_change_set())
    assert not torn.exists()
    assert foreign.read_text() == "of another program\n"


def test_ends_that_are_stored_twice_change_nothing(
    open_another: Opener, spill_file: SpillFile, path: Path, fake_time: FakeTime
) -> None:
    """A process may have ended after the write and before the removal of the file."""
    journal = open_another()
    journal.write(make_change_set(end(1)))
    stored = journal.get("o1")
    spill_file.append(records(1))
    fake_time.pass_(RECOVERY_INTERVAL_S + 1.0)
    journal.write(make_change_set())
    assert list_segments(path) == []
    found = journal.get("o1")
    assert found is not None
    assert stored is not None
    assert found.root == stored.root
    assert len(journal.history()) == 1


def test_file_in_an_unwritable_folder_is_a_warning_with_the_cause_of_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sink of the journal logs that cause as well, and one cause is logged once."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    journal = tmp_path / "file" / "p.db"
    assert SpillFile(journal, local_instance(os.getpid()), "journal").append(records(1)) == 0
    (record,) = caplog.records
    assert record.exc_info is None
    assert len(record.getMessage().splitlines()) == 2
    with pytest.raises(JournalError) as caught:
        SqliteJournal(journal).write(make_change_set(ended()))
    assert str(caught.value) == record.getMessage().splitlines()[1]
