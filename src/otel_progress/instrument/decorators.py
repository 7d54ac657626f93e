"""Decorating functions: every call of the function is a level of its own, whatever kind of function it is.

Generator functions run their body in a context of its own, in which the level is current, but only while they run: at each
``yield`` the caller's context is put back, so nothing leaks out of the generator, and what was current in it is so again after.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import context as context_api

from otel_progress.instrument.context import context_with, detach

if TYPE_CHECKING:
    from otel_progress.instrument.level import Level


F = TypeVar("F", bound=Callable[..., Any])


def decorate(function: F, make: Callable[[], Level]) -> F:
    """Return ``function`` wrapped so that each call runs inside a level that ``make`` makes."""
    if inspect.isasyncgenfunction(function):
        return cast(F, _async_generator(function, make))
    if inspect.isgeneratorfunction(function):
        return cast(F, _generator(function, make))
    if inspect.iscoroutinefunction(function):
        return cast(F, _coroutine(function, make))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with make():
            return function(*args, **kwargs)

    return cast(F, call)


def _coroutine(function: Callable[..., Any], make: Callable[[], Level]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with make():
            return await function(*args, **kwargs)

    return call


def _generator(function: Callable[..., Any], make: Callable[[], Level]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        level = make().start()
        inside = _GeneratorContext(level)
        step: Callable[[], Any] = functools.partial(next, body)
        try:
            while True:
                with inside:
                    element = step()
                try:
                    step = functools.partial(body.send, (yield element))
                except GeneratorExit:
                    with inside:
                        body.close()
                    raise
                except BaseException as error:
                    step = functools.partial(body.throw, error)
        except StopIteration as stop:
            level.__exit__(None, None, None)
            return stop.value
        except BaseException as error:
            level.__exit__(type(error), error, error.__traceback__)
            raise

    return call


def _async_generator(function: Callable[..., Any], make: Callable[[], Level]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **kwargs)
        level = make().start()
        inside = _GeneratorContext(level)
        step: Callable[[], Any] = body.__anext__
        try:
            while True:
                with inside:
                    element = await step()
                try:
                    step = functools.partial(body.asend, (yield element))
                except GeneratorExit:
                    with inside:
                        await body.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(body.athrow, error)
        except StopAsyncIteration:
            level.__exit__(None, None, None)
        except BaseException as error:
            level.__exit__(type(error), error, error.__traceback__)
            raise

    return call


class _GeneratorContext:
    """Puts the context of a generator's body in force for one step of it, and keeps what the body made of it for the next."""

    __slots__ = ("_context", "_level", "_token")

    def __init__(self, level: Level) -> None:
        self._level = level
        self._context: context_api.Context | None = None

    def __enter__(self) -> None:
        self._token = None
        if self._level.recording:
            self._token = context_api.attach(self._context or context_with(self._level))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._context = context_api.get_current()
            detach(self._token)
