"""Poller of the work of other processes, with a store in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from otel_progress.errors import JournalError
from otel_progress.live.node import Node, Spec
from otel_progress.live.store import LiveStore
from otel_progress.model import NO_METADATA, Status
from otel_progress.records import CancelRequest, Contribution
from otel_progress.runtime.contribution_poller import LATE_S, ContributionPoller
from otel_progress.testing import FakeClock, wait_until
from tests.support.factories import instance, snapshot


class Source:
    """Stored contributions of other processes, as a journal has them."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str, str], Contribution] = {}
        self.gone: list[str] = []
        self.error: Exception | None = None
        self.answer: threading.Event | None = None
        self.polls = 0

    def contributions(self, runs: Sequence[str]) -> Sequence[Contribution]:
        """Return what is stored."""
        self.polls += 1
        if self.answer is not None:
            self.answer.wait(60.0)
        if self.error is not None:
            raise self.error
        found = [each for each in self.stored.values() if each.level.info.run in runs]
        return sorted(found, key=lambda each: each.level.info.depth)

    def drop_contributions(self, included: Sequence[Contribution]) -> None:
        """Delete what was not replaced."""
        for each in included:
            if self.stored.get(each.key) == each:
                del self.stored[each.key]

    def find_gone_instances(self, instances: Sequence[str]) -> Sequence[str]:
        """Return the processes that have ended."""
        return [each for each in instances if each in self.gone]

    def find_cancel_requests(self, runs: Sequence[str]) -> Sequence[CancelRequest]:
        """Return nothing."""
        return [CancelRequest(run, "", "", 0.0) for run in runs if not run]


class Shared:
    """A shared operation and its poller."""

    def __init__(self, waits: dict[str, float]) -> None:
        self.clock = FakeClock()
        self.store = LiveStore(instance("owner"), clock=self.clock.monotonic, now=self.clock.wall)
        spec = Spec("job", "j", None, 6, None, 1, None, None, NO_METADATA)
        root = self.store.start_level(None, spec)
        assert root is not None
        self.root: Node = root
        self.store.share_level(root)
        self.source = Source()
        self.dropped: list[int] = []
        self.poller = ContributionPoller(
            self.store, self.source, 60.0, clock=self.clock.monotonic, on_dropped=self.dropped.append, **waits
        )

    def contribute(self, path: str = "", sequence: int = 1, current: int = 0, **fields: object) -> None:
        """Store a contribution of another process."""
        level = snapshot(
            path, sequence, run=self.root.operation.run, current=current, instance="child", **fields
        )
        found = Contribution(level, "child/0", is_share=not path, is_counted=True)
        self.source.stored[found.key] = found

    def count(self) -> float:
        """Return the count of the operation."""
        return self.store.reader.get_level(self.root).current


@pytest.fixture
def waits() -> dict[str, float]:
    """Limits of the waits. Tests replace them by a parameter."""
    return {}


@pytest.fixture
def shared(waits: dict[str, float]) -> Shared:
    """An operation that other processes work on."""
    return Shared(waits)


def test_poll_includes_contributions_and_drops_them_with_the_next_one(shared: Shared) -> None:
    shared.contribute(current=2)
    assert shared.poller.poll() is True
    assert (shared.count(), len(shared.source.stored)) == (2, 1)
    shared.poller.poll()
    assert (shared.count(), len(shared.source.stored)) == (2, 0)


def test_contribution_that_was_replaced_is_not_dropped(shared: Shared) -> None:
    shared.contribute(sequence=1, current=2)
    shared.poller.poll()
    shared.contribute(sequence=2, current=5)
    shared.poller.poll()
    assert (shared.count(), len(shared.source.stored)) == (5, 1)


def test_level_whose_parent_is_unknown_is_not_dropped(shared: Shared) -> None:
    shared.contribute("file:a/part:p")
    for _ in range(2):
        shared.poller.poll()
    assert len(shared.source.stored) == 1
    shared.contribute("file:a")
    shared.poller.poll()
    operation = shared.store.reader.get("j")
    assert operation is not None
    assert [level.path for level in operation.levels] == ["file:a", "file:a/part:p"]


def test_levels_of_ended_processes_are_cancelled_once_per_second(shared: Shared) -> None:
    shared.contribute("file:a")
    shared.poller.poll()
    shared.source.gone = ["child"]
    shared.poller.poll()
    operation = shared.store.reader.get("j")
    assert operation is not None
    assert operation.levels[0].status is Status.RUNNING
    shared.clock.advance(1.0)
    shared.poller.poll()
    operation = shared.store.reader.get("j")
    assert operation is not None
    assert operation.levels[0].status is Status.CANCELLED


def test_dropped_contributions_are_counted(shared: Shared) -> None:
    shared.contribute("missing:a/file:b")
    shared.store.end_level(shared.root, Status.COMPLETED)
    shared.contribute("file:a")
    shared.poller.poll()
    assert shared.dropped == [1]


@pytest.mark.parametrize("waits", [{"end_wait_s": 60.0}])
def test_end_of_a_shared_level_waits_for_a_poll_that_starts_later(shared: Shared) -> None:
    """A poll that runs may have read the store before."""
    shared.source.answer = threading.Event()
    shared.poller.wake()
    shared.poller._request.set()
    wait_until(lambda: shared.source.polls == 1)
    waiting = threading.Thread(target=shared.poller.wait_for_end, args=(shared.root,))
    waiting.start()
    shared.contribute(current=6)
    shared.source.answer.set()
    waiting.join(60.0)
    assert shared.source.polls >= 2
    assert shared.count() == 6
    shared.poller.close()


@pytest.mark.parametrize("waits", [{"end_wait_s": 30.0, "incomplete_wait_s": 90.0}])
def test_end_waits_longer_if_the_count_is_below_the_total(shared: Shared) -> None:
    """The last units arrive after the first poll."""
    shared.contribute(sequence=1, current=4)
    waiting = threading.Thread(target=shared.poller.wait_for_end, args=(shared.root,))
    waiting.start()
    wait_until(lambda: shared.count() == 4)
    assert waiting.is_alive()
    shared.contribute(sequence=2, current=6)
    waiting.join(60.0)
    assert not waiting.is_alive()
    assert shared.count() == 6
    shared.poller.close()


@pytest.mark.parametrize("waits", [{"end_wait_s": 600.0}])
def test_end_does_not_wait_for_a_store_that_fails(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    """A temporary error is that of the sink, which reports it."""
    caplog.set_level(logging.WARNING, logger="otel_progress")
    error = JournalError("the server does not answer")
    error.is_temporary = True
    shared.source.error = error
    shared.poller.poll()
    shared.poller.wait_for_end(shared.root)
    assert caplog.records == []
    shared.source.error = None
    shared.contribute(current=6)
    shared.poller.poll()
    assert shared.count() == 6


def test_other_error_is_reported_once(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="otel_progress")
    shared.source.error = JournalError("the file is corrupt, as this test says")
    for _ in range(3):
        shared.poller.poll()
    assert len(caplog.records) == 1


def test_thread_ends_when_no_operation_is_shared(shared: Shared) -> None:
    shared.poller.wake()
    thread = shared.poller._thread
    assert thread is not None
    shared.store.end_level(shared.root, Status.COMPLETED)
    shared.clock.advance(LATE_S + 1.0)
    shared.poller._request.set()
    thread.join(60.0)
    assert not thread.is_alive()
    assert not shared.store.has_shared_operations
