"""One client of the streams: its filter and its cursor.

It buffers no messages, so its memory is constant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from otel_progress.semconv import Transport
from otel_progress.server.streams.messages import Message
from otel_progress.server.streams.subscriptions import SubscriptionTable

PIECE_MESSAGES: Final = 48
"""Messages per write. A client that stopped reading holds at most this many."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Filter of operations that a client does not name by id."""

    types: frozenset[str] = frozenset()
    batch: str | None = None

    def matches(self, message: Message) -> bool:
        """Return True when the client wants a message."""
        if message.kind == "batch":
            return message.batch == self.batch if self.batch is not None else not self.types
        return (not self.types or message.type in self.types) and (
            self.batch is None or message.batch == self.batch
        )


class Timeline(Protocol):
    """Part of the hub that a subscriber reads."""

    clock: Callable[[], float]
    primed: bool
    subscriptions: SubscriptionTable

    @property
    def last_number(self) -> int:
        """The last assigned number."""

    @property
    def oldest_resumable(self) -> int:
        """The highest number of an evicted message."""

    def messages_after(self, cursor: int) -> Sequence[Message]:
        """Return the messages above ``cursor``, in order."""

    def messages_of(self, id_: str, cursor: int, *, levels: bool) -> Iterator[Message]:
        """Yield the messages of an operation above ``cursor``."""

    def changed_ids(self, ids: Mapping[str, bool], cursor: int) -> Iterable[str]:
        """Return those of ``ids`` that may have messages above ``cursor``."""

    def follow(self, wake_event: asyncio.Event, id_: str, *, levels: bool) -> None:
        """Start to poll an operation for a client."""


class Subscriber:
    """A cursor in the sequence of a hub.

    The next messages are those with a higher number, oldest first.

    ``global_selection`` selects operations by type or batch (None: none). ``operation_ids`` selects
    them by id, with their levels where True. A slow client skips versions, as the hub has only the
    latest. ``wake`` is set when there may be messages, ``disconnected`` when the client has closed,
    ``evicted`` when the hub disconnected it because it did not read.
    """

    def __init__(self, hub: Timeline, transport: Transport) -> None:
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
        self._includes_all = False
        self._global_cursor = 0
        self._id_cursor = 0
        self._start_number = 0
        self._initial: dict[str, None] = {}

    def start(
        self,
        global_selection: Selection | None,
        ids: Iterable[str],
        *,
        levels: bool,
        id_selection: Selection | None = None,
        includes_all: bool = False,
    ) -> None:
        """Start with the full set of messages.

        ``id_selection`` filters the operations named by id. With ``includes_all`` the global
        selection also includes the operations named by id, and all messages are in one order.
        """
        self.global_selection, self._id_selection = global_selection, id_selection
        self._includes_all = includes_all
        self.follow(ids, levels=levels)
        self.restart()

    def resume(self, cursor: int) -> None:
        """Continue after ``cursor``, which :meth:`Hub.find_cursor` returned."""
        self._global_cursor = self._id_cursor = self._start_number = cursor

    def resume_with(self, cursor: int, ids: Iterable[str]) -> None:
        """Continue after ``cursor``. The current state of each of ``ids`` comes first."""
        self.resume(cursor)
        self._initial.update(dict.fromkeys(ids))

    def restart(self) -> None:
        """Start again with the full set of messages."""
        self._global_cursor = self._id_cursor = 0
        self._start_number = self.hub.last_number
        self._initial.clear()

    def follow_all(self, selection: Selection) -> None:
        """Also follow all selected operations. Their current state comes first."""
        self.global_selection, self._global_cursor = selection, 0
        self._start_number = self.hub.last_number
        self.wake.set()

    def follow(self, ids: Iterable[str], *, levels: bool) -> None:
        """Also follow these ids. The current state of each comes first."""
        for id_ in ids:
            current = self.operation_ids.get(id_)
            if current is not None and current != levels:
                self.hub.subscriptions.unfollow(self.wake, id_, levels=current)
            if current != levels:
                self.operation_ids[id_] = levels
                self.hub.follow(self.wake, id_, levels=levels)
            self._initial[id_] = None
        self.wake.set()

    def unfollow(self, ids: Iterable[str] | None) -> None:
        """Stop following these ids, or everything when None."""
        if ids is None:
            self.global_selection = None
        for id_ in list(self.operation_ids) if ids is None else ids:
            if id_ in self.operation_ids:
                self.hub.subscriptions.unfollow(self.wake, id_, levels=self.operation_ids.pop(id_))
                self._initial.pop(id_, None)

    @property
    def cursor(self) -> int:
        """The number up to which the client has received all messages."""
        return self._id_cursor if self.global_selection is None else self._global_cursor

    @contextmanager
    def timed_write(self) -> Iterator[None]:
        """Record the time of a write, so that the hub detects a blocked client."""
        self.blocked_since = self.hub.clock()
        try:
            yield
        finally:
            self.blocked_since = None

    def is_behind(self) -> bool:
        """Return True when a message for this client was evicted.

        It then has to start again.
        """
        hub, start = self.hub, self._start_number
        if self.global_selection is not None and hub.oldest_resumable > max(self._global_cursor, start):
            return True
        cursor = max(self._id_cursor, start)
        return any(hub.subscriptions.evicted_up_to(id_) > cursor for id_ in self.operation_ids)

    def is_up_to_date(self) -> bool:
        """Return True when the client has received its initial state.

        All messages up to the start are delivered, and every followed id was polled.
        """
        global_is_done = self.global_selection is None or self._global_cursor >= self._start_number
        ids_are_done = not self.operation_ids or self._id_cursor >= self._start_number
        return (
            self.hub.primed
            and global_is_done
            and ids_are_done
            and not self._initial
            and all(map(self.hub.subscriptions.was_polled, self.operation_ids))
        )

    def next_messages(self) -> list[Message]:
        """Return the next messages and advance the cursor.

        At most ``PIECE_MESSAGES`` per group.

        The list is empty when there is nothing new.
        """
        if self._includes_all:
            return self._next_initial_messages() or self._next_merged_messages()
        return self._next_initial_messages() or self._next_id_messages() or self._next_global_messages()

    def _next_initial_messages(self) -> list[Message]:
        messages: list[Message] = []
        while self._initial and len(messages) < PIECE_MESSAGES:
            id_ = next(iter(self._initial))
            del self._initial[id_]
            messages += [
                message
                for message in self._select_messages(id_, 0)
                if message.number <= self._id_cursor and message.kind not in _MOMENTARY_KINDS
            ]
        return messages

    def _next_id_messages(self) -> list[Message]:
        cursor, last_number = self._id_cursor, self.hub.last_number
        if not self.operation_ids or cursor >= last_number:
            self._id_cursor = last_number
            return []
        messages = [
            message
            for id_ in self.hub.changed_ids(self.operation_ids, cursor)
            for message in self._select_messages(id_, cursor)
        ]
        messages.sort(key=lambda message: message.number)
        self._id_cursor = self._cursor_after(messages)
        return self._count_piece(messages, cursor)

    def _next_global_messages(self) -> list[Message]:
        selection, cursor = self.global_selection, self._global_cursor
        if selection is None:
            self._global_cursor = self.hub.last_number
            return []
        has_everything = selection == _EVERYTHING and not self.operation_ids
        messages: list[Message] = []
        for message in self.hub.messages_after(cursor):
            if has_everything or (
                selection.matches(message) and message.operation_id not in self.operation_ids
            ):
                messages.append(message)
                if len(messages) > PIECE_MESSAGES:
                    break
        self._global_cursor = self._cursor_after(messages)
        return self._count_piece(messages, cursor)

    def _next_merged_messages(self) -> list[Message]:
        """Return the messages of both selections in one order.

        A client can therefore resume after any of them.
        """
        selection, cursor = self.global_selection, self._global_cursor
        last_number = self.hub.last_number
        if selection is None or cursor >= last_number:
            self._global_cursor = self._id_cursor = last_number
            return []
        selected = (message for message in self.hub.messages_after(cursor) if selection.matches(message))
        messages = {message.number: message for message in islice(selected, PIECE_MESSAGES + 1)}
        for id_ in self.hub.changed_ids(self.operation_ids, cursor):
            for message in self._select_messages(id_, cursor):
                messages[message.number] = message
        ordered = [messages[number] for number in sorted(messages)]
        self._global_cursor = self._id_cursor = self._cursor_after(ordered)
        return self._count_piece(ordered, cursor)

    def _cursor_after(self, messages: list[Message]) -> int:
        """Return the cursor after the first ``PIECE_MESSAGES`` of all messages."""
        if len(messages) > PIECE_MESSAGES:
            return messages[PIECE_MESSAGES - 1].number
        return self.hub.last_number

    def _count_piece(self, messages: list[Message], cursor: int) -> list[Message]:
        """Return the first ``PIECE_MESSAGES`` messages, and count replaced versions."""
        piece = messages[:PIECE_MESSAGES]
        self.skipped += sum([message.count_skipped(cursor) for message in piece if message.replaced_numbers])
        return piece

    def _select_messages(self, id_: str, cursor: int) -> Iterator[Message]:
        selection = self._id_selection
        for message in self.hub.messages_of(id_, cursor, levels=self.operation_ids[id_]):
            if selection is None or message.kind in _MOMENTARY_KINDS or selection.matches(message):
                yield message


_EVERYTHING: Final = Selection()


_MOMENTARY_KINDS: Final = ("item", "preview")
"""Kinds that describe a moment. Only clients that follow the operation at that moment receive them.
"""
