"""Caller of a ``track`` loop, which groups its history if it is an operation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from otel_progress.instrument.backend import backend_slot
from otel_progress.instrument.rejections import find_outer_frame

_MODULE: Final = "<module>"
"""Name of the code of a module."""


_MAIN: Final = frozenset({"__main__", "__mp_main__"})
"""Names of the module that the interpreter runs. The second one is that of spawned processes."""


class Caller(NamedTuple):
    """Module and qualified name of the function that called ``track``.

    Why no line: it changes with every edit above the call.
    """

    module: str
    name: str


_make_caller: Final = cast("Callable[[tuple[str, str]], Caller]", partial(tuple.__new__, Caller))
"""Make a Caller from a tuple, in half the time of calling the class."""


def find_caller() -> Caller | None:
    """Return the first caller outside of this package.

    None if nothing is recorded, or if an audit hook of the program forbids it.
    """
    if backend_slot.current is None:
        return None
    frame = find_outer_frame()
    if frame is None:
        return None
    return _make_caller((frame.f_globals.get("__name__") or "", _get_qualified_name(frame)))


def find_caller_outside(packages: tuple[str, ...]) -> Caller:
    """Return the first caller outside of this package and of other top-level packages.

    Before Python 3.11 its name is not qualified. Why: that would read ``f_locals``, which keeps the
    objects of the caller alive until it returns.
    """
    frame = find_outer_frame()
    if frame is None:  # an audit hook of the program forbids it
        return _make_caller(("", ""))
    while frame.f_back is not None and _get_top_package(frame) in packages:
        frame = frame.f_back
    code = frame.f_code
    return _make_caller((frame.f_globals.get("__name__") or "", getattr(code, "co_qualname", code.co_name)))


def _get_top_package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def describe_caller(caller: Caller) -> str:
    """Return ``module:function`` for a history key.

    A main script has no module name that distinguishes it. Its file is used instead. Comprehensions
    and lambdas count as the function around them, because newer interpreters inline the former.
    """
    # Why here: the import takes time, and only loops without an operation need it.
    from otel_progress.processes import get_program_name

    module = get_program_name() if caller.module in _MAIN else caller.module
    parts = str(caller.name).split(".")
    while parts and parts[-1].startswith("<") and parts[-1] != _MODULE:
        del parts[-1]
    return f"{module}:{'.'.join(parts) or _MODULE}"


if sys.version_info >= (3, 11):

    def _get_qualified_name(frame: FrameType) -> str:
        return frame.f_code.co_qualname

else:

    def _get_qualified_name(frame: FrameType) -> str:
        """Return the qualified name of a frame's function, or else its plain name."""
        # Why the constants: a comprehension is one of the code of its function.
        while frame.f_code.co_name.startswith("<") and frame.f_back is not None:
            if frame.f_code not in frame.f_back.f_code.co_consts:
                break
            frame = frame.f_back
        code = frame.f_code
        name = _qualified_names.get(code)
        if name is None:
            name = _qualified_names[code] = _find_qualified_name(code, frame.f_globals)
        return name

    def _find_qualified_name(code: CodeType, namespace: dict[str, Any]) -> str:
        """Return the qualified name of a function of a module or of its classes."""
        # Why not from the first argument: reading the variables of a frame keeps their objects
        # alive until the function returns.
        name, waiting = code.co_name, [namespace]
        for _ in range(_MAX_NAMESPACES):
            if not waiting:
                break
            members = waiting.pop(0)
            function = members.get(name)
            function = getattr(function, "__func__", function)
            if getattr(function, "__code__", None) is code:
                return str(getattr(function, "__qualname__", name))
            module = namespace.get("__name__")
            waiting += [
                dict(vars(each))
                for each in list(members.values())
                if isinstance(each, type) and each.__module__ == module
            ]
        return name

    _qualified_names: WeakKeyDictionary[CodeType, str] = WeakKeyDictionary()

    _MAX_NAMESPACES: Final = 1_000
    """Number of classes that are searched for a function."""
