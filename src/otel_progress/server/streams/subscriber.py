"""One client of the streams: what it wants, and how far it has been told. It holds no messages, so it cannot grow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from otel_progress.server.streams.hub import Hub
    from otel_progress.server.streams.messages import Message


PIECE_MESSAGES: Final = 48
"""Most messages handed out at once: what a client that stopped reading holds on to."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which operations a client wants, of those it does not name: all, or those of some types or of one batch."""

    types: frozenset[str] = frozenset()
    batch: str | None = None

    def wants(self, message: Message) -> bool:
        """Tell whether a message is among them."""
        if message.kind == "batch":
            return message.batch == self.batch if self.batch is not None else not self.types
        return (not self.types or message.type in self.types) and (
            self.batch is None or message.batch == self.batch
        )


class Subscriber:
    """A place in the sequence of a hub: what it gets next is whatever has a higher number and is wanted, oldest first.

    ``wide`` wants operations by what they are (None: none), ``ids`` wants them by name, with their levels where True.
    A slow one skips versions by itself, as only the newest is there. ``wake`` is set when there may be something new, ``gone`` when the
    client went, ``let_go`` when it was let go because it did not read.
    """

    def __init__(self, hub: Hub, transport: str) -> None:
        self.hub = hub
        self.transport = transport
        self.wake = asyncio.Event()
        self.global_selection: Selection | None = None
        self.operation_ids: dict[str, bool] = {}
        self.skipped = 0
        self.blocked_since: float | None = None
        self.disconnected = False
        self.evicted = False
        self.task = asyncio.current_task()
        self._id_selection: Selection | None = None
        self._global_cursor = 0
        self._cursor = 0
        self._begun = 0
        self._initial: dict[str, None] = {}

    def begin(
        self, wide: Selection | None, ids: Iterable[str], *, levels: bool, only: Selection | None = None
    ) -> None:
        """Want something from the very start: the full set first. ``only`` narrows what is named by id."""
        self.global_selection, self._id_selection = wide, only
        self._global_cursor = self._cursor = 0
        self._begun = self.hub.head
        self.follow(ids, levels=levels)
        self._initial.clear()

    def resume(self, cursor: int) -> None:
        """Go on after ``cursor``, which :meth:`Hub.can_resume` allowed."""
        self._global_cursor = self._cursor = self._begun = cursor

    def restart(self) -> None:
        """Begin afresh with the full set."""
        self._global_cursor = self._cursor = 0
        self._begun = self.hub.head
        self._initial.clear()

    def widen(self, selection: Selection) -> None:
        """Want all operations as well; what there is of them comes first."""
        self.global_selection, self._global_cursor = selection, 0
        self._begun = self.hub.head
        self.wake.set()

    def follow(self, ids: Iterable[str], *, levels: bool) -> None:
        """Want these ids as well; the state of each comes first."""
        for id_ in ids:
            before = self.operation_ids.get(id_)
            if before is not None and before == levels:
                self._initial[id_] = None
                continue
            if before is not None:
                self.hub.subscriptions.unfollow(self, id_)
            self.operation_ids[id_] = levels
            self.hub.follow(self, id_, levels=levels)
            self._initial[id_] = None
        self.wake.set()

    def unfollow(self, ids: Iterable[str] | None) -> None:
        """No longer want these ids, or anything when None."""
        if ids is None:
            self.global_selection = None
        for id_ in list(self.operation_ids) if ids is None else ids:
            if id_ in self.operation_ids:
                self.hub.subscriptions.unfollow(self, id_)
                del self.operation_ids[id_]
                self._initial.pop(id_, None)

    @property
    def cursor(self) -> int:
        """The last number it has been told everything up to."""
        return self._cursor if self.global_selection is None else self._global_cursor

    @contextmanager
    def timed_write(self) -> Iterator[None]:
        """Mark the time of a write, so that the hub can let go of a client that does not take it."""
        self.blocked_since = self.hub.clock()
        try:
            yield
        finally:
            self.blocked_since = None

    def is_behind(self) -> bool:
        """Tell whether something it should have been told was forgotten, so that it has to begin afresh."""
        hub = self.hub
        if self.global_selection is not None and hub.floor > max(self._global_cursor, self._begun):
            return True
        return any(
            hub.subscriptions.floor_of(id_) > max(self._cursor, self._begun) for id_ in self.operation_ids
        )

    def is_up_to_date(self) -> bool:
        """Tell whether everything there was at the beginning has been taken, and everything named by id has been looked for."""
        hub = self.hub
        reached = self.global_selection is None or self._global_cursor >= self._begun
        named = not self.operation_ids or self._cursor >= self._begun
        return (
            hub.primed
            and reached
            and named
            and not self._initial
            and all(map(hub.subscriptions.has_looked, self.operation_ids))
        )

    def next_messages(self) -> list[Message]:
        """Return what comes next, a bounded number of messages, and move on; an empty list when there is nothing."""
        return self._take_fresh() or self._take_named() or self._take_wide()

    def _take_fresh(self) -> list[Message]:
        found: list[Message] = []
        while self._initial and len(found) < PIECE_MESSAGES:
            id_ = next(iter(self._initial))
            del self._initial[id_]
            found += [
                message
                for message in self._of(id_, 0)
                if message.number <= self._cursor and message.kind not in _EVENTS
            ]
        return found

    def _take_named(self) -> list[Message]:
        cursor, head = self._cursor, self.hub.head
        if not self.operation_ids or cursor >= head:
            self._cursor = head
            return []
        found = [
            message
            for id_ in self.hub.changed_ids(self.operation_ids, cursor)
            for message in self._of(id_, cursor)
        ]
        found.sort(key=lambda message: message.number)
        return self._piece(found, "_cursor")

    def _take_wide(self) -> list[Message]:
        wide = self.global_selection
        if wide is None:
            self._global_cursor = self.hub.head
            return []
        everything = wide == _EVERYTHING and not self.operation_ids
        found: list[Message] = []
        for message in self.hub.after(self._global_cursor):
            if everything or (wide.wants(message) and message.operation_id not in self.operation_ids):
                found.append(message)
                if len(found) > PIECE_MESSAGES:
                    break
        return self._piece(found, "_global_cursor")

    def _piece(self, found: list[Message], name: str) -> list[Message]:
        cursor: int = getattr(self, name)
        piece = found[:PIECE_MESSAGES]
        setattr(self, name, piece[-1].number if len(found) > PIECE_MESSAGES else self.hub.head)
        self.skipped += sum([message.skipped(cursor) for message in piece if message.replaced_numbers])
        return piece

    def _of(self, id_: str, cursor: int) -> Iterator[Message]:
        only = self._id_selection
        for message in self.hub.of(id_, cursor, levels=self.operation_ids[id_]):
            if only is None or message.kind in _EVENTS or only.wants(message):
                yield message


_EVERYTHING: Final = Selection()


_EVENTS: Final = ("item", "preview")
"""What happened at a moment, and is told to those who follow then."""
