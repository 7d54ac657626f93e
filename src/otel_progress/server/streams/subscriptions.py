"""Operations that clients follow by id: trees, items and ended runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from otel_progress.operations import Event
from otel_progress.records import Preview
from otel_progress.semconv import EVENT_ITEM
from otel_progress.server.streams.messages import Message

MAX_ITEMS: Final = 500
"""Items stored per followed operation for slow clients. Older items are evicted."""


FOLLOW_UP_DELAYS_S: Final = (0.5, 1.5, 4.0, 10.0)
"""Delays of the polls after the end of an operation, in seconds. Its last preview may be late."""


TREE_POLL_S: Final = 0.25
"""Shortest time between two polls of one operation that changes, in seconds."""


ITEM_POLL_S: Final = 1.0
"""Time between two polls for the items and previews of an operation without changes, in seconds."""


ENDED_ITEM_POLL_S: Final = 10.0
"""The same for an operation that has ended, in seconds."""


MAX_ITEM_POLLS_PER_S: Final = 100.0
"""Polls per second for items of all operations without changes. With more operations each waits
longer.
"""


class OperationSubscription:
    """One followed id.

    ``start_number`` is the number of the sequence at which following started.

    ``tree_message`` has the operation with its levels, or as it was found in the past.
    """

    __slots__ = (
        "due_at",
        "evicted_up_to",
        "follow_up_delays",
        "has_baseline",
        "has_ended",
        "items",
        "last_preview",
        "left_at",
        "levels",
        "number",
        "operation_id",
        "polled_at",
        "run",
        "start_number",
        "tree_is_due",
        "tree_message",
        "wake_events",
        "was_polled",
    )

    def __init__(self, operation_id: str, start_number: int, due_at: float) -> None:
        self.operation_id = operation_id
        self.start_number = start_number
        self.wake_events: set[asyncio.Event] = set()
        self.levels = 0
        self.tree_message: Message | None = None
        self.items: deque[Message] = deque()
        self.evicted_up_to = 0
        self.has_baseline = self.was_polled = self.has_ended = self.tree_is_due = False
        self.polled_at = -TREE_POLL_S
        self.due_at: float | None = due_at
        self.left_at: float | None = None
        self.run: str | None = None
        self.number = 0
        self.last_preview: tuple[str, int] | None = None
        self.follow_up_delays: list[float] = []

    @property
    def oldest_resumable(self) -> int:
        """Highest number that is not stored: evicted, or before following started."""
        return max(self.start_number, self.evicted_up_to)

    def has_newer(self, cursor: int) -> bool:
        """Return True when the tree or an item is newer than ``cursor``."""
        tree, items = self.tree_message, self.items
        return (tree is not None and tree.number > cursor) or bool(items and items[-1].number > cursor)

    def items_after(self, cursor: int) -> Iterator[Message]:
        """Yield the items above ``cursor``, in order."""
        return (item for item in self.items if item.number > cursor)

    def add_item(self, item: Message) -> None:
        """Store an item, and evict the oldest above ``MAX_ITEMS``."""
        self.items.append(item)
        if len(self.items) > MAX_ITEMS:
            self.evicted_up_to = max(self.evicted_up_to, self.items.popleft().number)

    def is_new_event(self, event: Event) -> bool:
        """Return True when no earlier poll returned the event."""
        return event.run != self.run or event.number > self.number

    def is_new_preview(self, preview: Preview) -> bool:
        """Return True when no earlier poll returned the preview."""
        run, number = self.last_preview or ("", 0)
        return preview.run != run or preview.number > number

    def select_new_items(self, events: Sequence[Event]) -> list[Event]:
        """Return the items that are new.

        The first poll returns none: they are in the past.
        """
        is_first, self.has_baseline = not self.has_baseline, True
        if not events:
            return []
        last_number = self.number if events[-1].run == self.run else -(2**63)
        self.run, self.number = events[-1].run, events[-1].number
        if is_first:
            return []
        return [event for event in events if event.number > last_number and event.kind == EVENT_ITEM]

    def select_new_previews(self, previews: Sequence[Preview]) -> list[Preview]:
        """Return the previews that are new. The first poll returns none."""
        is_first, last_preview = self.last_preview is None, self.last_preview or ("", 0)
        if not previews:
            self.last_preview = last_preview
            return []
        last_number = last_preview[1] if previews[-1].run == last_preview[0] else 0
        self.last_preview = (previews[-1].run, max(previews[-1].number, last_number))
        return [] if is_first else [preview for preview in previews if preview.number > last_number]


LINGER_S: Final = 60.0
"""Time for which state is stored without clients, in seconds. A client that returns in time can
resume.
"""


class SubscriptionTable:
    """All followed ids of one hub, at most ``max_trees`` of them with levels.

    Used from one thread.
    """

    def __init__(self, clock: Callable[[], float], max_trees: int) -> None:
        self._clock = clock
        self._max_trees = max_trees
        self._by_id: dict[str, OperationSubscription] = {}
        self._tree_count = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id_: str) -> OperationSubscription | None:
        """Return the subscription of an id, None when no client follows it."""
        return self._by_id.get(id_)

    def clear(self) -> None:
        """Remove all subscriptions."""
        self._by_id.clear()
        self._tree_count = 0

    def has_tree_capacity(self, ids: Iterable[str]) -> bool:
        """Return True when these ids can be followed with their levels."""
        added = sum(1 for id_ in set(ids) if (known := self._by_id.get(id_)) is None or not known.levels)
        return self._tree_count + added <= self._max_trees

    def can_resume(self, ids: Iterable[str], cursor: int) -> bool:
        """Return True when everything about these ids above ``cursor`` is still stored."""
        subscriptions = (self._by_id.get(id_) for id_ in ids)
        return all(known is not None and known.oldest_resumable <= cursor for known in subscriptions)

    def follow(self, wake_event: asyncio.Event, id_: str, *, levels: bool, last_number: int) -> bool:
        """Follow an operation from ``last_number`` on.

        Return True when it has to be polled.
        """
        now = self._clock()
        subscription = self._by_id.get(id_)
        if subscription is None:
            subscription = self._by_id[id_] = OperationSubscription(id_, last_number, now)
        subscription.wake_events.add(wake_event)
        subscription.left_at = None
        if levels:
            subscription.levels += 1
            self._tree_count += subscription.levels == 1
            subscription.due_at = now
            if subscription.levels == 1:
                # An earlier poll did not read the tree.
                subscription.was_polled = False
        return subscription.due_at is not None

    def unfollow(self, wake_event: asyncio.Event, id_: str, *, levels: bool) -> None:
        """Stop following an operation for one client.

        ``levels`` is the value that it followed with.
        """
        subscription = self._by_id.get(id_)
        if subscription is None:
            # The hub was restarted.
            return
        subscription.wake_events.discard(wake_event)
        if levels:
            subscription.levels -= 1
            self._tree_count -= subscription.levels == 0
        if not subscription.wake_events:
            subscription.left_at = self._clock()

    def schedule_poll(self, subscription: OperationSubscription) -> None:
        """Schedule a poll of an operation that changed.

        Polls of one operation are at least ``TREE_POLL_S`` seconds apart.
        """
        soon = max(self._clock(), subscription.polled_at + TREE_POLL_S)
        subscription.due_at = soon if subscription.due_at is None else min(soon, subscription.due_at)

    def ids_with_newer(self, ids: Mapping[str, bool], cursor: int) -> Iterator[str]:
        """Yield those of ``ids`` whose tree or items are newer than ``cursor``."""
        return (id_ for id_ in ids if (known := self._by_id.get(id_)) is not None and known.has_newer(cursor))

    def was_polled(self, id_: str) -> bool:
        """Return True when a followed operation has been polled."""
        subscription = self._by_id.get(id_)
        return subscription is None or subscription.was_polled

    def evicted_up_to(self, id_: str) -> int:
        """Return the number of the last evicted item of an operation."""
        subscription = self._by_id.get(id_)
        return 0 if subscription is None else subscription.evicted_up_to

    def start_due_polls(self, max_number: int) -> list[OperationSubscription]:
        """Return operations whose poll is due, and schedule their next poll.

        Operations without any poll come first.

        ``tree_is_due`` is False where only items and previews are polled, as nothing else changed.
        """
        now = self._clock()
        spacing = len(self._by_id) / MAX_ITEM_POLLS_PER_S
        due: list[tuple[bool, float, OperationSubscription]] = []
        for subscription in self._by_id.values():
            pause = max(ENDED_ITEM_POLL_S if subscription.has_ended else ITEM_POLL_S, spacing)
            item_due_at = subscription.polled_at + pause
            due_at = item_due_at if subscription.due_at is None else min(subscription.due_at, item_due_at)
            if due_at <= now and subscription.wake_events:
                due.append((subscription.was_polled, due_at, subscription))
        due.sort(key=lambda entry: entry[:2])
        selected = [subscription for _, _, subscription in due[:max_number]]
        for subscription in selected:
            subscription.polled_at = now
            subscription.tree_is_due = subscription.due_at is not None and subscription.due_at <= now
            if subscription.tree_is_due:
                delays = subscription.follow_up_delays
                subscription.due_at = now + delays.pop(0) if delays else None
        return selected

    def evict_unfollowed(self) -> None:
        """Remove the operations that no client has followed for ``LINGER_S`` seconds."""
        oldest = self._clock() - LINGER_S
        unfollowed = [
            id_ for id_, known in self._by_id.items() if known.left_at is not None and known.left_at < oldest
        ]
        for id_ in unfollowed:
            del self._by_id[id_]
