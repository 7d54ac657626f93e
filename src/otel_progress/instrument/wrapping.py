"""Functions and executors whose calls have the current level of the caller.

A wrapped function can run in another thread, task, interpreter or process. In another process the
level is the one of a pickled handle, and the counts of a call are delivered before it returns.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from opentelemetry import context as context_api

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.instrument.context import build_level_context, detach, get_current_level
from otel_progress.instrument.decorators import decorate_async_generator, decorate_generator
from otel_progress.instrument.level import Level
from otel_progress.instrument.lifecycle import resume_handle
from otel_progress.interrupts import is_interrupt

if TYPE_CHECKING:
    from otel_progress.live.node import Node

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def wrap(function: Callable[P, R], level: Level | None = None) -> Callable[P, R]:
    """Return a function whose calls have a level as their current level.

    The calls may run in other threads, tasks and processes. ``level`` is by default the current
    level of the caller of ``wrap``. Without a level, the function is called unchanged. Arguments,
    return value and exceptions are passed through. The result can be pickled if the function can.
    A coroutine function remains one. The steps of a generator have the level as their current one.

    In another process, the units and levels of a call belong to the same operation. They are
    delivered before the call returns, which usually takes some milliseconds, and at most 250 ms.
    The first call in a process may take 2 s longer.
    """
    found = cast("Level | None", get_current_level()) if level is None else level
    return cast("Callable[P, R]", _find_kind(function)(function, found))


def _find_kind(function: Callable[..., Any]) -> type[_WrappedFunction[Any]]:
    """Return the class of the wrapped function, by the kind of its calls."""
    if isinstance(function, _WrappedFunction):
        return type(function)
    # Why: the call of an object may be a coroutine function or a generator function.
    for each in (function, getattr(type(function), "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(each):
            return _WrappedCoroutineFunction
        if inspect.isgeneratorfunction(each):
            return _WrappedGeneratorFunction
        if inspect.isasyncgenfunction(each):
            return _WrappedAsyncGeneratorFunction
    return _WrappedFunction


class _WrappedFunction(Generic[R]):
    """Callable that :func:`wrap` returns."""

    def __init__(self, function: Callable[..., R], level: Level | None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._level = level
        self._context = context_api.get_current()

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        with _LevelScope(self._level, self._context):
            return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[object, ...]:
        return _load_function, (type(self), self._function, self._level)

    def __repr__(self) -> str:
        return f"<wrapped {self._function!r}>"


class _WrappedCoroutineFunction(_WrappedFunction[Any]):
    """Coroutine function that :func:`wrap` returns."""

    def __init__(self, function: Callable[..., Any], level: Level | None) -> None:
        super().__init__(function, level)
        # Why: asyncio and frameworks check it. Before Python 3.12 only asyncio has such a mark.
        mark = getattr(inspect, "markcoroutinefunction", None)
        if mark is not None:
            mark(self)
        elif "asyncio.coroutines" in sys.modules:
            self._is_coroutine = sys.modules["asyncio.coroutines"]._is_coroutine

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _LevelScope(self._level, self._context):
            return await self._function(*args, **kwargs)


class _WrappedGeneratorFunction(_WrappedFunction[Any]):
    """Generator function that :func:`wrap` returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body = self._function(*args, **kwargs)
        return decorate_generator(lambda: body, self._create_scope, _LevelScope.build_context)()

    def _create_scope(self) -> _LevelScope:
        return _LevelScope(self._level, self._context)


class _WrappedAsyncGeneratorFunction(_WrappedGeneratorFunction):
    """Asynchronous generator function that :func:`wrap` returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body = self._function(*args, **kwargs)
        return decorate_async_generator(lambda: body, self._create_scope, _LevelScope.build_context)()


def _load_function(
    kind: type[_WrappedFunction[Any]], function: Callable[..., Any], level: Level | None
) -> _WrappedFunction[Any]:
    return kind(function, level)


class _LevelScope:
    """Context manager in which a level is the current one. It never ends a level.

    Errors of this package are reported and never raised, except in strict mode.
    """

    __slots__ = ("__weakref__", "_backend", "_captured", "_level", "_node", "_token")

    def __init__(self, level: Level | None, captured: context_api.Context) -> None:
        self._level = level
        self._captured = captured
        self._token: object = None
        self._backend: RecordingBackend | None = None
        self._node: Node | None = None

    def start(self) -> _LevelScope:
        """Connect with the level. It does not become the current one."""
        level = self._level
        if level is None:
            return self
        resume_handle(level)
        if level._backend is not None and level.recording:
            self._backend, self._node = level._backend, level._node
            self._backend.store.hold_share(self._node, self)
        return self

    @property
    def recording(self) -> bool:
        """True if the level was recorded at the start."""
        return self._node is not None

    def build_context(self) -> context_api.Context:
        """Return the context with the level. Call it while ``recording`` is True."""
        # Why: a new thread has an empty context. A task has that of the code that created it.
        current = context_api.get_current() or self._captured
        return build_level_context(cast("Level", self._level), current)

    def __enter__(self) -> None:
        if self.start().recording:
            self._token = context_api.attach(self.build_context())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
        backend, node = self._backend, self._node
        if backend is None or node is None or self._level is None:
            return
        try:
            backend.store.release_share(node, self)
            if self._level._arguments.kind == "remote":
                backend.deliver_shares()
        except Exception as failure:
            if is_interrupt(failure):
                raise
            report_internal_error("tick", "The progress of a call could not be delivered", error=failure)


class ProgressExecutor(Executor):
    """Executor whose calls have the level of the caller as their current level.

    It wraps an executor of ``concurrent.futures``: of threads, of processes with every start
    method, or of interpreters. ``level`` is by default the current level at each ``submit`` and
    ``map``. Results, exceptions and the order of results are those of the executor. Leaving its
    block shuts the executor down.
    """

    def __init__(self, executor: Executor, level: Level | None = None) -> None:
        self._executor = executor
        self._level = level

    @property
    def executor(self) -> Executor:
        """The executor that runs the calls."""
        return self._executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call, see ``concurrent.futures.Executor.submit``."""
        return self._executor.submit(wrap(fn, self._level), *args, **kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, **options: Any
    ) -> Iterator[T]:
        """Call a function for each element, see ``concurrent.futures.Executor.map``."""
        return self._executor.map(wrap(fn, self._level), *iterables, timeout=timeout, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, see ``concurrent.futures.Executor.shutdown``."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __enter__(self) -> ProgressExecutor:
        self._executor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._executor.__exit__(kind, error, traceback)
