"""One client of the streams: what it wants, and how far it has been told. It holds no messages, so it cannot grow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from otel_progress.server.hub import Hub
    from otel_progress.server.messages import Message

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
        return (not self.types or message.type in self.types) and (self.batch is None or message.batch == self.batch)


class Follower:
    """A place in the sequence of a hub: what it gets next is whatever has a higher number and is wanted, oldest first.

    ``wide`` wants operations by what they are (None: none), ``ids`` wants them by name, with their levels where True.
    A slow one skips versions by itself, as only the newest is there. ``wake`` is set when there may be something new, ``gone`` when the
    client went, ``let_go`` when it was let go because it did not read.
    """

    def __init__(self, hub: Hub, transport: str) -> None:
        self.hub = hub
        self.transport = transport
        self.wake = asyncio.Event()
        self.wide: Selection | None = None
        self.ids: dict[str, bool] = {}
        self.skipped = 0
        self.blocked_since: float | None = None
        self.gone = False
        self.let_go = False
        self.task = asyncio.current_task()
        self._only: Selection | None = None
        self._wide_cursor = 0
        self._cursor = 0
        self._begun = 0
        self._fresh: dict[str, None] = {}

    def begin(self, wide: Selection | None, ids: Iterable[str], *, levels: bool, only: Selection | None = None) -> None:
        """Want something from the very start: the full set first. ``only`` narrows what is named by id."""
        self.wide, self._only = wide, only
        self._wide_cursor = self._cursor = 0
        self._begun = self.hub.head
        self.follow(ids, levels=levels)
        self._fresh.clear()

    def resume(self, cursor: int) -> None:
        """Go on after ``cursor``, which :meth:`Hub.can_resume` allowed."""
        self._wide_cursor = self._cursor = self._begun = cursor

    def restart(self) -> None:
        """Begin afresh with the full set."""
        self._wide_cursor = self._cursor = 0
        self._begun = self.hub.head
        self._fresh.clear()

    def widen(self, selection: Selection) -> None:
        """Want all operations as well; what there is of them comes first."""
        self.wide, self._wide_cursor = selection, 0
        self._begun = self.hub.head
        self.wake.set()

    def follow(self, ids: Iterable[str], *, levels: bool) -> None:
        """Want these ids as well; the state of each comes first."""
        for id_ in ids:
            before = self.ids.get(id_)
            if before is not None and before == levels:
                self._fresh[id_] = None
                continue
            if before is not None:
                self.hub.followed.unfollow(self, id_)
            self.ids[id_] = levels
            self.hub.follow(self, id_, levels=levels)
            self._fresh[id_] = None
        self.wake.set()

    def unfollow(self, ids: Iterable[str] | None) -> None:
        """No longer want these ids, or anything when None."""
        if ids is None:
            self.wide = None
        for id_ in list(self.ids) if ids is None else ids:
            if id_ in self.ids:
                self.hub.followed.unfollow(self, id_)
                del self.ids[id_]
                self._fresh.pop(id_, None)

    @property
    def cursor(self) -> int:
        """The last number it has been told everything up to."""
        return self._cursor if self.wide is None else self._wide_cursor

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Mark the time of a write, so that the hub can let go of a client that does not take it."""
        self.blocked_since = self.hub.clock()
        try:
            yield
        finally:
            self.blocked_since = None

    def is_behind(self) -> bool:
        """Tell whether something it should have been told was forgotten, so that it has to begin afresh."""
        hub = self.hub
        if self.wide is not None and hub.floor > max(self._wide_cursor, self._begun):
            return True
        return any(hub.followed.floor_of(id_) > max(self._cursor, self._begun) for id_ in self.ids)

    def is_up_to_date(self) -> bool:
        """Tell whether everything there was at the beginning has been taken, and everything named by id has been looked for."""
        hub = self.hub
        reached = self.wide is None or self._wide_cursor >= self._begun
        named = not self.ids or self._cursor >= self._begun
        return hub.primed and reached and named and not self._fresh and all(map(hub.followed.has_looked, self.ids))

    def take(self) -> list[Message]:
        """Return what comes next, a bounded number of messages, and move on; an empty list when there is nothing."""
        return self._take_fresh() or self._take_named() or self._take_wide()

    def _take_fresh(self) -> list[Message]:
        found: list[Message] = []
        while self._fresh and len(found) < PIECE_MESSAGES:
            id_ = next(iter(self._fresh))
            del self._fresh[id_]
            found += [message for message in self._of(id_, 0) if message.number <= self._cursor and message.kind not in _EVENTS]
        return found

    def _take_named(self) -> list[Message]:
        cursor, head = self._cursor, self.hub.head
        if not self.ids or cursor >= head:
            self._cursor = head
            return []
        found = [message for id_ in self.hub.changed_ids(self.ids, cursor) for message in self._of(id_, cursor)]
        found.sort(key=lambda message: message.number)
        return self._piece(found, "_cursor")

    def _take_wide(self) -> list[Message]:
        wide = self.wide
        if wide is None:
            self._wide_cursor = self.hub.head
            return []
        everything = wide == _EVERYTHING and not self.ids
        found: list[Message] = []
        for message in self.hub.after(self._wide_cursor):
            if everything or (wide.wants(message) and message.operation_id not in self.ids):
                found.append(message)
                if len(found) > PIECE_MESSAGES:
                    break
        return self._piece(found, "_wide_cursor")

    def _piece(self, found: list[Message], name: str) -> list[Message]:
        cursor: int = getattr(self, name)
        piece = found[:PIECE_MESSAGES]
        setattr(self, name, piece[-1].number if len(found) > PIECE_MESSAGES else self.hub.head)
        self.skipped += sum([message.skipped(cursor) for message in piece if message.earlier])
        return piece

    def _of(self, id_: str, cursor: int) -> Iterator[Message]:
        only = self._only
        for message in self.hub.of(id_, cursor, levels=self.ids[id_]):
            if only is None or message.kind in _EVENTS or only.wants(message):
                yield message


_EVERYTHING: Final = Selection()
_EVENTS: Final = ("item", "preview")
"""What happened at a moment, and is told to those who follow then."""
