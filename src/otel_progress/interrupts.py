"""Detection of exceptions that interrupt a call, such as of signal handlers.

The package reports exceptions of tracers, filters and foreign objects as internal errors. An
exception that only happened to arrive during such a call belongs to the caller and is raised.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
from functools import partial
from inspect import CO_VARARGS
from os.path import dirname, sep
from types import CodeType, FrameType
from typing import Final

# Why os.path: importing pathlib takes a third of the import time of this package.
_PACKAGE_PATH: Final = dirname(__file__) + sep  # noqa: PTH120


_OWN_MODULES: Final = ("builtins", "otel_progress")


def is_interrupt(error: BaseException) -> bool:
    """Return True if an exception came from outside the interrupted call.

    That is an exception of a signal handler or a tracer, a MemoryError, an exception that is not
    an ``Exception``, and one that another thread raised in this thread.
    """
    if not isinstance(error, Exception) or isinstance(error, MemoryError):
        return True
    traceback = error.__traceback__
    handlers = _get_handler_codes()
    while traceback is not None:
        following = traceback.tb_next
        if following is None:
            is_own_frame = traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE_PATH)
            module = type(error).__module__
            # Why: the code of this package raises no other classes.
            return is_own_frame and module.partition(".")[0] not in _OWN_MODULES
        if following.tb_frame.f_code in handlers or _receives(following.tb_frame, traceback.tb_frame):
            return True
        traceback = following
    return False


def _receives(frame: FrameType, interrupted: FrameType) -> bool:
    """Return True if ``interrupted`` is an argument of a frame.

    The interpreter passes it to signal handlers and tracers, and no other caller does.
    """
    code, values = frame.f_code, frame.f_locals
    number = code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames[: number + 1 if code.co_flags & CO_VARARGS else number]
    for name in names:
        value = values.get(name)
        if value is interrupted or (type(value) is tuple and any(each is interrupted for each in value)):
            return True
    return False


def _get_handler_codes() -> set[CodeType | None]:
    """Return the code of the signal handlers of this process."""
    # Why _signal: the functions of signal convert each result to an enum, which takes far longer.
    return {_get_code(handler) for handler in map(_signal.getsignal, _signal.valid_signals())} - {None}


def _get_code(function: object) -> CodeType | None:
    if function is None or isinstance(function, int):  # the default action, or ignored
        return None
    while isinstance(function, partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
