"""Suppression of instrumentation around exports and on threads of the package."""

from __future__ import annotations

import threading

from opentelemetry import context as context_api

import otel_progress as progress
from otel_progress.instrument.backend import LEVEL_KEY
from otel_progress.otlp.bounded import ExportMonitor
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.suppression import run_suppressed
from otel_progress.testing import Recorder

KEY = context_api._SUPPRESS_INSTRUMENTATION_KEY
WAIT_S = 60.0


def test_export_and_close_suppress_instrumentation_on_the_calling_thread() -> None:
    states: list[object] = []
    monitor: ExportMonitor[str] = ExportMonitor(
        "spans",
        lambda _: bool(states.append(context_api.get_value(KEY))) or True,
        lambda: states.append(context_api.get_value(KEY)),
    )
    assert monitor.export("batch")
    monitor.stop()
    assert states == [True, True]
    assert context_api.get_value(KEY) is None


def test_thread_of_the_package_suppresses_instrumentation() -> None:
    states: list[object] = []
    thread = start_daemon_thread(
        lambda: states.append(context_api.get_value(KEY)), "test", "ticker", "It could not be started."
    )
    assert thread is not None
    thread.join(WAIT_S)
    assert states == [True]


def test_thread_of_the_package_has_no_current_level(recorder: Recorder) -> None:
    """An instrumentation of threads passes the caller's context to new threads."""
    levels: list[object] = []
    with progress.operation("job", id="j"):
        assert recorder.runtime.get_active_operations()
        caller = context_api.get_current()
        run = run_suppressed(lambda: levels.append(context_api.get_value(LEVEL_KEY)))

        def run_in_context_of_caller() -> None:
            context_api.attach(caller)
            run()

        thread = threading.Thread(target=run_in_context_of_caller)
        thread.start()
        thread.join(WAIT_S)
    assert levels == [None]
