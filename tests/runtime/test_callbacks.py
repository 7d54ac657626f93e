"""Callbacks: order, coalescing, limits and isolation from failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import ConfigurationError, OperationSnapshot, semconv
from otel_progress.protocols import ChangeSet
from otel_progress.runtime import callbacks as callbacks_module
from otel_progress.runtime.callbacks import Callbacks
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.testing import Recorder, recording, wait_until

PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""


class CallRecorder:
    """Callback that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, OperationSnapshot]] = []

    def __call__(self, event: str, operation: OperationSnapshot) -> None:
        """Record a call."""
        self.calls.append((event, operation))

    @property
    def events(self) -> list[str]:
        """Events in the order of the calls."""
        return [event for event, _ in self.calls]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Event to wait for. It is set after the test, so that no thread remains."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (lambda op: op.complete(), "completed"),
        (lambda op: op.fail("x"), "failed"),
        (lambda op: op.cancel(), "cancelled"),
        (lambda op: op.skip(), "skipped"),
    ],
)
def test_callback_receives_start_and_end_of_each_operation(
    recorder: Recorder, end: Callable[[progress.Level], None], event: str
) -> None:
    """The operation is as it was then, including its levels."""
    recorded = CallRecorder()
    progress.add_callback(recorded)
    op = progress.operation("o", id="o", total=1).start()
    op.level("x", 1).start().complete()
    end(op)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorded.events == ["started", event]
    started, ended = (operation for _, operation in recorded.calls)
    assert (started.status.value, started.levels) == ("running", [])
    assert (ended.status.value, [level.path for level in ended.levels]) == (event, ["x:1"])


def test_updates_within_an_interval_are_coalesced(recorder: Recorder) -> None:
    """The newest update is delivered. The end is delivered immediately and last."""
    recorded = CallRecorder()
    progress.add_callback(recorded, interval=3600.0)
    with progress.operation("o", id="o", total=100) as op:
        op.increment()
        recorder.tick()
        wait_until(lambda: "updated" in recorded.events, PATIENCE_S)
        for _ in range(50):
            op.increment()
            recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorded.events == ["started", "updated", "updated", "completed"]
    assert [operation.root.current for _, operation in recorded.calls] == [0, 1, 51, 51]


def test_first_update_is_delivered_immediately_after_boot(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock may have started less than an interval ago."""
    recorded, booted = CallRecorder(), time.monotonic()
    monkeypatch.setattr(
        callbacks_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() - booted)
    )
    progress.add_callback(recorded, interval=3600.0)
    with progress.operation("o", total=2) as op:
        op.increment()
        recorder.tick()
        wait_until(lambda: "updated" in recorded.events, PATIENCE_S)


def test_ticks_without_changes_call_no_callback(recorder: Recorder) -> None:
    """The callback receives the same number of calls afterwards."""
    recorded = CallRecorder()
    progress.add_callback(recorded, interval=0.001)
    with progress.operation("o"):
        recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
        count = len(recorded.calls)
        for _ in range(10):
            recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
        assert len(recorded.calls) == count


def test_update_submitted_after_the_end_is_not_delivered(recorder: Recorder) -> None:
    """The update and the end may come from different threads."""
    recorded = CallRecorder()
    progress.add_callback(recorded)
    op = progress.operation("o").start()
    running = recorder.runtime._store.reader.get_operation(op._node)
    op.complete()
    recorder.runtime._callbacks.submit("updated", running)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorded.events == ["started", "completed"]


class Sink:
    """Sink that records the status of each snapshot."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.closed = False

    def write(self, change_set: ChangeSet) -> None:
        """Record a change set."""
        self.written.extend(snapshot.status.value for snapshot in change_set.snapshots)

    def close(self) -> None:
        """Record the call."""
        self.closed = True


def test_hanging_callback_delays_no_operation_tick_sink_or_other_callback(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shutdown returns False."""
    recorded, hanging, sink = CallRecorder(), threading.Event(), Sink()

    def hang(_event: str, _operation: OperationSnapshot) -> None:
        hanging.set()
        release.wait()

    with recording() as recorder:
        recorder.runtime._sink_workers.append(SinkWorker("recorder", sink))
        progress.add_callback(hang)
        progress.add_callback(recorded)
        with progress.operation("o"):
            assert hanging.wait(PATIENCE_S)
            recorder.tick()
        wait_until(lambda: recorded.events[-1:] == ["completed"], PATIENCE_S)
        # The last tick is that of the shutdown.
        assert sink.written[-1:] != ["completed"]
        flush = recorder.runtime._callbacks.flush

        def give_up(_timeout: float) -> bool:
            # The sink is written while the shutdown waits for the callbacks.
            wait_until(lambda: sink.written[-1:] == ["completed"], PATIENCE_S)
            return flush(0.01)

        monkeypatch.setattr(recorder.runtime._callbacks, "flush", give_up)
        assert recorder.runtime.shutdown(PATIENCE_S) is False
    assert sink.closed


def test_shutdown_with_hanging_callback_still_writes_and_closes_sinks(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sink has a minimum time after the time limit."""
    sink = Sink()
    worker = SinkWorker("recorder", sink)
    # Without a thread, the shutdown itself writes after the callbacks.
    monkeypatch.setattr(worker, "_start_thread", lambda: None)
    with recording() as recorder:
        recorder.runtime._sink_workers.append(worker)
        progress.add_callback(lambda _event, _operation: release.wait())
        with progress.operation("o"):
            pass
        assert recorder.runtime.shutdown(0.01) is False
    assert (sink.written[-1:], sink.closed) == (["completed"], True)


def test_callback_queue_beyond_its_limit_drops_and_counts(
    recorder: Recorder, release: threading.Event
) -> None:
    """The oldest starts and ends are dropped."""
    hanging = threading.Event()

    def hang(_event: str, _operation: OperationSnapshot) -> None:
        hanging.set()
        release.wait()

    recorder.runtime._callbacks.add(hang, 0.1, max_waiting=50)
    progress.operation("first").start().complete()
    assert hanging.wait(PATIENCE_S)
    for _ in range(50):
        progress.operation("o").start().complete()
    dropped = recorder.runtime._totals.read().counters[semconv.EVENTS_DROPPED]
    assert dropped["callback",] == 51


def test_callback_that_removes_itself_is_not_called_again(recorder: Recorder) -> None:
    """Removing an unknown callback is ignored."""
    calls = []

    def remove_itself(event: str, _operation: OperationSnapshot) -> None:
        calls.append(event)
        progress.remove_callback(remove_itself)

    progress.add_callback(remove_itself)
    with progress.operation("o"):
        wait_until(lambda: calls, PATIENCE_S)
    progress.remove_callback(remove_itself)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert calls == ["started"]


def test_callback_added_again_is_called_once_per_event(recorder: Recorder) -> None:
    """The last interval counts."""
    recorded = CallRecorder()
    for interval in (0.1, 5.0, 0.2):
        progress.add_callback(recorded, interval)
    with progress.operation("o"):
        pass
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorded.events == ["started", "completed"]


def test_callback_may_query_and_start_operations(recorder: Recorder) -> None:
    """It runs without a lock of the runtime."""
    operations = []

    def query_and_start(_event: str, operation: OperationSnapshot) -> None:
        if operation.operation_type == "o":
            operations.append(progress.get_operation("o"))
            with progress.operation("inner"):
                pass

    progress.add_callback(query_and_start)
    with progress.operation("o", id="o"):
        pass
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert all(operations)
    assert len(progress.get_history("inner")) == 2


@pytest.mark.parametrize("interval", [-1, float("nan"), float("inf"), "often", None])
def test_add_callback_with_invalid_interval_is_rejected(recorder: Recorder, interval: Any) -> None:
    """No callback is added."""
    with pytest.raises(ConfigurationError, match=r"^Invalid interval"):
        progress.add_callback(CallRecorder(), interval)
    assert not recorder.runtime._callbacks


@pytest.mark.usefixtures("recorder")
def test_add_callback_with_invalid_callback_is_rejected() -> None:
    """The error names the type."""
    with pytest.raises(ConfigurationError, match=r"^Invalid callback of type str"):
        progress.add_callback("print")  # type: ignore[arg-type]


def test_callbacks_after_shutdown_receive_nothing() -> None:
    """The shutdown removes all callbacks."""
    recorded = CallRecorder()
    with recording() as recorder:
        recorder.runtime.add_callback(recorded)
        callbacks: Callbacks = recorder.runtime._callbacks
    assert not callbacks
    assert recorded.events == []
