"""OpenTelemetry context of levels: current level, span, attaching and detaching."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_progress.instrument import spans
from otel_progress.instrument.backend import BATCH_KEY, LEVEL_KEY, LINK_KEY

if TYPE_CHECKING:
    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.model import ParentLink


_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, context_api.Context())))
"""Key of the span in a context. With it a level's context needs one copy instead of two."""


def get_current_level(context: context_api.Context | None = None) -> LevelHandle | None:
    """Return the current level or its nearest running ancestor, or None.

    ``context`` is the current context by default.
    """
    level = cast("LevelHandle | None", context_api.get_value(LEVEL_KEY, context))
    while level is not None and not level.recording:
        level = level._parent
    return level


def find_parent_link(backend: RecordingBackend) -> ParentLink | None:
    """Return the level of another process that a new operation is part of.

    It is the level of the headers that were extracted into the context, or else that of the process
    that started this one. Operations inside a level of this process have none.
    """
    link = cast("ParentLink | None", context_api.get_value(LINK_KEY))
    if link is None and backend.remote_parent is not None:
        link = backend.remote_parent.link
    return None if link is None or get_current_level() is not None else link


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
    """Return a copy of the current context with the level and its span."""
    node, entries = level._node, {**(current or context_api.get_current()), LEVEL_KEY: level}
    if node.spec.batch is not None:
        # An operation is one unit of its batch.
        # Operations started inside it are not part of the batch.
        entries[BATCH_KEY] = None
    if node.trace is not None:
        entries[_SPAN_KEY] = level.span
    return context_api.Context(entries)


BlockEntry: TypeAlias = "tuple[context_api.Context, object]"
"""One entry of a block: the context inside it, and the token that leaves it.

The token is None if the block did not change the context.
"""


def enter_level_context(level: LevelHandle) -> BlockEntry:
    """Make a level current, unless it is current already."""
    current = context_api.get_current()
    if current.get(LEVEL_KEY) is level:
        return current, None
    context = build_level_context(level, current)
    return context, context_api.attach(context)


def enter_batch_context(batch_id: str) -> BlockEntry:
    """Make a batch current."""
    context = context_api.set_value(BATCH_KEY, batch_id)
    return context, context_api.attach(context)


def leave_context(entries: list[BlockEntry], key: str, value: object) -> None:
    """Remove the entry of the block that ends, and restore the context before it.

    Several threads and tasks can be in blocks of one handle. The entry of this one has the current
    context. If the block left another context behind, the newest entry is removed.
    """
    current = context_api.get_current()
    try:
        context, token = entries.pop()
        if context is not current:
            context, token = _replace_entry(entries, (context, token), current)
    except IndexError:  # another thread removed the last one
        return
    if token is None:
        return
    if context is current:
        detach(token)
    else:
        detach_if_current(token, key, value)


def _replace_entry(entries: list[BlockEntry], newest: BlockEntry, current: context_api.Context) -> BlockEntry:
    """Return the newest entry with the current context instead of ``newest``.

    Return ``newest`` if there is no such entry.
    """
    for entry in reversed(entries.copy()):
        if entry[0] is current:
            # Why in place: another thread may add and remove entries at the same time.
            entries.append(newest)
            position = next((index for index, other in enumerate(entries) if other is entry), None)
            return newest if position is None else entries.pop(position)
    return newest


def detach_if_current(token: object, key: str, value: object) -> None:
    """Detach ``token`` if ``value`` is still the current value of ``key``.

    Generators and threads leave their blocks in any order, and the garbage collector at any time.
    The current context may then belong to other code and stays unchanged.
    """
    if context_api.get_current().get(key) is value:
        detach(token)


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
