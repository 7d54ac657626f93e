"""Totals of several processes: publication, sums, and merges."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_progress import diagnostics, semconv
from otel_progress.errors import JournalError
from otel_progress.journal import Journal, SqliteJournal
from otel_progress.metrics import shared_totals
from otel_progress.metrics.counters import Totals
from otel_progress.metrics.shared_totals import ProcessGroup, TotalsPublisher
from otel_progress.model import Instance, Status
from otel_progress.processes import current_instance
from otel_progress.records import MERGED_PROCESS, TotalsTable
from tests.support.factories import make_change_set, snapshot

GROUP = "group-1"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that all processes of the test share."""
    with closing(SqliteJournal(tmp_path / "progress.db")) as opened:
        yield opened


@pytest.fixture
def ended_pid() -> int:
    """Id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


class Process:
    """Totals of one process, which it publishes with a change set."""

    def __init__(self, journal: Journal, instance: Instance | None = None) -> None:
        self.journal = journal
        self.totals = Totals()
        self.publisher = TotalsPublisher(self.totals, GROUP, instance or current_instance("web"))
        self.is_stored = True
        self.runs = 0

    def finish(self, count: int = 1, operation_type: str = "job") -> None:
        """Finish operations of 2 s without a write."""
        for _ in range(count):
            self.runs += 1
            run = f"{self.publisher.process}-{self.runs}"
            end = snapshot(
                run=run,
                operation_type=operation_type,
                status=Status.COMPLETED,
                duration_s=2.0,
                trace_id="ab" * 16,
            )
            self.totals.write(make_change_set(end))

    def publish(self) -> int:
        """Write what changed. Return the number of published series."""
        complete = self.publisher.add_totals(make_change_set())
        self.journal.write(complete)
        self.publisher.confirm()
        return 0 if complete.totals is None else len(complete.totals.series)

    def group(self, clock: Callable[[], float] = lambda: 0.0) -> ProcessGroup:
        """Return the reader of this process."""
        return ProcessGroup(self.publisher, self.journal, lambda: self.is_stored, clock=clock)

    def count(self, group: ProcessGroup | None = None) -> float:
        """Return the number of completed operations of all processes."""
        reading = (group or self.group()).read().sum_totals()
        return reading.counters.get(semconv.OPERATIONS_FINISHED, {}).get(("job", "completed"), 0)


def test_sums_include_all_processes(journal: Journal) -> None:
    """Counters, bucket counts and sums are added, and the latest exemplar is kept."""
    first, second = Process(journal), Process(journal)
    for process, count in ((first, 3), (second, 4)):
        process.finish(count)
        process.publish()
    reading = first.group().read()
    assert reading.others == {second.publisher.process.partition(":")[0]}
    assert first.count() == second.count() == 7
    durations = reading.sum_totals().distributions[semconv.OPERATION_DURATION]["job", "completed"]
    assert (sum(durations.counts), durations.sum) == (7, 14.0)
    (example,) = [each for each in durations.examples if each is not None]
    assert example.trace_id == "ab" * 16


def test_publication_contains_only_changed_series(journal: Journal) -> None:
    """After a loss of the journal, everything is published again."""
    process = Process(journal)
    process.finish()
    everything = process.publish()
    assert process.publish() == 0
    process.finish()
    assert 0 < process.publish() < everything
    process.publisher.resend()
    assert process.publish() == everything


def test_failed_write_is_published_again(journal: Journal) -> None:
    """Only a confirmed write counts as published."""
    process = Process(journal)
    process.finish()
    process.publisher.add_totals(make_change_set())
    process.publish()
    assert Process(journal).count() == 1


def test_counts_that_are_not_stored_are_not_served(journal: Journal) -> None:
    """They would disappear if this process were killed."""
    process = Process(journal)
    process.finish()
    process.publish()
    process.finish()
    assert process.count() == 1
    process.is_stored = False
    assert process.count() == 2
    process.is_stored = True
    process.publish()
    assert process.count() == 2


def test_ended_process_keeps_its_counts_and_is_merged_later(journal: Journal, ended_pid: int) -> None:
    """The sum is the same before and after the merge."""
    now = [0.0]
    ended = Process(journal, Instance("ended", ended_pid, current_instance("web").host, "web", 1.0, 1))
    ended.finish(5)
    ended.publish()
    process = Process(journal)
    process.finish()
    process.publish()
    group = process.group(lambda: now[0])
    assert (process.count(group), group.read().others) == (6, {"ended"})
    now[0] += shared_totals.MERGE_AFTER_S + 1
    assert process.count(group) == 6
    assert (process.count(group), group.read().others) == (6, frozenset())
    assert set(journal.read_totals(GROUP)) == {MERGED_PROCESS, process.publisher.process}
    late = Process(journal)
    late.finish(2)
    late.publish()
    assert process.count(group) == late.count() == 8


def test_many_ended_processes_are_merged_at_once(journal: Journal, ended_pid: int) -> None:
    """A program that is started every minute leaves few rows."""
    host = current_instance("web").host
    count = shared_totals.MAX_ENDED_PROCESSES + 10
    for number in range(count):
        ended = Process(journal, Instance(f"ended-{number}", ended_pid, host, "web", 1.0, 1))
        ended.finish()
        ended.publish()
    process = Process(journal)
    group = process.group()
    assert process.count(group) == count
    assert process.count(group) == count
    assert len(journal.read_totals(GROUP)) == shared_totals.MAX_ENDED_PROCESSES + 1


def test_two_readers_that_merge_at_once_count_nothing_twice(journal: Journal, ended_pid: int) -> None:
    """The second merge is rejected, because the version has changed."""
    host = current_instance("web").host
    ended = Process(journal, Instance("ended", ended_pid, host, "web", 1.0, 1))
    ended.finish(5)
    ended.publish()
    now = [0.0]
    groups = [Process(journal).group(lambda: now[0]) for _ in range(2)]
    tables = [group.read().table for group in groups]
    now[0] += shared_totals.MERGE_AFTER_S + 1
    for group, table in zip(groups, tables, strict=True):
        group._maintain(table)
    assert Process(journal).count() == 5


def test_unreadable_journal_keeps_the_last_known_counts(journal: Journal) -> None:
    """Counters do not decrease, and the failure is counted."""

    class Failing:
        """Storage that can be switched off."""

        is_failing = False

        def read_totals(self, group: str) -> TotalsTable:
            if self.is_failing:
                msg = "the disk is gone"
                raise JournalError(msg)
            return journal.read_totals(group)

        merge_totals = journal.merge_totals

    other, process, storage = Process(journal), Process(journal), Failing()
    other.finish(3)
    other.publish()
    process.finish(2)
    process.publish()
    group = ProcessGroup(process.publisher, storage, lambda: True)
    assert process.count(group) == 5
    before = diagnostics.internal_error_counts["metrics"]
    storage.is_failing = True
    process.finish()
    assert process.count(group) == 6
    assert diagnostics.internal_error_counts["metrics"] == before + 1
    diagnostics.internal_error_counts["metrics"] = before


def test_invalid_and_unknown_values_are_ignored(journal: Journal) -> None:
    """A newer version may have further metrics."""
    name = shared_totals.encode_series(semconv.OPERATIONS_FINISHED, ("job", "completed"))
    process = Process(journal)
    process.finish(2)
    process.publish()
    for number, series in enumerate(
        ({name: "NaN"}, {name: "-1"}, {name: "true"}, {name: "[1]"}, {name: "x"}, {"x": "1"}, {'["y"]': "1"})
    ):
        update = shared_totals.TotalsUpdate(GROUP, f"other-{number}", {"": "[]", **series})
        journal.write(make_change_set(totals=update))
    assert process.count() == 2


def test_merged_series_are_limited() -> None:
    """Further operation types are combined, and the sum is the same."""
    value = {
        (semconv.OPERATIONS_FINISHED, (f"type-{number}", "completed")): number
        for number in range(shared_totals.MAX_MERGED_SERIES + 7)
    }
    limited = shared_totals._limit(value)
    assert len(limited) == shared_totals.MAX_MERGED_SERIES + 1
    assert sum(limited.values()) == sum(value.values())  # type: ignore[arg-type]


def test_totals_of_a_forked_child_start_at_zero(journal: Journal) -> None:
    """Counts of its parent are those of the parent."""
    process = Process(journal)
    process.finish(3)
    process.publish()
    parent = process.publisher.process
    process.totals.restart()
    process.publisher.restart(current_instance("web"))
    process.finish()
    process.publish()
    assert process.publisher.process != parent
    assert process.count() == 4
