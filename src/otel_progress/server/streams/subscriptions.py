"""What is kept of one operation because clients follow it by its id: its tree, its items, and what ended before anyone asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from otel_progress.operations import Event
from otel_progress.records import Preview
from otel_progress.semconv import EVENT_ITEM

if TYPE_CHECKING:
    from otel_progress.server.streams.messages import Message
    from otel_progress.server.streams.subscriber import Subscriber


MOST_ITEMS: Final = 500
"""Items remembered of one operation, for clients that are behind."""


LATER_S: Final = (0.5, 1.5, 4.0, 10.0)
"""After the end of an operation it is looked at so many seconds one after the other: its last preview may be in the making."""


LOOK_EVERY_S: Final = 0.25
"""Time between two looks at the tree and the items of one operation, in seconds."""


class OperationSubscription:
    """One id that somebody follows. ``began`` is the number of the sequence at which that started.

    ``whole`` is the operation in a message of its own: with its levels (``tree``), or as it was found in the past.
    """

    __slots__ = (
        "began",
        "due_at",
        "follow_up_delays",
        "followers",
        "forgotten_up_to",
        "has_baseline",
        "items",
        "left_at",
        "levels",
        "looked_at",
        "number",
        "operation_id",
        "run",
        "shown",
        "tree_message",
        "was_polled",
    )

    def __init__(self, operation_id: str, began: int, due_at: float) -> None:
        self.operation_id = operation_id
        self.began = began
        self.followers: set[Subscriber] = set()
        self.levels = 0
        self.tree_message: Message | None = None
        self.items: deque[Message] = deque()
        self.forgotten_up_to = 0
        self.has_baseline = self.was_polled = False
        self.looked_at = -LOOK_EVERY_S
        self.due_at: float | None = due_at
        self.left_at: float | None = None
        self.run: str | None = None
        self.number = 0
        self.shown: tuple[str, int] | None = None
        self.follow_up_delays: list[float] = []

    @property
    def floor(self) -> int:
        """The last number that is no longer, or was never, remembered."""
        return max(self.began, self.forgotten_up_to)

    def has_moved(self, cursor: int) -> bool:
        """Tell whether its tree or its items are newer than ``cursor``."""
        whole, items = self.tree_message, self.items
        return (whole is not None and whole.number > cursor) or bool(items and items[-1].number > cursor)

    def after(self, cursor: int) -> Iterator[Message]:
        """Yield the items above ``cursor``, in order."""
        return (item for item in self.items if item.number > cursor)

    def add(self, item: Message) -> None:
        """Remember an item; the oldest one goes when there are too many."""
        self.items.append(item)
        if len(self.items) > MOST_ITEMS:
            self.forgotten_up_to = max(self.forgotten_up_to, self.items.popleft().number)

    def new_items(self, events: Sequence[Event]) -> list[Event]:
        """Return the items among the newest events that were not told yet; at the first look none, they are the past."""
        if not events:
            self.has_baseline = True
            return []
        first, run = not self.has_baseline, events[-1].run
        told = self.number if run == self.run else -(2**63)
        self.has_baseline = True
        self.run, self.number = run, events[-1].number
        return (
            [] if first else [event for event in events if event.number > told and event.kind == EVENT_ITEM]
        )

    def new_previews(self, previews: Sequence[Preview]) -> list[Preview]:
        """Return those among the newest previews that were not told yet; at the first look none."""
        first, shown = self.shown is None, self.shown or ("", 0)
        if not previews:
            self.shown = shown
            return []
        told = shown[1] if previews[-1].run == shown[0] else 0
        self.shown = (previews[-1].run, max(previews[-1].number, told))
        return [] if first else [preview for preview in previews if preview.number > told]


LINGER_S: Final = 60.0
"""How long what a client followed is kept without clients, in seconds, so that one that comes back can resume."""


class SubscriptionTable:
    """All followed ids of one hub; used from one thread. At most ``most_trees`` of them with their levels."""

    def __init__(self, clock: Callable[[], float], most_trees: int) -> None:
        self._clock = clock
        self._most_trees = most_trees
        self._ids: dict[str, OperationSubscription] = {}
        self._trees = 0

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, id_: str) -> OperationSubscription | None:
        """Return what is kept of an id; None when nobody follows it."""
        return self._ids.get(id_)

    def clear(self) -> None:
        """Forget all of them."""
        self._ids.clear()
        self._trees = 0

    def has_tree_for(self, ids: Iterable[str]) -> bool:
        """Tell whether these ids can be followed with their levels as well."""
        more = sum(1 for id_ in set(ids) if (known := self._ids.get(id_)) is None or not known.levels)
        return self._trees + more <= self._most_trees

    def remembers(self, ids: Iterable[str], cursor: int) -> bool:
        """Tell whether everything about these ids above ``cursor`` is still there."""
        known = (self._ids.get(id_) for id_ in ids)
        return all(following is not None and following.floor <= cursor for following in known)

    def follow(self, follower: Subscriber, id_: str, *, levels: bool, head: int) -> bool:
        """Keep an operation's tree and items from ``head`` on; tell whether it has to be looked at."""
        now = self._clock()
        following = self._ids.get(id_)
        if following is None:
            following = self._ids[id_] = OperationSubscription(id_, head, now)
        following.followers.add(follower)
        following.left_at = None
        if levels:
            following.levels += 1
            self._trees += following.levels == 1
            following.due_at = now
            if following.levels == 1:
                following.was_polled = False  # its tree has not been
        return following.due_at is not None

    def unfollow(self, follower: Subscriber, id_: str) -> None:
        """Keep them no longer for this client."""
        following = self._ids.get(id_)
        if following is None:  # the hub began anew since
            return
        following.followers.discard(follower)
        if follower.operation_ids.get(id_):
            following.levels -= 1
            self._trees -= following.levels == 0
        if not following.followers:
            following.left_at = self._clock()

    def changed(self, following: OperationSubscription) -> None:
        """Have an operation looked at, but not more often than is good."""
        soon = max(self._clock(), following.looked_at + LOOK_EVERY_S)
        following.due_at = soon if following.due_at is None else min(soon, following.due_at)

    def moved(self, ids: Mapping[str, bool], cursor: int) -> Iterator[str]:
        """Yield those of ``ids`` whose tree or items are newer than ``cursor``."""
        return (id_ for id_ in ids if (known := self._ids.get(id_)) is not None and known.has_moved(cursor))

    def has_looked(self, id_: str) -> bool:
        """Tell whether a followed operation has been looked for."""
        following = self._ids.get(id_)
        return following is None or following.was_polled

    def floor_of(self, id_: str) -> int:
        """Return the last number of items of an operation that were forgotten."""
        following = self._ids.get(id_)
        return 0 if following is None else following.forgotten_up_to

    def due(self, most: int) -> list[OperationSubscription]:
        """Return operations that have to be looked at now, those never looked at first."""
        now = self._clock()
        due = [
            one
            for one in self._ids.values()
            if one.due_at is not None and one.due_at <= now and one.followers
        ]
        due.sort(key=lambda one: (one.was_polled, one.due_at))
        for following in due[:most]:
            following.due_at, following.looked_at = (
                (now + following.follow_up_delays.pop(0) if following.follow_up_delays else None),
                now,
            )
        return due[:most]

    def forget_left(self) -> None:
        """Forget those that nobody has followed for a while."""
        oldest = self._clock() - LINGER_S
        for id_ in [
            id_ for id_, one in self._ids.items() if one.left_at is not None and one.left_at < oldest
        ]:
            del self._ids[id_]
