"""Pollers that the ticker calls, and levels that start after their work."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress.diagnostics import internal_error_counts
from otel_progress.instrument import pollers
from otel_progress.instrument.arguments import LevelArguments
from otel_progress.instrument.late_levels import (
    capture_origin,
    start_late_level,
    write_figures,
    write_texts,
)
from otel_progress.testing import FakeClock, Recorder, recording, wait_until
from tests.support.forks import needs_fork, run_in_child


class CountingPoller:
    """Poller that counts its calls."""

    def __init__(self) -> None:
        self.is_active = True
        self.calls = 0

    def poll(self) -> None:
        """Count the call."""
        self.calls += 1


class FailingPoller(CountingPoller):
    """Poller that raises."""

    def poll(self) -> None:
        """Raise an error."""
        super().poll()
        raise RuntimeError("broken")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pollers._pollers, "registered", ())


def test_poller_is_called_once_per_tick_while_it_is_active(recorder: Recorder) -> None:
    poller = CountingPoller()
    pollers.add_poller(poller)
    pollers.add_poller(poller)
    recorder.tick()
    recorder.tick()
    assert poller.calls == 2
    poller.is_active = False
    recorder.tick()
    assert poller.calls == 2


def test_failing_poller_is_reported_and_does_not_disturb_others(recorder: Recorder) -> None:
    failing, counting = FailingPoller(), CountingPoller()
    pollers.add_poller(failing)
    pollers.add_poller(counting)
    recorder.tick()
    assert (failing.calls, counting.calls) == (1, 1)
    assert internal_error_counts["integration"] == 1


def test_active_poller_wakes_a_new_runtime_and_an_inactive_one_lets_it_sleep() -> None:
    poller = CountingPoller()
    pollers.add_poller(poller)
    for _ in range(2):
        poller.is_active, poller.calls = True, 0
        with progress.configure(store="memory:", console=False, otlp=False, tick=0.01) as runtime:
            wait_until(lambda: poller.calls > 3)
            poller.is_active = False
            wait_until(lambda: runtime._ticker._is_asleep)


@needs_fork
def test_forked_child_polls_after_the_poller_woke_its_ticker() -> None:
    poller = CountingPoller()
    pollers.add_poller(poller)
    with recording(ticking=True, clock=FakeClock()) as recorder:

        def child() -> None:
            poller.calls = 0
            recorder.runtime._store.notify_change()
            wait_until(lambda: poller.calls > 1)

        assert run_in_child(child) == 0
        poller.is_active = False


def test_late_level_starts_in_the_past_but_not_before_its_parent(recorder: Recorder) -> None:
    recorder.clock.advance(100.0)
    with progress.operation("job", id="job"):
        origin = capture_origin(())
        recorder.clock.advance(10.0)
    with progress.operation("job", id="other") as operation:
        recorder.clock.advance(3.0)
        arguments = LevelArguments("level", "late", name="work", unit="row")
        late = start_late_level(arguments, origin, operation, age_s=60.0, resumed=4)
        assert late is not None
        write_figures(late, 10, 8)
        write_texts(late, "text", {"loss": 0.5})
        snapshot = late.snapshot()
        assert snapshot.elapsed(recorder.clock.monotonic()) == pytest.approx(3.0)
        assert (snapshot.current, snapshot.total, snapshot.resumed_from) == (10, None, 4)
        assert (snapshot.message, dict(snapshot.metadata)) == ("text", {"loss": 0.5})
        late.complete()
        write_figures(late, 3, 4)
        write_texts(late, "too late", {})
        assert (late.snapshot().current, late.snapshot().message) == (10, "text")


@pytest.mark.usefixtures("recorder")
def test_late_level_of_an_ended_parent_is_an_operation() -> None:
    with progress.operation("job", id="job"):
        origin = capture_origin(())
    late = start_late_level(LevelArguments("level", "late"), origin, None, age_s=5.0)
    assert late is not None
    assert late.path == ""
    late.complete()
