"""Tests of cancellations and exits of libraries that this package does not import."""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.testing import Recorder
from tests.support import journal_processes

GEVENT = """
import os, signal, sys
import gevent
import otel_progress as progress
from otel_progress.testing import recording

with recording() as recorder:
    def wait():
        with progress.operation("job", id="killed"):
            gevent.sleep(60)

    greenlet = gevent.spawn(wait)
    gevent.sleep(0)
    greenlet.kill()
    try:
        with progress.operation("job", id="signal"):
            gevent.signal_handler(signal.SIGTERM, sys.exit, 0)
            gevent.spawn(os.kill, os.getpid(), signal.SIGTERM)
            gevent.sleep(60)
    except SystemExit:
        pass
    for id_ in ("killed", "signal"):
        root = recorder.operation(id_).root
        print(id_, root.status, root.message)
"""


@pytest.mark.process
def test_greenlets_of_gevent_are_cancelled() -> None:
    """A killed greenlet, and an exit in the handler of a signal."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    output = journal_processes.run(GEVENT)
    assert output.splitlines() == [
        "killed cancelled greenlet.GreenletExit",
        "signal cancelled stopped by a signal",
    ]


def test_throw_into_greenlet_cancels(recorder: Recorder) -> None:
    """GreenletExit is what ends a greenlet."""
    greenlet = pytest.importorskip("greenlet", reason="greenlet is not installed")

    def work() -> None:
        with progress.operation("job", id="j"):
            greenlet.getcurrent().parent.switch()

    worker = greenlet.greenlet(work)
    worker.switch()
    worker.throw()
    assert recorder.operation("j").status is Status.CANCELLED


def test_trio_cancels_levels_of_cancelled_tasks(recorder: Recorder) -> None:
    """A nursery with an error cancels the other tasks, and wraps the error."""
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def wait(op: progress.Level, number: int) -> None:
        with op.level("task", number):
            await trio.sleep_forever()

    async def main(error: BaseException | None, id_: str) -> None:
        with progress.operation("job", id=id_) as op:
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(wait, op, number)
                await trio.testing.wait_all_tasks_blocked()
                if error is None:
                    nursery.cancel_scope.cancel()
                else:
                    raise error

    __import__("trio.testing")
    errors: list[tuple[BaseException | None, Status]] = [
        (None, Status.COMPLETED),  # the scope of the nursery ends within the operation
        (ValueError("row 7"), Status.FAILED),
        (KeyboardInterrupt(), Status.CANCELLED),
        (SystemExit(0), Status.COMPLETED),
    ]
    for error, status in errors:
        with nullcontext() if error is None else pytest.raises(BaseException):  # noqa: PT011
            trio.run(main, error, "j")
        operation = recorder.operation("j")
        assert operation.status is status
        assert [level.message for level in operation.levels] == ["trio.Cancelled"] * 3
        if isinstance(error, ValueError):
            assert operation.root.error is not None
            assert (operation.root.error.type, operation.root.error.message) == ("ValueError", "row 7")


def test_cancelled_scope_of_trio_cancels_operation_within(recorder: Recorder) -> None:
    """The scope absorbs the exception after it has left the operation."""
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def main() -> None:
        with trio.CancelScope() as scope, progress.operation("job", id="j"):
            scope.cancel()
            await trio.sleep_forever()

    trio.run(main)
    assert recorder.operation("j").status is Status.CANCELLED


def test_exit_0_in_signal_handler_under_trio_cancels(recorder: Recorder) -> None:
    """The exit arrives in a group."""
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep_forever()

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with pytest.raises(BaseException), progress.operation("job", id="j"):  # noqa: B017, PT011
            trio.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert recorder.operation("j").root.message == "stopped by a signal"


@pytest.mark.parametrize(
    ("code", "units", "status"),
    [(0, 3, Status.COMPLETED), (0, 2, Status.CANCELLED), (1, 3, Status.FAILED)],
)
def test_exit_of_typer_depends_on_code_and_total(
    recorder: Recorder, code: int, units: int, status: Status
) -> None:
    """Typer has an exception of its own."""
    typer: Any = pytest.importorskip("typer", reason="typer is not installed")
    app = typer.Typer()

    @app.command()
    def work() -> None:
        with progress.operation("job", id="j", total=3) as op:
            op.increment(units)
            raise typer.Exit(code)

    with pytest.raises(SystemExit):
        app([])
    assert recorder.operation("j").status is status


def test_abort_of_typer_cancels(recorder: Recorder) -> None:
    """The user declined to continue."""
    typer: Any = pytest.importorskip("typer", reason="typer is not installed")
    with pytest.raises(typer.Abort), progress.operation("job", id="j"):
        raise typer.Abort
    assert recorder.operation("j").status is Status.CANCELLED
