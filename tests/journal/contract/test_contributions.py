"""Contributions of other processes in a journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.journal import Journal
from otel_progress.model import Status
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.records import CancelRequest, Contribution
from tests.support.factories import WALL, ended, instance, make_change_set, snapshot
from tests.support.fake_time import FakeTime


def contribution(
    path: str = "", sequence: int = 1, writer: str = "child/0", **fields: object
) -> Contribution:
    """Return a contribution to the run of the factories."""
    level = snapshot(path, sequence, **{"instance": "child", **fields})
    return Contribution(level, writer, is_share=not path, is_counted=True, is_tracked=bool(path))


def write(journal: Journal, *contributions: Contribution, process: str = "child", at: float = WALL) -> None:
    """Write contributions as another process than the owner."""
    change_set = make_change_set(instance=instance(process), at=at)
    journal.write(replace(change_set, contributions=contributions))


def test_contributions_are_returned_to_the_owner(open_another: Callable[..., Journal]) -> None:
    """All values survive, and parents are before their children."""
    owner, child = open_another(), open_another()
    owner.write(make_change_set(snapshot()))
    part, file = contribution("file:a/part:1", current=2), contribution("file:a", message="half")
    write(child, part, file, contribution(current=3))
    assert list(owner.contributions(["run-1"])) == [contribution(current=3), file, part]
    assert list(owner.contributions(["other"])) == []
    assert list(owner.contributions([])) == []


def test_contributions_change_no_view_of_the_operation(open_another: Callable[..., Journal]) -> None:
    """Only the owner writes levels."""
    owner, child = open_another(), open_another()
    owner.write(make_change_set(snapshot()))
    before = owner.get("friday-42")
    write(child, contribution("file:a"))
    assert owner.get("friday-42") == before
    assert len(owner.active()) == 1


def test_contribution_before_the_operation_is_stored(open_another: Callable[..., Journal]) -> None:
    """The owner may write its operation later."""
    owner, child = open_another(), open_another()
    write(child, contribution(current=1))
    assert not owner.active()
    owner.write(make_change_set(snapshot()))
    (found,) = owner.contributions(["run-1"])
    assert found.level.current == 1
    operation = owner.get("friday-42")
    assert operation is not None
    assert operation.root.info.instance == "instance-1"


def test_newer_contribution_replaces_the_older_one(journal: Journal) -> None:
    """A delayed write of an older one changes nothing. Writers are independent."""
    for sequence in (1, 3, 2):
        write(journal, contribution(sequence=sequence, current=sequence))
    write(journal, contribution(writer="other/0", current=9), process="other")
    found = {each.writer: each.level.current for each in journal.contributions(["run-1"])}
    assert found == {"child/0": 3, "other/0": 9}


def test_dropped_contribution_is_not_returned_again(journal: Journal) -> None:
    """One that was replaced in the meantime stays."""
    old, other = contribution("file:a", 1), contribution("file:b", 1)
    write(journal, old, other)
    write(journal, contribution("file:a", 2))
    journal.drop_contributions([old, other])
    assert list(journal.contributions(["run-1"])) == [contribution("file:a", 2)]


def test_contributions_are_deleted_with_their_operation(journal: Journal) -> None:
    journal.write(make_change_set(ended(status=Status.COMPLETED)))
    write(journal, contribution())
    assert journal.delete("friday-42") == 1
    assert list(journal.contributions(["run-1"])) == []


def test_values_that_cannot_be_stored_are_replaced(journal: Journal) -> None:
    journal.write(make_change_set(snapshot()))
    write(journal, contribution("file:a", message="\ud800", current=2**70))
    (found,) = journal.contributions(["run-1"])
    assert found.level.message == "\\ud800"
    assert found.level.current == float(2**70)


def test_process_that_has_ended_is_found(journal: Journal, fake_time: FakeTime) -> None:
    """A process without a heartbeat is not known to have ended."""
    write(journal, contribution())
    assert list(journal.find_gone_instances(["child", "unknown"])) == []
    fake_time.pass_(UNVERIFIED_TIMEOUT_S + 1)
    write(journal, contribution(writer="other/0"), process="other", at=fake_time.now)
    assert list(journal.find_gone_instances(["child", "other", "unknown"])) == ["child"]


def test_cancel_request_is_returned_by_run(open_another: Callable[..., Journal]) -> None:
    """A process that works on the operation of another one receives it."""
    owner, child = open_another(), open_another()
    owner.write(make_change_set(snapshot(), snapshot(operation_id="o2", run="r2")))
    assert list(child.find_cancel_requests(["run-1", "r2"])) == []
    assert owner.request_cancel("friday-42", "too slow") is True
    (found,) = child.find_cancel_requests(["run-1", "r2"])
    assert (found.run, found.reason, found.at) == ("run-1", "too slow", WALL)
    assert isinstance(found, CancelRequest)


@pytest.mark.parametrize("limit", [3])
def test_contributions_beyond_the_limit_are_dropped_and_counted(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, limit: int, backend: str
) -> None:
    from otel_progress.journal.redis import contributions as redis_contributions
    from otel_progress.journal.sqlite import contributions as sqlite_contributions

    monkeypatch.setattr(sqlite_contributions, "MAX_CONTRIBUTIONS_PER_OPERATION", limit)
    monkeypatch.setattr(redis_contributions, "MAX_CONTRIBUTIONS_PER_RUN", limit)
    journal.write(make_change_set(snapshot()))
    before = journal.dropped
    write(journal, *(contribution(f"file:{number}") for number in range(limit + 2)))
    assert len(journal.contributions(["run-1"])) == limit
    assert journal.dropped - before == 2, backend
