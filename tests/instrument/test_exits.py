"""Tests of exceptions that leave a level: cancellations, groups and exits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, OperationCancelledError
from otel_progress.instrument.exits import MAX_GROUP_NODES, classify_exception, get_qualified_type_name
from otel_progress.testing import Recorder

BaseGroup: Any = getattr(__import__("builtins"), "BaseExceptionGroup", None)
if BaseGroup is None:  # before Python 3.11
    BaseGroup = pytest.importorskip("exceptiongroup").BaseExceptionGroup


class TerminatedError(Exception):
    """Raised by a signal handler."""


def leave(recorder: Recorder, action: Callable[[progress.Level], object], **arguments: Any) -> LevelSnapshot:
    """Return the operation that an exception of ``action`` left."""
    with pytest.raises(BaseException), progress.operation("job", id="j", **arguments) as op:  # noqa: B017, PT011
        action(op)
    return recorder.operation("j").root


def raise_error(error: BaseException) -> Callable[[progress.Level], object]:
    """Return a function that raises ``error``."""

    def action(_: progress.Level) -> None:
        raise error

    return action


def count_and_exit(units: int, code: object = 0) -> Callable[[progress.Level], object]:
    """Return a function that counts and exits."""

    def action(op: progress.Level) -> None:
        op.increment(units)
        sys.exit(code)  # type: ignore[arg-type]

    return action


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class OwnCancelledError(asyncio.CancelledError):
    """Cancellation of an application."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (OwnCancelledError(), f"{__name__}.OwnCancelledError"),
        (concurrent.futures.CancelledError(), "concurrent.futures._base.CancelledError"),
        (click.Abort(), "click.exceptions.Abort"),
        (BaseGroup("g", [KeyboardInterrupt()]), "KeyboardInterrupt"),
        (BaseGroup("g", [asyncio.CancelledError(), OperationCancelledError("enough")]), "enough"),
        (
            BaseGroup("g", [BaseGroup("h", [asyncio.CancelledError()]), KeyboardInterrupt()]),
            "asyncio.exceptions.CancelledError",
        ),
    ],
    ids=str,
)
def test_cancellation_ends_level_as_cancelled(recorder: Recorder, error: BaseException, message: str) -> None:
    """A group is cancelled if all its leaves are cancellations."""
    root = leave(recorder, raise_error(error))
    assert (root.status, root.message, root.error) == (progress.Status.CANCELLED, message, None)


def test_cancelled_task_group_is_cancelled_with_reason(recorder: Recorder) -> None:
    """The request stops the loops in tasks, and the group wraps their errors."""
    task_group = getattr(asyncio, "TaskGroup", None)
    if task_group is None:
        pytest.skip("Python 3.10 has no TaskGroup")

    async def work(op: progress.Level, number: int) -> None:
        for _ in op.track(range(1000), f"part {number}", type="part"):
            if number == 1:
                recorder.runtime._store.request_cancel("j", "enough")
            await asyncio.sleep(0)

    async def main(op: progress.Level) -> None:
        async with task_group() as group:
            for number in range(3):
                group.create_task(work(op, number))

    root = leave(recorder, lambda op: asyncio.run(main(op)))
    assert (root.status, root.message) == (progress.Status.CANCELLED, "enough")
    assert [level.message for level in recorder.operation("j").levels] == ["enough"] * 3


@pytest.mark.parametrize(
    ("errors", "kind", "message"),
    [
        ([KeyboardInterrupt(), ValueError("row 7")], "ValueError", "row 7"),
        ([ValueError("a"), ValueError("b")], "ValueError", "a; b"),
        ([ValueError(""), ValueError("b")], "ValueError", "ValueError; b"),
        (
            [ValueError("a"), BaseGroup("h", [KeyError("k"), asyncio.CancelledError()])],
            "{group}",
            "ValueError: a; KeyError: 'k'",
        ),
        ([ValueError(str(n)) for n in range(33)], "ValueError", "0; 1; 2; 3; 4; 28 more"),
        ([SystemExit(3), asyncio.CancelledError()], "SystemExit", "3"),
        ([ValueError("x" * 5000), ValueError("y")], "ValueError", f"{'x' * 159}…; y"),
    ],
    ids=range(7),
)
def test_failed_group_describes_leaf_errors(
    recorder: Recorder, errors: list[BaseException], kind: str, message: str
) -> None:
    """Cancellations in the group are left out. The details contain the leaves."""
    group = BaseGroup("unhandled errors", errors)
    root = leave(recorder, raise_error(group))
    assert root.status is progress.Status.FAILED
    assert root.error is not None
    assert root.error.type == kind.format(group=get_qualified_type_name(group))
    assert root.error.message == message
    assert root.error.details is not None
    assert len(root.error.details) <= 8192
    assert "Cancelled" not in root.error.details


def test_failed_group_has_tracebacks_of_leaves(recorder: Recorder) -> None:
    """Each listed leaf has the place where it was raised."""

    def load_rows() -> None:
        raise ValueError("row 7")

    def check_rows() -> None:
        raise TypeError("row 8")

    def work(_: progress.Level) -> None:
        errors: list[BaseException] = []
        for function in (load_rows, check_rows):
            try:
                function()
            except Exception as error:
                errors.append(error)
        raise BaseGroup("g", errors)

    error = leave(recorder, work).error
    assert error is not None
    details = error.details or ""
    assert details.index("in load_rows") < details.index("error 2 of 2") < details.index("in check_rows")


def test_fail_with_group_describes_leaves(recorder: Recorder) -> None:
    """Also with a group of cancellations, because the caller has decided."""
    with progress.operation("job", id="j") as op:
        with op.level("part") as part:
            part.fail(BaseGroup("g", [OSError("disk")]))
        op.fail(BaseGroup("g", [KeyboardInterrupt()]))
    operation = recorder.operation("j")
    errors = [level.error for level in (operation.root, *operation.levels)]
    assert [error and (error.type, error.message) for error in errors] == [
        ("KeyboardInterrupt", ""),
        ("OSError", "disk"),
    ]


@pytest.mark.parametrize("code", [None, 0, False])
@pytest.mark.parametrize("total", [None, 5, 0])
def test_exit_0_after_all_units_completes(recorder: Recorder, code: object, total: int | None) -> None:
    """The total is reached or unknown."""
    root = leave(recorder, count_and_exit(total or 0, code), total=total)
    assert root.status is progress.Status.COMPLETED


@pytest.mark.parametrize("error", [click.exceptions.Exit(0), SystemExit(), BaseGroup("g", [SystemExit(0)])])
def test_exit_0_before_all_units_cancels(recorder: Recorder, error: BaseException) -> None:
    """27 of 1000 are not completed."""

    def work(op: progress.Level) -> None:
        op.increment(27)
        raise error

    root = leave(recorder, work, total=1000)
    assert (root.status, root.message) == (progress.Status.CANCELLED, "exited before the end")
    assert (root.current, root.error) == (27, None)


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(""), SystemExit("no"), click.exceptions.Exit(1)])
def test_exit_with_other_code_fails(recorder: Recorder, error: BaseException) -> None:
    """An empty text is printed and the code is 1."""
    assert leave(recorder, raise_error(error)).status is progress.Status.FAILED


def test_exit_0_completes_parent_whose_last_child_completes(recorder: Recorder) -> None:
    """The count of a level may come from the levels below it."""

    def work(op: progress.Level) -> None:
        with op.level("part"):
            pass
        with op.level("part", total=2) as part:
            part.increment(2)
            sys.exit(0)

    assert leave(recorder, work, total=2).status is progress.Status.COMPLETED
    assert {level.status for level in recorder.operation("j").levels} == {progress.Status.COMPLETED}


@pytest.mark.parametrize(("last", "status"), [("load", "cancelled"), ("report", "completed")])
def test_exit_0_in_stage_depends_on_pending_stages(recorder: Recorder, last: str, status: str) -> None:
    """A level that counts its stages has done them when the last one runs."""

    def work(op: progress.Level) -> None:
        op.stage("load").start()
        if last == "report":
            op.stage("report").start()
        sys.exit(0)

    assert leave(recorder, work, stages=["load", "report"]).status.value == status


# --- signal handlers -----------------------------------------------------------------------------


def stop(_signum: int, _frame: object) -> None:
    """Exit from a signal handler."""
    sys.exit(0)


def stop_with_numbers_only(_signum: int, frame: object) -> None:
    """Exit after the frame was replaced."""
    frame = None
    exit_from_helper(frame)


def exit_from_helper(_: object = None) -> None:
    """Exit in a function that the handler calls."""
    raise click.exceptions.Exit(0)


def stop_and_reset(signum: int, _frame: object) -> None:
    """Restore the default handler first, so that a second signal ends the process."""
    signal.signal(signum, signal.SIG_DFL)
    exit_from_helper()


def stop_with_context(_context: str, _signum: int, _frame: object) -> None:
    """Exit from a handler with a bound argument."""
    sys.exit(0)


class Stopper:
    """Handlers that are methods or objects."""

    def __call__(self, _signum: int, _frame: object) -> None:
        """Exit from an object."""
        sys.exit(0)

    def stop(self, _signum: int, _frame: object) -> None:
        """Exit from a method."""
        sys.exit(0)


@functools.wraps(stop)
def wrapped(*arguments: Any, **keywords: Any) -> None:
    """Call a handler like a decorator."""
    stop_and_reset(*arguments, **keywords)


HANDLERS = [
    stop_with_numbers_only,
    stop_and_reset,
    functools.partial(stop_with_context, "x"),
    Stopper(),
    Stopper().stop,
    wrapped,
    lambda *_: sys.exit(0),
]


@pytest.mark.parametrize("handler", HANDLERS, ids=range(len(HANDLERS)))
@pytest.mark.parametrize("arguments", [{}, {"total": 3}])
def test_exit_0_in_signal_handler_cancels(
    recorder: Recorder, handler: Any, arguments: dict[str, int]
) -> None:
    """Also if the total is reached or unknown."""
    signal.signal(signal.SIGTERM, handler)

    def work(op: progress.Level) -> None:
        op.increment(3)
        signal.raise_signal(signal.SIGTERM)

    root = leave(recorder, work, **arguments)
    assert (root.status, root.message) == (progress.Status.CANCELLED, "stopped by a signal")


def test_exit_0_in_signal_handler_cancels_all_levels(recorder: Recorder) -> None:
    """Each level that the exit leaves is cancelled."""
    signal.signal(signal.SIGTERM, wrapped)

    def work(op: progress.Level, depth: int = 20) -> None:
        if depth == 0:
            signal.raise_signal(signal.SIGTERM)
        with op.level("l") as level:
            work(level, depth - 1)

    leave(recorder, work)
    operation = recorder.operation("j")
    assert {level.status.value for level in (operation.root, *operation.levels)} == {"cancelled"}
    assert len(operation.levels) == 20


def test_exit_0_in_called_handler_completes(recorder: Recorder) -> None:
    """The function of a handler may also be called at the regular end of a program."""
    signal.signal(signal.SIGTERM, Stopper().stop)
    root = leave(recorder, lambda _: signal.getsignal(signal.SIGTERM)(None, None))  # type: ignore[operator, misc]
    assert root.status is progress.Status.COMPLETED


def test_exit_0_in_level_within_signal_handler_completes_it(recorder: Recorder) -> None:
    """Only the levels that the signal interrupted are cancelled."""

    def clean_up(_signum: int, _frame: object) -> None:
        with progress.operation("cleanup", id="c"):
            sys.exit(0)

    signal.signal(signal.SIGTERM, clean_up)
    root = leave(recorder, lambda _: signal.raise_signal(signal.SIGTERM))
    assert root.status is progress.Status.CANCELLED
    assert recorder.operation("c").status is progress.Status.COMPLETED


@pytest.mark.parametrize("kind", [TerminatedError, KeyboardInterrupt])
def test_exit_0_while_error_of_signal_is_handled_cancels(
    recorder: Recorder, kind: type[BaseException]
) -> None:
    """``except KeyboardInterrupt: sys.exit(0)`` does not complete the work."""

    def handle(_signum: int, _frame: object) -> None:
        raise kind

    def work(_: progress.Level) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except kind:
            sys.exit(0)

    signal.signal(signal.SIGTERM, handle)
    assert leave(recorder, work).status is progress.Status.CANCELLED


def test_exit_0_while_other_error_is_handled_completes(recorder: Recorder) -> None:
    """An error that no signal caused does not matter."""

    def work(_: progress.Level) -> None:
        try:
            raise ValueError
        except ValueError:
            sys.exit(0)

    assert leave(recorder, work).status is progress.Status.COMPLETED


@pytest.mark.parametrize(
    "handler", [lambda: sys.exit(0), functools.partial(sys.exit, 0)], ids=["python", "c"]
)
def test_exit_0_in_asyncio_signal_handler_cancels(recorder: Recorder, handler: Callable[[], None]) -> None:
    """The event loop removes the handler before the exit leaves the level."""

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, handler)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    root = leave(recorder, lambda _: asyncio.run(main()))
    assert (root.status, root.message) == (progress.Status.CANCELLED, "stopped by a signal")


def test_exit_0_in_asyncio_task_completes(recorder: Recorder) -> None:
    """A task that exits is no signal handler."""

    async def leave_task() -> None:
        sys.exit(0)

    async def main() -> None:
        task = asyncio.create_task(leave_task())
        await task

    assert leave(recorder, lambda _: asyncio.run(main())).status is progress.Status.COMPLETED


# --- bounds and foreign code ---------------------------------------------------------------------


class BrokenExit(SystemExit):
    """Exit whose code cannot be read."""

    @property
    def code(self) -> int:  # type: ignore[override]
        """Raise."""
        raise RuntimeError


def test_exit_with_broken_code_fails(recorder: Recorder) -> None:
    """Foreign code in an exception never reaches the caller."""
    assert leave(recorder, raise_error(BrokenExit())).status is progress.Status.FAILED


def test_group_beyond_bound_is_classified_by_its_first_leaves() -> None:
    """The number of leaves that are read is bounded."""
    leaves: list[BaseException] = [KeyboardInterrupt() for _ in range(MAX_GROUP_NODES)]
    assert classify_exception(BaseGroup("g", [*leaves, ValueError()])).kind == "cancelled"
    assert classify_exception(BaseGroup("g", [*leaves[:-2], ValueError()])).kind == "failed"
