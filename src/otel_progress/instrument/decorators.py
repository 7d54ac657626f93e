"""Decorators: each call of a decorated function runs in a level of its own.

The body of a generator function runs in a context of its own, in which the level is current.
At each ``yield`` the caller's context is restored. Changes that the body made to its own context
are active again in its next step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from opentelemetry import context as context_api

from otel_progress.instrument.context import build_level_context, detach

if TYPE_CHECKING:
    from types import TracebackType

    from otel_progress.instrument.handle import LevelHandle


F = TypeVar("F", bound=Callable[..., Any])


class GeneratorScope(Protocol):
    """Level of a generator, from its first step to its end."""

    def start(self) -> GeneratorScope:
        """Start the scope."""

    @property
    def recording(self) -> bool:
        """True while the level is the current one in the steps."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """End the scope."""


def decorate(function: F, make_level: Callable[[], LevelHandle]) -> F:
    """Wrap ``function`` so that each call runs in a level from ``make_level``."""
    if inspect.isasyncgenfunction(function):
        return cast(F, decorate_async_generator(function, make_level))
    if inspect.isgeneratorfunction(function):
        return cast(F, decorate_generator(function, make_level))
    if inspect.iscoroutinefunction(function):
        return cast(F, _decorate_coroutine(function, make_level))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with make_level():
            return function(*args, **kwargs)

    return cast(F, call)


def _decorate_coroutine(
    function: Callable[..., Any], make_level: Callable[[], LevelHandle]
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with make_level():
            return await function(*args, **kwargs)

    return call


def decorate_generator(
    function: Callable[..., Any],
    make_level: Callable[[], GeneratorScope],
    build_context: Callable[[Any], context_api.Context] = build_level_context,
) -> Callable[..., Any]:
    """Wrap a function so that the steps of its generators run in a scope.

    ``build_context`` returns the context of the first step from the scope.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        level = make_level().start()
        body_context = _GeneratorContext(level, build_context)
        step: Callable[[], Any] = functools.partial(next, body)
        try:
            while True:
                with body_context:
                    element = step()
                try:
                    step = functools.partial(body.send, (yield element))
                except GeneratorExit:
                    with body_context:
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


def decorate_async_generator(
    function: Callable[..., Any],
    make_level: Callable[[], GeneratorScope],
    build_context: Callable[[Any], context_api.Context] = build_level_context,
) -> Callable[..., Any]:
    """Wrap a function so that the steps of its asynchronous generators run in a scope.

    ``build_context`` returns the context of the first step from the scope.
    """

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **kwargs)
        level = make_level().start()
        body_context = _GeneratorContext(level, build_context)
        step: Callable[[], Any] = body.__anext__
        try:
            while True:
                with body_context:
                    element = await step()
                try:
                    step = functools.partial(body.asend, (yield element))
                except GeneratorExit:
                    with body_context:
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
    """Context manager that activates the context of a generator's body for one step.

    It stores the context that the body left, for the next step.
    """

    __slots__ = ("_build_context", "_context", "_level", "_token")

    def __init__(self, level: GeneratorScope, build_context: Callable[[Any], context_api.Context]) -> None:
        self._level = level
        self._build_context = build_context
        self._context: context_api.Context | None = None

    def __enter__(self) -> None:
        self._token = None
        if self._level.recording:
            self._token = context_api.attach(self._context or self._build_context(self._level))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._context = context_api.get_current()
            detach(self._token)
