"""Callbacks: told in order, coalesced, and harmless whatever they do."""

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
from otel_progress.runtime import callbacks as mailboxes
from otel_progress.runtime.callbacks import Callbacks
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.testing import Recorder, recording, wait_until

PATIENCE_S = 60.0
"""How long what has to happen may take; on a busy machine a thread can wait for its turn for seconds."""


class Told:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, OperationSnapshot]] = []

    def __call__(self, event: str, operation: OperationSnapshot) -> None:
        """Remember a call."""
        self.calls.append((event, operation))

    @property
    def events(self) -> list[str]:
        """The events, in order."""
        return [event for event, _ in self.calls]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event to hang on; set at the end, so that no thread is left hanging."""
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
def test_start_and_end_are_told(
    recorder: Recorder, end: Callable[[progress.Level], None], event: str
) -> None:
    """Each operation's start and end come with the operation as it was then, levels included."""
    told = Told()
    progress.add_callback(told)
    op = progress.operation("o", id="o", total=1).start()
    op.level("x", 1).start().complete()
    end(op)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert told.events == ["started", event]
    started, ended = (operation for _, operation in told.calls)
    assert (started.status.value, started.levels) == ("running", [])
    assert (ended.status.value, [level.path for level in ended.levels]) == (event, ["x:1"])


def test_updates_are_coalesced(recorder: Recorder) -> None:
    """Many changes within an interval are one update, the newest; an end is told at once and is the last."""
    told = Told()
    progress.add_callback(told, interval=3600.0)
    with progress.operation("o", id="o", total=100) as op:
        op.increment()
        recorder.tick()
        wait_until(lambda: "updated" in told.events, PATIENCE_S)
        for _ in range(50):
            op.increment()
            recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert told.events == ["started", "updated", "updated", "completed"]
    assert [operation.root.current for _, operation in told.calls] == [0, 1, 51, 51]


def test_the_first_update_waits_for_nothing(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the monotonic clock began less than an interval ago, as on a machine that has just been switched on."""
    told, began = Told(), time.monotonic()
    monkeypatch.setattr(mailboxes, "time", SimpleNamespace(monotonic=lambda: time.monotonic() - began))
    progress.add_callback(told, interval=3600.0)
    with progress.operation("o", total=2) as op:
        op.increment()
        recorder.tick()
        wait_until(lambda: "updated" in told.events, PATIENCE_S)


def test_nothing_changed_is_nothing_told(recorder: Recorder) -> None:
    """Ticks without news call nobody."""
    told = Told()
    progress.add_callback(told, interval=0.001)
    with progress.operation("o"):
        recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
        count = len(told.calls)
        for _ in range(10):
            recorder.tick()
        assert recorder.runtime.force_flush(PATIENCE_S)
        assert len(told.calls) == count


def test_an_update_never_follows_the_end(recorder: Recorder) -> None:
    """An update that was on its way when the operation ended is not told after the end."""
    told = Told()
    progress.add_callback(told)
    op = progress.operation("o").start()
    running = recorder.runtime._store.view(op._node)
    op.complete()
    recorder.runtime._callbacks.submit("updated", running)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert told.events == ["started", "completed"]


class Sink:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.closed = False

    def write(self, batch: ChangeSet) -> None:
        """Take a batch."""
        self.written.extend(snapshot.status.value for snapshot in batch.snapshots)

    def close(self) -> None:
        """Take no more."""
        self.closed = True


def test_a_callback_that_hangs(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs delays nobody: not the work, not the ticks, not other callbacks, not what sinks are owed at the end."""
    told, hanging, sink = Told(), threading.Event(), Sink()

    def hang(_event: str, _operation: OperationSnapshot) -> None:
        hanging.set()
        release.wait()

    with recording() as recorder:
        recorder.runtime._sink_workers.append(SinkWorker("beside", sink))
        progress.add_callback(hang)
        progress.add_callback(told)
        with progress.operation("o"):
            assert hanging.wait(PATIENCE_S)
            recorder.tick()
        wait_until(lambda: told.events[-1:] == ["completed"], PATIENCE_S)
        assert sink.written[-1:] != ["completed"]  # the last tick, that of the shutdown, tells
        flush = recorder.runtime._callbacks.flush

        def give_up(_timeout: float) -> bool:
            wait_until(
                lambda: sink.written[-1:] == ["completed"], PATIENCE_S
            )  # while callbacks are waited for
            return flush(0.01)

        monkeypatch.setattr(recorder.runtime._callbacks, "flush", give_up)
        assert recorder.runtime.shutdown(PATIENCE_S) is False
    assert sink.closed


def test_what_sinks_are_owed_is_written_when_no_time_is_left(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback that hangs until the time of a shutdown is over leaves the sinks enough to write what waits and be closed."""
    sink = Sink()
    lane = SinkWorker("beside", sink)
    monkeypatch.setattr(
        lane, "_start", lambda: None
    )  # what waits is written by the shutdown itself, after the callbacks
    with recording() as recorder:
        recorder.runtime._sink_workers.append(lane)
        progress.add_callback(lambda _event, _operation: release.wait())
        with progress.operation("o"):
            pass
        assert recorder.runtime.shutdown(0.01) is False
    assert (sink.written[-1:], sink.closed) == (["completed"], True)


def test_a_mailbox_is_bounded(
    recorder: Recorder, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a callback that hangs only so many starts and ends wait; the rest is counted."""
    monkeypatch.setattr(mailboxes, "MAX_WAITING", 50)
    hanging = threading.Event()

    def hang(_event: str, _operation: OperationSnapshot) -> None:
        hanging.set()
        release.wait()

    progress.add_callback(hang)
    progress.operation("first").start().complete()
    assert hanging.wait(PATIENCE_S)
    for _ in range(50):
        progress.operation("o").start().complete()
    dropped = recorder.runtime._totals.read().counters[semconv.EVENTS_DROPPED]
    assert dropped["callback",] == 51


def test_removing_from_within(recorder: Recorder) -> None:
    """A callback may remove itself, and is not called again; removing a stranger does nothing."""
    calls = []

    def once(event: str, _operation: OperationSnapshot) -> None:
        calls.append(event)
        progress.remove_callback(once)

    progress.add_callback(once)
    with progress.operation("o"):
        wait_until(lambda: calls, PATIENCE_S)
    progress.remove_callback(once)
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert calls == ["started"]


def test_adding_again_changes_the_interval(recorder: Recorder) -> None:
    """One callback is told once, however often it was added."""
    told = Told()
    for interval in (0.1, 5.0, 0.2):
        progress.add_callback(told, interval)
    with progress.operation("o"):
        pass
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert told.events == ["started", "completed"]


def test_a_callback_may_ask_and_begin(recorder: Recorder) -> None:
    """Inside of a callback queries are answered, and operations can be run."""
    answers = []

    def curious(_event: str, operation: OperationSnapshot) -> None:
        if operation.operation_type == "o":
            answers.append(progress.get_operation("o"))
            with progress.operation("inner"):
                pass

    progress.add_callback(curious)
    with progress.operation("o", id="o"):
        pass
    assert recorder.runtime.force_flush(PATIENCE_S)
    assert all(answers)
    assert len(progress.get_history("inner")) == 2


@pytest.mark.parametrize("interval", [-1, float("nan"), float("inf"), "often", None])
def test_intervals_that_cannot_be(recorder: Recorder, interval: Any) -> None:
    """A wrong interval is refused at once, and nothing is added."""
    with pytest.raises(ConfigurationError, match="interval"):
        progress.add_callback(Told(), interval)
    assert not recorder.runtime._callbacks


@pytest.mark.usefixtures("recorder")
def test_what_cannot_be_called() -> None:
    """Something that is no function is refused at once."""
    with pytest.raises(ConfigurationError, match="callable"):
        progress.add_callback("print")  # type: ignore[arg-type]


def test_closed_callbacks_tell_nothing() -> None:
    """After the end nothing is delivered any more."""
    told = Told()
    with recording() as recorder:
        recorder.runtime.add_callback(told)
        callbacks: Callbacks = recorder.runtime._callbacks
    assert not callbacks
    assert told.events == []
