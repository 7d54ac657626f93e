"""Classification of exceptions that leave a level.

An exception is a failure, a cancellation, or an exit with code 0.

Exception types of libraries are recognised by module and name, so no library is imported. An
exception group is classified by its leaves, which are the exceptions in it that are not groups.
"""

from __future__ import annotations

import signal
from functools import partial
from inspect import CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_VARARGS
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from otel_progress.errors import OperationCancelledError
from otel_progress.interrupts import is_interrupt

TypeName: TypeAlias = "tuple[str, str]"
"""Module and qualified name of a class."""


_CANCELLATIONS: Final[frozenset[TypeName]] = frozenset(
    {
        ("otel_progress.errors", "OperationCancelledError"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("asyncio.exceptions", "CancelledError"),
        ("concurrent.futures", "CancelledError"),
        ("concurrent.futures._base", "CancelledError"),
        ("trio", "Cancelled"),
        ("greenlet", "GreenletExit"),
        ("click.exceptions", "Abort"),
        ("typer.exceptions", "Abort"),
    }
)
"""Exceptions that cancel a level. gevent uses GreenletExit, anyio those of asyncio and trio."""


_EXIT_CODES: Final[dict[TypeName, str]] = {
    ("builtins", "SystemExit"): "code",
    ("click.exceptions", "Exit"): "exit_code",
    ("typer.exceptions", "Exit"): "exit_code",
}
"""Exceptions that end a program, with the attribute that contains the exit code."""


_GROUPS: Final[frozenset[TypeName]] = frozenset(
    {("builtins", "BaseExceptionGroup"), ("exceptiongroup", "BaseExceptionGroup")}
)


MAX_GROUP_NODES: Final = 100_000
"""Exceptions of a group that are classified. Further ones are ignored."""


MAX_STORED_LEAVES: Final = 1_000
"""Leaves that are stored in a group. The leaves of a larger group are collected at each level."""


# Why attributes of the exceptions: what is stored must be released with the exception. A weak
# mapping is not possible, because most built-in exceptions have no weak references. A mapping by
# identity, even a bounded one, keeps exceptions and their frames alive, or confuses an exception
# with a later one of the same identity. Both attributes are small, and a program does not see them
# unless it lists ``__dict__``.
_LEAVES: Final = "__otel_progress_leaves__"
"""Attribute of a group: its leaves, which it references anyway. Nested task groups wrap a group at
each level, so the levels would collect the same leaves again and again.
"""


MAX_CONTEXTS: Final = 16
"""Exceptions of a context chain that are searched for a signal. Further ones are ignored."""


MAX_WRAPPERS: Final = 16
"""Wrappers of a signal handler that are removed to find its function."""


_CHECKED_AT: Final = "__otel_progress_exit__"
"""Attribute of an exception: the traceback entry at which the search for a signal handler
started, and its result. The search of the next level stops there.
"""


REASON_EXITED: Final = "exited before the end"
"""Message of a level that an exit with code 0 left before its total was reached."""


REASON_SIGNAL: Final = "stopped by a signal"
"""Message of a level that an exit with code 0 in a signal handler left."""


class ExceptionLeaves(NamedTuple):
    """Leaves of an exception by kind, in their order.

    An exception that is not a group is its own leaf.
    """

    failures: list[BaseException]
    cancellations: list[BaseException]
    exits: list[BaseException]
    """Exits with code 0."""


class LevelExit(NamedTuple):
    """Effect of an exception on the level that it leaves.

    ``exited`` completes the level if its total is reached or unknown, and cancels it otherwise.
    ``reason`` is the message of a cancelled level.
    """

    kind: Literal["failed", "cancelled", "exited"]
    reason: str


FAILED_EXIT: Final = LevelExit("failed", "")


def classify_exception(error: BaseException) -> LevelExit:
    """Return the effect of an exception on the level that it leaves.

    Raises only an exception that interrupts it.
    """
    try:
        leaves = find_leaves(error)
        if leaves.failures:
            return FAILED_EXIT
        if leaves.exits:
            is_signal = any(_is_raised_by_signal(part) for part in (error, *leaves.exits))
            return LevelExit("cancelled", REASON_SIGNAL) if is_signal else LevelExit("exited", REASON_EXITED)
        return LevelExit("cancelled", _get_cancel_reason(leaves.cancellations))
    except Exception as failure:  # An attribute of a foreign exception may raise any exception.
        if is_interrupt(failure):
            raise
        return FAILED_EXIT


def find_leaves(error: BaseException) -> ExceptionLeaves:
    """Return the leaves of an exception by kind."""
    leaves = ExceptionLeaves([], [], [])
    for leaf in _collect_leaves(error):
        if is_cancellation(leaf):
            leaves.cancellations.append(leaf)
        elif _is_successful_exit(leaf):
            leaves.exits.append(leaf)
        else:
            leaves.failures.append(leaf)
    return leaves


def is_group(error: BaseException) -> bool:
    """Return whether an exception is a group of exceptions.

    Before Python 3.11 groups are those of the package exceptiongroup.
    """
    return _has_type_in(error, _GROUPS)


def is_cancellation(error: BaseException) -> bool:
    """Return whether an exception means that work was cancelled instead of failed."""
    return _has_type_in(error, _CANCELLATIONS)


def get_qualified_type_name(error: BaseException) -> str:
    """Return the qualified class name of an exception, without ``builtins``.

    It is the value of the attribute ``error.type``.
    """
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _has_type_in(error: BaseException, names: frozenset[TypeName]) -> bool:
    return any((kind.__module__, kind.__qualname__) in names for kind in type(error).__mro__)


def _collect_leaves(error: BaseException) -> list[BaseException]:
    """Return the leaves of an exception.

    Only the first ``MAX_GROUP_NODES`` exceptions are read.
    """
    if not is_group(error):
        return [error]
    leaves: list[BaseException] = []
    pending = [error]
    for _ in range(MAX_GROUP_NODES):
        if not pending:
            break
        here = pending.pop()
        if not is_group(here):
            leaves.append(here)
            continue
        known = here.__dict__.get(_LEAVES)
        if known is None:
            pending.extend(reversed(here.exceptions))  # type: ignore[attr-defined]
        else:
            leaves.extend(known)
    if len(leaves) <= MAX_STORED_LEAVES:
        error.__dict__[_LEAVES] = tuple(leaves)
    return leaves


def _is_successful_exit(error: BaseException) -> bool:
    for kind in type(error).__mro__:
        attribute = _EXIT_CODES.get((kind.__module__, kind.__qualname__))
        if attribute is not None:
            code = getattr(error, attribute)
            return code is None or (isinstance(code, int) and code == 0)
    return False


def _get_cancel_reason(cancellations: list[BaseException]) -> str:
    """Return the reason of a request to cancel, else the first exception type."""
    for leaf in cancellations:
        if isinstance(leaf, OperationCancelledError):
            return str(leaf) or "cancelled"
    return get_qualified_type_name(cancellations[0])


# --- signal handlers -----------------------------------------------------------------------------


def _is_raised_by_signal(error: BaseException) -> bool:
    """Return whether a signal handler raised an exception.

    The handler may also have raised an exception that was handled when this one was raised, as in
    ``except KeyboardInterrupt: sys.exit(0)``.
    """
    if _has_handler_frame(error):
        return True
    context, checked = error.__context__, 0
    while context is not None and checked < MAX_CONTEXTS:
        if isinstance(context, KeyboardInterrupt) or _has_handler_frame(context):
            return True
        context, checked = context.__context__, checked + 1
    return False


def _has_handler_frame(error: BaseException) -> bool:
    """Return whether a traceback contains the frame of a signal handler.

    The first frame is that of the level's block. It is excluded, because a level within a signal
    handler ends like any other.
    """
    start = error.__traceback__
    if start is None:
        return False
    found: bool
    *checked, found = error.__dict__.get(_CHECKED_AT, (0, 0, 0, False))
    entry: TracebackType | None = start
    # Why: exceptions often pass many levels, so each level checks only the frames that the
    # previous one did not.
    while not found and entry is not None:
        is_checked = [id(entry), id(entry.tb_frame), entry.tb_lasti] == checked
        if entry is not start or is_checked:
            found = entry is not start and _is_handler_entry(entry)
        if is_checked:
            break
        entry = entry.tb_next
    error.__dict__[_CHECKED_AT] = (id(start), id(start.tb_frame), start.tb_lasti, found)
    return found


def _is_handler_entry(entry: TracebackType) -> bool:
    frame = entry.tb_frame
    name = frame.f_code.co_name
    if name == "uvloop.loop.Handle._run":
        return not _has_coroutine(entry)
    if name in ("_run", "handle"):
        owner = type(frame.f_locals.get("self"))
        owner_name = (owner.__module__, owner.__qualname__)
        if owner_name == ("asyncio.events", "Handle"):
            return not _has_coroutine(entry)
        if owner_name == ("gevent.hub", "signal"):
            return True
    return _is_handler_frame(frame)


def _has_coroutine(entry: TracebackType) -> bool:
    """Return whether a handle of an event loop ran a task.

    Why: event loops run the handlers of ``loop.add_signal_handler`` as plain callbacks, and have
    removed the handlers when the exception leaves ``asyncio.run``. So an exit in any plain callback
    counts as one in a signal handler. A timer is not a plain callback.
    """
    following = entry.tb_next
    while following is not None:
        if following.tb_frame.f_code.co_flags & (CO_COROUTINE | CO_ITERABLE_COROUTINE):
            return True
        following = following.tb_next
    return False


def _is_handler_frame(frame: FrameType) -> bool:
    """Return whether a frame is that of a signal handler.

    A handler is called as ``handler(signal_number, frame)``.
    The second argument is the interrupted frame, which is the caller of the handler. If the handler
    assigned another value to it, the function is compared with the active signal handlers.
    """
    arguments = _get_arguments(frame)
    if len(arguments) < 2:
        return False
    interrupted = frame.f_back
    if interrupted is not None and any(argument is interrupted for argument in arguments):
        return True
    return any(_is_handler(frame.f_code, argument) for argument in arguments)


def _get_arguments(frame: FrameType) -> list[Any]:
    """Return the values of the positional arguments of a frame's function."""
    code = frame.f_code
    has_rest = bool(code.co_flags & CO_VARARGS)
    if code.co_argcount < 2 and not has_rest:
        return []
    values = frame.f_locals
    arguments = [values.get(name) for name in code.co_varnames[: code.co_argcount]]
    if has_rest:
        rest = values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        arguments.extend(rest if isinstance(rest, tuple) else ())
    return arguments


def _is_handler(code: CodeType, number: object) -> bool:
    """Return whether ``code`` is that of the active handler of a signal."""
    if not isinstance(number, int) or number not in signal.valid_signals():
        return False
    return _find_code(signal.getsignal(number)) is code


def _find_code(handler: object) -> CodeType | None:
    """Return the code of a function, method, partial or callable object."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(handler, partial):
            handler = handler.func
            continue
        handler = getattr(handler, "__func__", handler)
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            return code
        if not callable(handler):
            return None
        handler = type(handler).__call__
    return None
