"""Blocks of pauses, opaque steps and batches, whose exits are guarded.

An exception of a signal handler can arrive between any two bytecodes. Each start and each end of a
block is therefore repeated or undone after an exception, and the exit of a block is guarded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from otel_progress.instrument.backend import backend_slot
from otel_progress.instrument.lifecycle import UNSTARTED_NODE
from otel_progress.live.node import BlockReference, add_orphan

if TYPE_CHECKING:
    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.live.node import Node


class BlockHandle(Protocol):
    """Handle with guarded blocks."""

    _prepared: BlockEntry | None

    def _end_block(self, entry: BlockEntry, error: BaseException | None) -> None: ...


class BlockEntry:
    """One block of a pause, an opaque step or a batch.

    It is also the key with which the live store identifies the block. ``is_owner`` is True when
    the block starts its level. ``thread`` is the identifier of the thread that requested the exit.
    """

    __slots__ = ("backend", "guard", "is_entered", "is_owner", "node", "thread")

    def __init__(self) -> None:
        self.backend: RecordingBackend | None = None
        self.node: Node | None = None
        self.is_entered = False
        self.is_owner = False
        self.guard: BlockReference | None = None
        self.thread = 0


class BlockExit:
    """Descriptor of an exit that detects when a block is left without it.

    It is that of ``__exit__`` or ``__aexit__``. A signal handler may raise at the first bytecode of
    the exit, where no ``try`` can catch it.
    The exit is then collected, and the next tick or query leaves the block. With ``starts_level``
    the block starts the level of its handle, unless it runs already.
    """

    __slots__ = ("_function", "_result", "_starts_level")

    def __init__(
        self, function: Callable[..., object], result: object = None, *, starts_level: bool = False
    ) -> None:
        self._function = function
        self._result = result
        self._starts_level = starts_level

    def __get__(self, handle: Any, owner: type | None = None) -> Callable[..., object]:
        if handle is None:
            return self._function
        entry = BlockEntry()
        # Why a partial: frames in a traceback do not reference it, and it can have attributes.
        leave = partial(_leave_block, self._result, handle, entry)
        if backend_slot.current is not None:
            if self._starts_level and handle._level._node is UNSTARTED_NODE:
                leave.level_exit = handle._level.__exit__  # type: ignore[attr-defined]
            entry.guard = guard = BlockReference(leave, add_orphan)
            guard.leave = None
            entry.thread = get_ident()
            handle._prepared = entry
        return leave


def _leave_block(
    result: object,
    handle: Any,
    entry: BlockEntry,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> object:
    if entry.is_entered:
        handle._end_block(entry, error)
    else:
        type(handle).__exit__(handle, kind, error, traceback)
    return result


def take_entry(handle: BlockHandle) -> BlockEntry:
    """Return the entry of the block that starts.

    It has no guard if its exit is unknown. The ``with`` statement has requested its exit
    immediately before. Another thread may have requested another one since then.
    """
    entry, handle._prepared = handle._prepared, None
    if entry is None or entry.thread != get_ident() or entry.guard is None or entry.guard() is None:
        entry = BlockEntry()
    entry.is_entered = True
    return entry


def drop_guard(entry: BlockEntry) -> None:
    """Stop watching the exit of a block that was left. Idempotent."""
    guard = entry.guard
    if guard is not None:
        entry.guard = guard.leave = None


def remove_entry(entries: list[BlockEntry], entry: BlockEntry) -> None:
    """Remove the entry of a block that was left. Idempotent."""
    drop_guard(entry)
    for index, other in enumerate(entries):
        if other is entry:
            del entries[index]
            return
