"""Waits of a start that continues a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.errors import JournalError, OperationRunningError, UnavailableError
from otel_progress.journal.claims import ClaimBusyError
from otel_progress.journal.redis.resumption import CLAIM_LEASE_S
from otel_progress.resumption import ResumedWork, RunClaim
from otel_progress.runtime.resumption import MAX_JOURNAL_WAIT_S, MAX_OWNER_WAIT_S, JournalResumer
from otel_progress.testing import Recorder, recording


class _Storage:
    """Storage whose claims fail as planned. Waits advance its clock."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.now = 0.0
        self.claims = 0

    def sleep(self, seconds: float) -> None:
        """Advance the clock of the waits."""
        self.now += seconds

    def claim_run(self, claim: RunClaim) -> ResumedWork | None:
        """Raise the error of the moment, or return None."""
        self.claims += 1
        error = self.plan(self.now)
        if error is not None:
            raise error
        assert claim.root.info.operation_id == "nightly"
        return None

    def take_superseded_runs(self) -> Mapping[str, str]:
        """Return nothing."""
        return {}


def _use(recorder: Recorder, plan: Any, *, is_strict: bool = False) -> _Storage:
    storage = _Storage(plan)
    runtime = recorder.runtime
    runtime._recording.resumer = JournalResumer(
        runtime._store,
        runtime._ticker,
        storage,
        lambda: None,
        is_strict=is_strict,
        sleep=storage.sleep,
        clock=lambda: storage.now,
    )
    return storage


def _start() -> progress.Level:
    return progress.operation("job", id="nightly", resume=True).start()


def _make_owner(retry_after_s: float | None, heartbeat_at: float) -> OperationRunningError:
    error = OperationRunningError("it runs")
    error.retry_after_s, error.heartbeat_at = retry_after_s, heartbeat_at
    return error


def _make_busy_error() -> JournalError:
    error = JournalError("locked")
    error.is_temporary = True
    return error


def test_start_waits_until_a_silent_process_is_dead(recorder: Recorder) -> None:
    """Readings of its last heartbeat differ slightly."""
    storage = _use(
        recorder, lambda now: _make_owner(15.0 - now, 100.0 + 0.01 * (now % 2)) if now < 15.0 else None
    )
    level = _start()
    assert level.operation_id == "nightly"
    assert 15.0 <= storage.now < 17.0
    level.complete()


def test_start_is_rejected_at_the_next_heartbeat(recorder: Recorder) -> None:
    """The process is alive."""
    storage = _use(recorder, lambda now: _make_owner(15.0, 100.0 + now // 1.0))
    with pytest.raises(OperationRunningError):
        _start()
    assert storage.now < 3.0
    assert recorder.runtime.get_active_operations() == []


@pytest.mark.parametrize("retry_after_s", [None, MAX_OWNER_WAIT_S + 1])
def test_start_does_not_wait_for_a_process_that_stays_alive(
    recorder: Recorder, retry_after_s: float | None
) -> None:
    """It exists, or it counts as alive for too long."""
    storage = _use(recorder, lambda now: _make_owner(retry_after_s, 100.0 - 0 * now))
    with pytest.raises(OperationRunningError):
        _start()
    assert (storage.now, storage.claims) == (0.0, 1)


def test_start_waits_for_a_busy_journal(recorder: Recorder) -> None:
    """Another process may start an operation."""
    storage = _use(recorder, lambda now: _make_busy_error() if now < 1.0 else None)
    _start().complete()
    assert 1.0 <= storage.now < 1.5


def test_start_that_waited_for_a_dead_process_waits_for_a_busy_journal(recorder: Recorder) -> None:
    """Several processes wait for one dead process, and claim its run at the same time."""

    def plan(now: float) -> Exception | None:
        if now < 15.0:
            return _make_owner(15.0 - now, 100.0)
        return _make_busy_error() if now < 17.0 else _make_owner(15.0, 115.0)

    storage = _use(recorder, plan)
    with pytest.raises(OperationRunningError):
        _start()
    assert 17.0 <= storage.now < 18.0


def test_start_waits_for_the_lease_of_a_killed_process(recorder: Recorder) -> None:
    """The process was killed while it continued the run."""
    lease_s = CLAIM_LEASE_S
    storage = _use(recorder, lambda now: ClaimBusyError("busy") if now < lease_s else None)
    level = _start()
    assert level.operation_id == "nightly"
    assert lease_s <= storage.now < lease_s + 1.0
    level.complete()


def test_start_with_a_failing_journal_is_bounded() -> None:
    """The operation starts under another id."""
    with recording(strict=False) as lenient:
        storage = _use(lenient, lambda now: _make_busy_error() if now >= 0 else None)
        level = _start()
        assert level.operation_id.startswith("nightly~")
        assert level.recording
        assert MAX_JOURNAL_WAIT_S <= storage.now < MAX_JOURNAL_WAIT_S + 1.0
        level.complete()


def test_start_with_a_failing_journal_raises_in_strict_mode(recorder: Recorder) -> None:
    """The cause is part of the message."""
    _use(recorder, lambda now: JournalError(f"broken at {now}"), is_strict=True)
    with pytest.raises(UnavailableError, match=r"'nightly' cannot be resumed: broken at 0\.0"):
        _start()


def test_rejected_start_can_be_repeated(recorder: Recorder) -> None:
    """The handle starts when the other process has ended."""
    errors = [_make_owner(None, 1.0)]
    _use(recorder, lambda now: errors.pop() if errors and now >= 0 else None)
    operation = progress.operation("job", id="nightly", resume=True)
    with pytest.raises(OperationRunningError), operation:
        pass
    with operation as op:
        assert op.recording
    assert recorder.operation("nightly").status.value == "completed"
