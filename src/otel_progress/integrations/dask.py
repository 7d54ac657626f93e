"""Progress of Dask's local schedulers: each computation is a level.

Dask calls the methods of a callback in the thread that called ``compute``. They are not called for
a client of dask.distributed: use :mod:`otel_progress.integrations.distributed`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer, current_level

try:
    from dask import callbacks, local
    from dask.utils import key_split
except ImportError as error:
    msg = "Invalid environment for progress of Dask: expected the package dask."
    raise ImportError(f"{msg} Install it with 'pip install dask'.", name="dask") from error

TYPE: Final = "dask"
"""Type of the levels and operations."""


GRAPH: Final = "dask.graph"
"""Metadata key of the name of the computed results. It groups the history."""


_tracer: Final = ProgressTracer("otel_progress.integrations.dask")


class ProgressCallback(callbacks.Callback):
    """Callback of Dask that records each computation as a child of the current level.

    Use it as ``with ProgressCallback(): x.compute()`` or with ``register()``. Without a current
    level, a computation is an operation of the type ``dask``. The total is the number of tasks
    after Dask's optimization. ``name`` is the display name, by default that of the result.

    Several threads may use one object. Dask ignores it for computations that start while another
    one with callbacks runs.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._levels: dict[int, Level] = {}

    def _start_state(self, dsk: Any, state: Any) -> None:
        try:
            name = _get_name(state)
            total = len(state["ready"]) + len(state["waiting"])
            parent = current_level()
            metadata: dict[str, Any] = {GRAPH: name}
            if parent.recording:
                level = parent.level(TYPE, name=self._name or name, total=total, **metadata)
            else:
                level = _tracer.operation(TYPE, self._name or name, total=total, eta_key=[GRAPH], **metadata)
            self._levels[id(state)] = level.__enter__()
        except Exception:
            report_internal_error("integration", "The start of a Dask computation could not be recorded.")

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        level = self._levels.get(id(state))
        if level is not None:
            try:
                level.increment()
            except Exception:
                report_internal_error("integration", "A task of a Dask computation could not be counted.")

    def _finish(self, dsk: Any, state: Any, failed: bool) -> None:
        level = self._levels.pop(id(state), None)
        if level is None:
            return
        # Why the condition: the caller may be handling another exception.
        error = sys.exc_info()[1] if failed else None
        try:
            level.__exit__(None if error is None else type(error), error, None)
        except Exception:
            report_internal_error("integration", "The end of a Dask computation could not be recorded.")


def _get_name(state: Any) -> str:
    """Return the name of the first result of a computation, such as ``sum-aggregate``."""
    # Why the first key: Dask adds the results before the tasks that they depend on.
    return str(key_split(next(iter(state["dependents"]), TYPE)))


# --- activation without code ---------------------------------------------------------------------


_patches: Final[list[AttributePatch]] = []
"""Replaced function of Dask. Empty while Dask is not instrumented."""


_callback: Final = ProgressCallback()


def instrument() -> None:
    """Record all computations of Dask's local schedulers. Idempotent.

    Computations in Dask's workers are recorded only if they have a current level. Computations with
    a :class:`ProgressCallback` of the program are recorded once.
    """
    # Why not register(): Dask may lose registered callbacks if two threads compute at a time.
    patch = AttributePatch(local, "local_callbacks")
    if _patches:
        return
    if patch.apply(functools.partial(_make_local_callbacks, patch)):
        _patches.append(patch)
    else:
        _callback.register()


def uninstrument() -> None:
    """Stop recording the computations that start after this call. Idempotent."""
    while _patches:
        _patches.pop().remove()
    callbacks.Callback.active.discard(_callback._callback)


_Callbacks = AbstractContextManager[Any]


def _make_local_callbacks(
    patch: AttributePatch, original: Callable[..., _Callbacks]
) -> Callable[..., _Callbacks]:
    @functools.wraps(original)
    def local_callbacks(callbacks: Any = None) -> _Callbacks:
        context = original(callbacks)
        return _add_callback(context) if patch.is_active else context

    return local_callbacks


@contextmanager
def _add_callback(context: _Callbacks) -> Iterator[Any]:
    with context as found:
        yield (*found, _callback._callback) if _is_recorded(found) else found


def _is_recorded(found: Any) -> bool:
    """Return True if a computation with the callbacks ``found`` is recorded by ours."""
    try:
        functions = (function for callback in found for function in callback)
        if any(isinstance(getattr(function, "__self__", None), ProgressCallback) for function in functions):
            return False
        # Why: workers of the program's own pool have no current level, and are part of a task.
        return current_level().recording or not _is_in_task()
    except Exception:
        report_internal_error("integration", "The callbacks of a Dask computation could not be read.")
        return False


def _is_in_task() -> bool:
    """Return True if this thread runs a task of Dask."""
    code = local.execute_task.__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
