"""Totals of processes that share an address of /metrics, in every journal."""

from __future__ import annotations

import pytest

from otel_progress.journal import Journal
from otel_progress.records import IDENTITY_SERIES, MERGED_PROCESS, TotalsUpdate
from tests.support.factories import make_change_set
from tests.support.fake_time import FakeTime
from tests.support.journal_openers import Opener

GROUP = "group-1"


def publish(journal: Journal, process: str, group: str = GROUP, **series: str) -> None:
    """Write totals of a process, which the identity makes complete."""
    values = {IDENTITY_SERIES: f"identity of {process}", **series}
    journal.write(make_change_set(totals=TotalsUpdate(group, process, values)))


def test_totals_of_several_processes_are_read_by_group(open_another: Opener) -> None:
    """A later value replaces the earlier one of the same series."""
    first, second = open_another(), open_another()
    publish(first, "p1", a="1", b="2")
    publish(second, "p2", a="10")
    publish(second, "p3", group="other", a="5")
    first.write(make_change_set(totals=TotalsUpdate(GROUP, "p1", {"a": "3"})))
    assert second.read_totals(GROUP) == {
        "p1": {IDENTITY_SERIES: "identity of p1", "a": "3", "b": "2"},
        "p2": {IDENTITY_SERIES: "identity of p2", "a": "10"},
    }
    assert first.read_totals("unknown") == {}


def test_merge_replaces_ended_processes_by_sums(journal: Journal) -> None:
    """Other processes are unchanged. The next merge needs the new version."""
    for process in ("p1", "p2", "p3"):
        publish(journal, process, a="1")
    assert journal.merge_totals(GROUP, ["p1", "p2"], {IDENTITY_SERIES: "1", "a": "2"}, "")
    assert journal.read_totals(GROUP) == {
        MERGED_PROCESS: {IDENTITY_SERIES: "1", "a": "2"},
        "p3": {IDENTITY_SERIES: "identity of p3", "a": "1"},
    }
    assert not journal.merge_totals(GROUP, ["p3"], {IDENTITY_SERIES: "1", "a": "9"}, "")
    assert journal.merge_totals(GROUP, ["p3"], {IDENTITY_SERIES: "2", "a": "3"}, "1")
    assert journal.read_totals(GROUP) == {MERGED_PROCESS: {IDENTITY_SERIES: "2", "a": "3"}}


def test_merge_of_a_missing_process_changes_nothing(journal: Journal) -> None:
    """Another process has merged it already."""
    publish(journal, "p1", a="1")
    before = journal.read_totals(GROUP)
    assert not journal.merge_totals(GROUP, ["p1", "p2"], {IDENTITY_SERIES: "1", "a": "2"}, "")
    assert journal.read_totals(GROUP) == before


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_unused_groups_expire_and_extended_ones_stay(open_another: Opener, fake_time: FakeTime) -> None:
    """A group expires a day after its last change. Redis has a time to live."""
    journal = open_another(retention_s=3_600.0)
    publish(journal, "p1", group="unused", a="1")
    publish(journal, "p1", group="extended", a="1")
    fake_time.pass_(80_000.0)
    assert journal.merge_totals("extended", [], {IDENTITY_SERIES: "0"}, "")
    fake_time.pass_(10_000.0)
    journal.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
    fake_time.pass_(100.0)
    journal.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
    assert journal.read_totals("unused") == {}
    assert set(journal.read_totals("extended")) == {MERGED_PROCESS, "p1"}
