"""Progress of Ray tasks: the current level is that of the submitter.

Ray has no hooks for tasks. So :func:`remote` passes the handle of the level with each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import current_level
from otel_progress.instrument.wrapping import wrap


def remote(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorate a function as ``ray.remote`` does, with progress.

    Use it as ``@remote`` or ``@remote(num_cpus=2)``. The current level of a task is the one at
    ``function.remote(...)``. Units and levels of the task are in the store before its result is
    available, which takes at most 250 ms. The driver and the workers need the same store.

    Raises ImportError without Ray, and TypeError for a class, a generator or a coroutine function:
    pass a handle to those.
    """
    if function is None:
        return lambda decorated: remote(decorated, **options)
    if not inspect.isfunction(function) or _is_iterative(function):
        msg = f"Invalid function {function!r}: expected a plain function."
        raise TypeError(f"{msg} Use ray.remote, and pass the handle of a level as an argument.")
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        msg = "Invalid environment for progress of Ray: expected the package ray."
        raise ImportError(f"{msg} Install it with 'pip install ray'.", name="ray") from error
    call = _make_call(function)
    return RemoteFunction(ray.remote(**options)(call) if options else ray.remote(call))


def _is_iterative(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)


def _make_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose first argument is the handle."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return wrap(function, args[0])(*args[1:], **kwargs)

    # Why not functools.wraps: Ray would check the arguments against those of the function.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(call, name, getattr(function, name))
    return call


class RemoteFunction:
    """Remote function of Ray that :func:`remote` returns."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task with the current level, see ``ray.remote``."""
        return self._function.remote(_find_level(), *args, **kwargs)

    def options(self, **options: Any) -> RemoteFunction:
        """Return this function with other options of Ray."""
        return RemoteFunction(self._function.options(**options))


def _find_level() -> Level | None:
    level = current_level()
    return level if level.recording else None
