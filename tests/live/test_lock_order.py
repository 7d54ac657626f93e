"""Tests of calls that interrupt the store while a tick waits for its lock."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace

import otel_progress as progress
from otel_progress import semconv
from otel_progress.integrations import tqdm as integration
from otel_progress.processor import ProgressSpanProcessor
from otel_progress.testing import Recorder

TIMEOUT_S = 60.0
"""Time after which a call counts as blocked."""


def call_during_waiting_tick(
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
    owner: object,
    name: str,
    act: Callable[[], object],
) -> None:
    """Call ``act`` as a signal handler that interrupts the owner of the store's lock.

    Another thread ticks. It has called the method ``name`` of ``owner``, which is called with the
    locks of the tick, and waits for the lock of the store.
    """
    is_reached = threading.Event()
    original = getattr(owner, name)

    def reach(*arguments: Any) -> Any:
        is_reached.set()
        return original(*arguments)

    monkeypatch.setattr(owner, name, reach)
    ticking = threading.Thread(target=recorder.tick, daemon=True)

    def interrupt() -> None:
        ticking.start()
        assert is_reached.wait(TIMEOUT_S)
        act()

    # Why a thread: a call that blocks must not block the test.
    work = threading.Thread(target=recorder.runtime._store._state.guard.run, args=(interrupt,), daemon=True)
    work.start()
    work.join(TIMEOUT_S)
    assert not work.is_alive()
    ticking.join(TIMEOUT_S)
    assert not ticking.is_alive()


def test_flush_that_interrupts_a_change_does_not_wait_for_a_tick(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returns False, and the next flush is complete."""
    results: list[bool] = []
    ticker = lenient.runtime._ticker
    with progress.operation("job", id="job"):
        call_during_waiting_tick(
            monkeypatch, lenient, ticker, "_before", lambda: results.append(progress.flush(TIMEOUT_S * 2))
        )
    assert results == [False]
    assert progress.flush()


def test_flush_honours_its_timeout_while_a_tick_waits(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick waits for another thread, and no lock of the caller."""
    is_reached, is_released = threading.Event(), threading.Event()

    def wait() -> None:
        is_reached.set()
        assert is_released.wait(TIMEOUT_S * 2)

    with progress.operation("job"):
        monkeypatch.setattr(lenient.runtime._ticker, "_before", wait)
        ticking = threading.Thread(target=lenient.tick, daemon=True)
        ticking.start()
        assert is_reached.wait(TIMEOUT_S)
        results: list[bool] = []
        flushing = threading.Thread(target=lambda: results.append(progress.flush(0.01)), daemon=True)
        flushing.start()
        flushing.join(TIMEOUT_S)
        is_released.set()
        ticking.join(TIMEOUT_S)
        monkeypatch.undo()
    assert results == [False]


def test_plain_span_that_interrupts_a_change_does_not_wait_for_a_tick(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts and ends in a finalizer while the ticker reads another span."""
    tracer = lenient.provider.get_tracer("application")

    def use_span() -> None:
        span = tracer.start_span("handler", attributes={semconv.TOTAL: 2})
        span.set_attribute(semconv.CURRENT, 2)
        span.end()

    with tracer.start_as_current_span("work", attributes={semconv.TOTAL: 5}):
        call_during_waiting_tick(monkeypatch, lenient, ProgressSpanProcessor, "_open_node_locked", use_span)
    lenient.tick()
    assert trace.get_current_span() is trace.INVALID_SPAN
    ended = {each.operation_type: each.status for each in progress.get_history()}
    assert ended == {"work": progress.Status.COMPLETED, "handler": progress.Status.COMPLETED}


def test_bar_that_interrupts_a_change_does_not_wait_for_a_tick(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer closes a bar while the ticker reads another one."""
    tqdm = pytest.importorskip("tqdm").tqdm
    progress.instrument_tqdm()
    try:
        with progress.operation("job", id="job"):
            first, second = (tqdm(total=2, desc=name, file=io.StringIO()) for name in "ab")
            first.update()
            second.update(2)
            lenient.clock.advance(2.0)
            call_during_waiting_tick(
                monkeypatch, lenient, integration._recorder, "_start_locked", second.close
            )
            first.update()
            first.close()
            assert not integration._recorder.is_active
        lenient.tick()
    finally:
        integration.uninstrument()
    assert progress.get_active_operations() == []


def test_track_below_a_bar_that_interrupts_a_change_does_not_wait_for_a_tick(
    lenient: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler runs a loop while the ticker reads another bar."""
    tqdm = pytest.importorskip("tqdm").tqdm
    progress.instrument_tqdm()

    def use_loops() -> None:
        for _ in tqdm([1], desc="inner", file=io.StringIO()):
            for _ in progress.track([1], name="rows", type="rows"):
                pass

    try:
        with progress.operation("job", id="job"), tqdm(total=1, file=io.StringIO()) as outer:
            lenient.clock.advance(2.0)
            call_during_waiting_tick(monkeypatch, lenient, integration._recorder, "_start_locked", use_loops)
            outer.update()
        lenient.tick()
    finally:
        integration.uninstrument()
    ended = {each.operation_type: each.status for each in progress.get_history()}
    assert ended == {"job": progress.Status.COMPLETED, "rows": progress.Status.COMPLETED}
