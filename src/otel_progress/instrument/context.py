"""context."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_progress.instrument import spans
from otel_progress.instrument.backend import BATCH_KEY, LEVEL_KEY

if TYPE_CHECKING:
    from otel_progress.instrument.level import Level


_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, context_api.Context())))
"""Where a context keeps its span: with it, a level's context is one copy of the one around it and not two."""


# --- context -------------------------------------------------------------------------------------------------------


def current_level() -> Level | None:
    """Return the handle in force in this context, or the nearest one above it that still runs; None when there is none."""
    level = cast("Level | None", context_api.get_value(LEVEL_KEY))
    while level is not None and not level.recording:
        level = level._parent
    return level


def parent_context(above: Level | None) -> context_api.Context:
    """Return the context a level's span starts in: the current one, with the level above as parent where it is not in force."""
    here = context_api.get_current()
    if above is None or here.get(LEVEL_KEY) is above:
        return here
    return spans.context_with_span(above.span)


def context_with(level: Level) -> context_api.Context:
    """Return the current context with the level and its span in force."""
    node, entries = level._node, {**context_api.get_current(), LEVEL_KEY: level}
    if (
        node.spec.batch is not None
    ):  # an operation of a batch is one unit of it: those that begin in it are their own affair
        entries[BATCH_KEY] = None
    if node.trace is not None:
        entries[_SPAN_KEY] = level.span
    return context_api.Context(entries)


def detach_if_current(token: object, key: str, value: object) -> None:
    """Undo the attach of a block that is left, unless it is no longer what is in force.

    Blocks of generators and threads are left in any order, those the garbage collector finds at any moment: whatever the context is
    then belongs to others.
    """
    if context_api.get_current().get(key) is value:
        detach(token)


def detach(token: object) -> None:
    """Undo an attach; in another task or thread than it was made in there is nothing to undo."""
    reset: Callable[[object], None] | None = getattr(getattr(token, "var", None), "reset", None)
    if reset is None:
        context_api.detach(cast(Any, token))
        return
    try:
        reset(token)
    except (
        ValueError,
        RuntimeError,
    ):  # made in another context, or undone already: the caller's context is as it should be
        return
