"""Progress of joblib: each call of ``Parallel`` is a level.

Three methods of ``joblib.Parallel`` are replaced. ``__call__`` starts a level and ends it.
``print_progress`` reads the counts. joblib calls it after each batch of tasks, under its own lock
and often in a thread of its own. An exception there would block the program, so none leaves these
functions. ``_terminate_and_reset`` ends the level of a call that returned a generator.
"""

from __future__ import annotations

import dis
import functools
import inspect
import operator
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType, GeneratorType
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import OperationCancelledError
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import ProgressTracer, current_level

TYPE: Final = "joblib"
"""Type of the levels and operations."""


CALLER: Final = "joblib.caller"
"""Metadata key of the function that called ``Parallel``. It groups the history."""


_tracer: Final = ProgressTracer("otel_progress.integrations.joblib")


_patches: Final[list[AttributePatch]] = []
"""Replaced methods of ``Parallel``. Empty while joblib is not instrumented."""


_options: Final[dict[str, bool]] = {}


def instrument(*, operations: bool = True) -> None:
    """Record each call of ``joblib.Parallel`` as a child of the current level.

    Without a current level the call is an operation of the type ``joblib``. If ``operations`` is
    False, it is not recorded then. Calls in workers are recorded only if they have a current level.
    A second call changes the option. Raises ImportError without joblib.
    """
    try:
        from joblib import Parallel  # type: ignore[import-untyped]
    except ImportError as error:
        msg = "Invalid environment for progress of joblib: expected joblib 1.5 or later."
        raise ImportError(f"{msg} Install it with 'pip install joblib'.", name="joblib") from error
    _options["operations"] = operations
    if _patches:
        return
    for name, make in (
        ("__call__", _make_call),
        ("print_progress", _make_print_progress),
        ("_terminate_and_reset", _make_terminate),
    ):
        patch = AttributePatch(Parallel, name)
        if patch.apply(functools.partial(make, patch)):
            _patches.append(patch)


def uninstrument() -> None:
    """Restore the methods of ``joblib.Parallel``.

    Running calls are no longer counted, and calls that returned a generator are cancelled.
    """
    while _patches:
        _patches.pop().remove()
    for parallel, call in _copy_calls():
        if call.returns_generator:
            _calls.pop(parallel, None)
            call.end(None)


def _make_call(patch: AttributePatch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call_parallel(self: Any, iterable: Any) -> Any:
        # Why the second condition: joblib rejects a call while another one of the object runs.
        call = None if not patch.is_active or _find_call(self) is not None else _start_call(self, iterable)
        if call is None:
            return original(self, iterable)
        if call.returns_generator:
            try:
                output = original(self, iterable)
            except BaseException as error:
                call.end(self, error)
                raise
            with suppress(TypeError):  # another backend may return another kind of object
                call.output = ref(output)
            return output
        try:
            with call.level:
                try:
                    output = original(self, iterable)
                except BaseException:
                    call.close(None)
                    raise
                call.close(self)
                return output
        finally:
            _calls.pop(self, None)

    return call_parallel


def _make_print_progress(patch: AttributePatch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def print_progress(self: Any) -> Any:
        result = original(self)
        call = _find_call(self) if patch.is_active else None
        if call is not None:
            call.report(self)
        return result

    return print_progress


def _make_terminate(patch: AttributePatch, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _terminate_and_reset(self: Any) -> Any:
        call = _find_call(self) if patch.is_active else None
        if call is not None and call.returns_generator:
            # Why the condition: it may be another exception, which the caller is handling.
            call.end(self, sys.exc_info()[1] if self._exception else None)
        return original(self)

    return _terminate_and_reset


class _Call:
    """Running call of a ``Parallel`` object, with the handle of its level."""

    def __init__(self, parallel: Any, level: Level, total: int | None) -> None:
        self.level = level
        self.returns_generator = bool(getattr(parallel, "return_generator", False))
        self.output: ref[GeneratorType[Any, Any, Any]] | None = None
        self._expected = total
        # Why reentrant: the garbage collector may end a generator in any thread, at any time.
        self._lock = threading.RLock()
        self._is_closed = False

    def report(self, parallel: Any) -> None:
        """Copy the counts of joblib.

        It changes memory only, because joblib holds its lock."""
        try:
            with self._lock:
                if self._is_closed:
                    return
                completed, total = parallel.n_completed_tasks, self._read_total(parallel)
                if total is None:
                    self.level.set_total(None)
                    self.level.update(current=completed)
                else:
                    self.level.update(current=min(completed, total), total=total)
            # Why here: this is the last call for a generator that calls the tasks itself.
            if self.returns_generator and not parallel._running and not _holds_lock(parallel):
                self.end(parallel, sys.exc_info()[1] if parallel._exception else None)
        except Exception:
            report_internal_error("integration", "The progress of a joblib call could not be recorded.")

    def _read_total(self, parallel: Any) -> int | None:
        """Return the number of tasks, or None while it is unknown."""
        if parallel.n_tasks is not None:
            return int(parallel.n_tasks)
        # Why not for "all": joblib drops its iterator before it has dispatched the tasks.
        if parallel._original_iterator is None and not parallel._exception and parallel.pre_dispatch != "all":
            return int(parallel.n_dispatched_tasks)
        if self._expected is not None and parallel.n_dispatched_tasks <= self._expected:
            return self._expected
        return None

    def close(self, parallel: Any | None) -> bool:
        """Stop counting. Return False if that happened before.

        ``parallel`` is the object of a call that is complete, to copy its final count.
        """
        with self._lock:
            if self._is_closed:
                return False
            self._is_closed = True
            try:
                if parallel is not None:
                    completed = parallel.n_completed_tasks
                    self.level.update(current=completed, total=completed)
            except Exception:
                report_internal_error(
                    "integration", "The final count of a joblib call could not be recorded."
                )
            return True

    def end(self, parallel: Any | None, error: BaseException | None = None) -> None:
        """End the level of a call that returned a generator.

        Without ``parallel`` the call is cancelled. ``error`` is the exception that ended it.
        """
        try:
            is_failed = isinstance(error, Exception) and not isinstance(error, OperationCancelledError)
            is_complete = parallel is not None and not is_failed and self._is_complete(parallel)
            if not self.close(parallel if is_complete else None):
                return
            if parallel is not None:
                _calls.pop(parallel, None)
            if is_failed:
                self.level.fail(error)  # type: ignore[arg-type]
            elif is_complete:
                self.level.complete()
            else:
                self.level.cancel("The results were not consumed." if error is None else type(error).__name__)
        except Exception:
            report_internal_error("integration", "The end of a joblib call could not be recorded.")

    def _is_complete(self, parallel: Any) -> bool:
        completed = parallel.n_completed_tasks
        total = self._expected if parallel.n_tasks is None else parallel.n_tasks
        if total is not None:
            return bool(completed >= total)
        return not parallel._exception and completed == parallel.n_dispatched_tasks


_calls: Final[WeakKeyDictionary[Any, _Call]] = WeakKeyDictionary()
"""Running call of each ``Parallel`` object."""


def _find_call(parallel: Any) -> _Call | None:
    try:
        return _calls.get(parallel)
    except TypeError:  # a subclass that cannot be hashed: its calls are not recorded
        return None


def _copy_calls() -> list[tuple[Any, _Call]]:
    for _ in range(100):
        try:
            return list(_calls.items())
        except RuntimeError:  # another thread has added one
            continue
    return []


def _holds_lock(parallel: Any) -> bool:
    """Return True if this thread holds the lock of a ``Parallel`` object."""
    lock = getattr(parallel, "_lock", None)
    return lock is not None and bool(lock._is_owned())


def _start_call(parallel: Any, iterable: Any) -> _Call | None:
    """Start the level of a call. Return None if the call is not recorded."""
    try:
        parent = current_level()
        if not parent.recording:
            parent = _find_generator_level(sys._getframe(2)) or parent
        is_operation = not parent.recording
        # Why: a worker has no current level, so each task would start operations.
        if is_operation and (not _options.get("operations") or parallel._backend.nesting_level):
            return None
        name, caller = _find_caller(sys._getframe(2))
        name = _get_function_name(iterable) or name
        total = _estimate_length(iterable)
        metadata: dict[str, Any] = {CALLER: caller, "joblib.n_jobs": parallel.n_jobs}
        if is_operation:
            level = _tracer.operation(TYPE, name, total=total, eta_key=[CALLER], **metadata)
        else:
            level = parent.level(TYPE, name=name, total=total, **metadata)
        if not level.start().recording:
            return None
        _calls[parallel] = call = _Call(parallel, level, total)
        return call
    except Exception:
        report_internal_error("integration", "The start of a joblib call could not be recorded.")
        return None


def _find_generator_level(frame: FrameType | None) -> Level | None:
    """Return the level of the generator whose task calls joblib in this thread.

    Its level is not the current one, because its consumer would inherit it between two tasks.
    """
    levels = {}
    for _, call in _copy_calls():
        output = None if call.output is None else call.output()
        if output is not None and output.gi_running:
            levels[output.gi_frame] = call.level
    while levels and frame is not None:
        if frame in levels:
            return levels[frame]
        frame = frame.f_back
    return None


# --- names --------------------------------------------------------------------------------------


def _find_caller(frame: FrameType | None) -> tuple[str, str]:
    """Return the caller of joblib: the name of its function, and that with its module."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__") or "")
        if module.partition(".")[0] not in ("joblib", "otel_progress") and module != "sklearn.utils.parallel":
            break
        frame = frame.f_back
    if frame is None:
        return TYPE, ""
    # Why the name of the file: each program has the module ``__main__``.
    module = Path(frame.f_code.co_filename).stem if module == "__main__" else module
    name = str(getattr(frame.f_code, "co_qualname", frame.f_code.co_name))
    return (module if name == "<module>" else name), f"{module}:{name}"


def _get_function_name(iterable: Any) -> str | None:
    """Return the name of the first function of a list of tasks."""
    if type(iterable) not in (list, tuple) or not iterable:
        return None
    function = iterable[0][0] if type(iterable[0]) is tuple and iterable[0] else None
    name = getattr(getattr(function, "func", function), "__name__", None)
    return name if isinstance(name, str) else None


# --- number of tasks ----------------------------------------------------------------------------


_SIZED: Final = (list, tuple, set, frozenset, dict, range)
"""Types whose length is read. That of other types may call code of the program."""


_EMPTY: Final[tuple[Any, ...]] = ((), [], set(), {}, {}.values(), {}.items(), range(0), range(2**99))


_EXACT_ITERATORS: Final[frozenset[type[Any]]] = frozenset(type(iter(values)) for values in _EMPTY)
"""Types of iterators whose length hint is exact."""


MAX_NESTED_ITERATORS: Final = 5
"""Nested iterators that are followed to find a length. Deeper ones have no known length."""


def _estimate_length(iterable: Any, depth: int = 0) -> int | None:
    """Return the number of elements of an iterable or iterator, without consuming it.

    Most callers pass a generator expression, such as ``(delayed(f)(x) for x in xs)``, of which
    joblib does not know the length. It is that of ``xs`` if the expression has no condition and
    one loop. None if the length is unknown.
    """
    kind = type(iterable)
    if depth > MAX_NESTED_ITERATORS:
        return None
    if kind in _SIZED:
        return len(iterable)
    if kind in _EXACT_ITERATORS:
        return operator.length_hint(iterable)
    if kind is enumerate:
        return _estimate_length(iterable.__reduce__()[1][0], depth + 1)
    if kind is zip:
        lengths = [_estimate_length(iterator, depth + 1) for iterator in iterable.__reduce__()[1]]
        return None if None in lengths else min(lengths, default=None)  # type: ignore[type-var]
    if kind is GeneratorType and inspect.getgeneratorstate(iterable) == inspect.GEN_CREATED:
        is_plain = iterable.gi_code.co_name == "<genexpr>" and _has_one_loop(iterable.gi_code)
        return _estimate_length(iterable.gi_frame.f_locals.get(".0"), depth + 1) if is_plain else None
    return None


@functools.lru_cache(maxsize=256)
def _has_one_loop(code: CodeType) -> bool:
    """Return True if a generator expression yields an element for each of its source."""
    names = [instruction.opname for instruction in dis.get_instructions(code)]
    return names.count("FOR_ITER") == 1 and not any("JUMP" in name and "IF" in name for name in names)
