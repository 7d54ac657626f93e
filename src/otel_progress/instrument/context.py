"""OpenTelemetry context of levels: current level, span, attaching and detaching."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_progress.instrument import spans
from otel_progress.instrument.backend import BATCH_KEY, LEVEL_KEY, LINK_KEY

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.instrument.handle import LevelHandle
    from otel_progress.live.node import BlockReference
    from otel_progress.model import ParentLink


_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, context_api.Context())))
"""Key of the span in a context. With it a level's context needs one copy instead of two."""


_BEFORE: Final = 0
"""Index of the context before the block in its entry."""


_CONTEXT: Final = 1
"""Index of the context inside the block in its entry."""


_TOKEN: Final = 2
"""Index of the token in the entry of a block."""


_GUARD: Final = 3
"""Index of the reference to the exit of a batch's block in its entry. None without one."""


_BATCH_ID: Final = 4
"""Index of the batch id in the entry of a batch's block."""


def get_current_level(context: context_api.Context | None = None) -> LevelHandle | None:
    """Return the current level or its nearest running ancestor, or None.

    ``context`` is the current context by default.
    """
    current = restore_context() if context is None else context
    level = cast("LevelHandle | None", current.get(LEVEL_KEY))
    while level is not None and not (level.recording and _is_entered(level)):
        level = level._parent
    return level


def _is_entered(level: LevelHandle) -> bool:
    """Return False if an exception interrupted the exit of the level's ``with`` block."""
    return level._guard is None or level._guard() is not None


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

    It is the current context. If ``parent`` is not the current level, it contains its span. A span
    that the body of a loop has started is below that of the loop already.
    """
    current = context_api.get_current()
    if parent is None or current.get(LEVEL_KEY) is parent:
        return current
    if parent._node.tracked and _has_span_of_body(parent, current):
        return current
    return spans.build_span_context(parent.span)


def _has_span_of_body(loop: LevelHandle, current: context_api.Context) -> bool:
    """Return whether the body of a loop started the current span.

    It is in the trace of the loop. A loop does not change the context. So the current span is
    otherwise the parent of its span.
    """
    span = cast("Span | None", current.get(_SPAN_KEY))
    if span is None:
        return False
    own, own_parent, other = (
        loop._span.get_span_context(),
        getattr(loop._span, "parent", None),
        span.get_span_context(),
    )
    if not other.is_valid or other.trace_id != own.trace_id:
        return False
    return own_parent is not None and other.span_id not in (own.span_id, own_parent.span_id)


def build_level_context(
    level: LevelHandle, current: context_api.Context | None = None
) -> context_api.Context:
    """Return a copy of ``current`` with the level and its span.

    The default of ``current`` is the current context.
    """
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


ContextEntry: TypeAlias = "list[Any]"
"""One entry of a block: the contexts before and inside it, and the token that leaves it.

The token is None if the block did not change the context. A list, because each start of a block
creates one.
"""


def enter_level_context(level: LevelHandle, entries: list[ContextEntry]) -> None:
    """Make a level current, unless it is current already. Add the entry of its block."""
    current = context_api.get_current()
    parent = cast("LevelHandle | None", current.get(LEVEL_KEY))
    if parent is not None and parent._guard is not None and parent._guard() is None:
        current = restore_context()
        parent = cast("LevelHandle | None", current.get(LEVEL_KEY))
    entry: ContextEntry = [current, current, None]
    # Why first: an exception that interrupts the change finds the entry.
    entries.append(entry)
    if parent is not level:
        entry[_CONTEXT] = context = build_level_context(level, current)
        entry[_TOKEN] = context_api.attach(context)


def enter_batch_context(batch_id: str, entries: list[ContextEntry], guard: BlockReference | None) -> None:
    """Make a batch current. Add the entry of its block.

    The entry is the value of ``BATCH_KEY``. ``guard`` references the exit of the block.
    """
    current = restore_context()
    entry: ContextEntry = [current, current, None, guard, batch_id]
    entries.append(entry)
    entry[_CONTEXT] = context = context_api.set_value(BATCH_KEY, entry, current)
    entry[_TOKEN] = context_api.attach(context)


def get_current_batch() -> str | None:
    """Return the id of the current batch, or None."""
    entry: ContextEntry | None = context_api.get_current().get(BATCH_KEY)  # type: ignore[assignment]
    if entry is None or not _is_left_block(entry):
        return None if entry is None else cast(str, entry[_BATCH_ID])
    entry = restore_context().get(BATCH_KEY)  # type: ignore[assignment]
    return None if entry is None or _is_left_block(entry) else cast(str, entry[_BATCH_ID])


def get_guard(entry: ContextEntry) -> BlockReference | None:
    """Return the reference to the exit of a batch's block, or None."""
    return cast("BlockReference | None", entry[_GUARD])


def _is_left_block(entry: ContextEntry) -> bool:
    """Return True if an exception interrupted the exit of a batch's block."""
    return entry[_GUARD] is not None and entry[_GUARD]() is None


def cancel_entry(entries: list[ContextEntry]) -> None:
    """Undo the newest entry, which an exception interrupted."""
    entry = entries[-1]
    before, context, token = entry[:_GUARD]
    if context is not before and context_api.get_current() is context:
        if token is None:
            context_api.attach(before)
        else:
            detach(token)
    _remove(entries, entry)


def leave_level_context(entries: list[ContextEntry], level: LevelHandle) -> None:
    """Restore the context before the block of a level that ends, and remove its entry.

    Several threads and tasks can be in blocks of one handle. The entry of this one has the current
    context. If the block left another context behind, the newest entry is removed.
    """
    current = context_api.get_current()
    try:
        entry = entries[-1]
    except IndexError:  # another thread removed the last one
        return
    if entry[_CONTEXT] is not current:
        entry = _find_entry(entries, current)
    # Why first: the call is repeated when an exception interrupts it.
    _detach_entry(entry, current, LEVEL_KEY, level)
    try:
        # Why without a call in between: another thread may add and remove entries.
        if entries[-1] is entry:
            del entries[-1]
            return
    except IndexError:
        return
    _remove(entries, entry)


def leave_batch_context(entries: list[ContextEntry]) -> None:
    """Restore the context before a batch's block, like :func:`leave_level_context`."""
    current = restore_context()
    try:
        entry = _find_entry(entries, current)
    except IndexError:  # another thread removed the last one
        return
    _detach_entry(entry, current, BATCH_KEY, entry)
    if entry[_GUARD] is not None:
        entry[_GUARD].leave = None
    # Why: contexts that tasks copied from the block reference the entry.
    entry[_GUARD] = entry[_CONTEXT] = entry[_BEFORE] = None
    _remove(entries, entry)


def _find_entry(entries: list[ContextEntry], current: context_api.Context) -> ContextEntry:
    """Return the entry with the current context, else the newest one.

    Raises IndexError if the list is empty.
    """
    return next((entry for entry in reversed(entries) if entry[_CONTEXT] is current), entries[-1])


def _detach_entry(entry: ContextEntry, current: context_api.Context, key: str, value: object) -> None:
    token = entry[_TOKEN]
    if token is None:
        return
    if entry[_CONTEXT] is current:
        detach(token)
    else:
        detach_if_current(token, key, value)


def _remove(entries: list[ContextEntry], entry: ContextEntry) -> None:
    """Remove an entry by its identity. Another thread may have removed it."""
    for index, other in enumerate(entries):
        if other is entry:
            del entries[index]
            return


def restore_context() -> context_api.Context:
    """Return the current context, without blocks whose exit was interrupted."""
    current = context_api.get_current()
    while True:
        level = cast("LevelHandle | None", current.get(LEVEL_KEY))
        block = cast("ContextEntry | None", current.get(BATCH_KEY))
        entry: ContextEntry | None = None
        entries: list[ContextEntry] = []
        if block is not None and block[_CONTEXT] is current:
            entry = block if _is_left_block(block) else None
        elif level is not None and not _is_entered(level):
            entries = level._entries or []
            entry = next((entry for entry in reversed(entries) if entry[_CONTEXT] is current), None)
        if entry is None or entry[_TOKEN] is None:
            return current
        detach(entry[_TOKEN])
        _remove(entries, entry)
        left, current = current, context_api.get_current()
        if current is left:
            return current


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
