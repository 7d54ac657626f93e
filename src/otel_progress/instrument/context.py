"""OpenTelemetry context of levels: current level, span, attaching and detaching."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_progress.instrument import spans
from otel_progress.instrument.backend import BATCH_KEY, LEVEL_KEY

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle


_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, context_api.Context())))
"""Key of the span in a context. With it a level's context needs one copy instead of two."""


def get_current_level() -> LevelHandle | None:
    """Return the current level or its nearest running ancestor, or None."""
    level = cast("LevelHandle | None", context_api.get_value(LEVEL_KEY))
    while level is not None and not (level.recording and _is_entered(level)):
        level = level._parent
    return level


def _is_entered(level: LevelHandle) -> bool:
    """Return False if an exception interrupted the exit of the level's ``with`` block."""
    return level._guard is None or level._guard() is not None


def get_parent_context(parent: LevelHandle | None) -> context_api.Context:
    """Return the context in which the span of a child of ``parent`` starts.

    It is the current context. If ``parent`` is not the current level, it contains its span.
    """
    current = context_api.get_current()
    if parent is None or current.get(LEVEL_KEY) is parent:
        return current
    return spans.build_span_context(parent.span)


def build_level_context(
    level: LevelHandle, current: context_api.Context | None = None
) -> context_api.Context:
    """Return a copy of ``current``, by default the current context, with the level and its span."""
    if current is None:
        current = context_api.get_current()
    node, entries = level._node, {**current, LEVEL_KEY: level}
    if node.spec.batch is not None:
        # An operation is one unit of its batch.
        # Operations started inside it are not part of the batch.
        entries[BATCH_KEY] = None
    if node.trace is not None:
        entries[_SPAN_KEY] = level.span
    return context_api.Context(entries)


def detach_if_current(token: object, key: str, value: object) -> None:
    """Detach ``token`` if ``value`` is still the current value of ``key``.

    Generators and threads leave their blocks in any order, and the garbage collector at any time.
    The current context may then belong to other code and stays unchanged. A level below ``value``
    whose block was left is skipped, because an exception interrupted its exit.
    """
    current = context_api.get_current().get(key)
    if current is value or (key == LEVEL_KEY and _is_left_below(cast(Any, current), value)):
        detach(token)


def _is_left_below(level: LevelHandle | None, ancestor: object) -> bool:
    while level is not None and level is not ancestor:
        if level.recording and _is_entered(level):
            return False
        level = level._parent
    return level is ancestor


def detach(token: object) -> None:
    """Detach a token.

    Does nothing in another task or thread than the one that attached it.
    """
    reset: Callable[[object], None] | None = getattr(getattr(token, "var", None), "reset", None)
    if reset is None:
        context_api.detach(cast(Any, token))
        return
    try:
        reset(token)
    except (ValueError, RuntimeError):
        # Attached in another context, or detached before: the caller's context is already correct.
        return
