"""The operations that clients follow by their ids: who follows which, with levels or without, and when each has to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from otel_progress.server.following import LOOK_EVERY_S, Following

if TYPE_CHECKING:
    from otel_progress.server.follower import Follower

LINGER_S: Final = 60.0
"""How long what a client followed is kept without clients, in seconds, so that one that comes back can resume."""


class Followed:
    """All followed ids of one hub; used from one thread. At most ``most_trees`` of them with their levels."""

    def __init__(self, clock: Callable[[], float], most_trees: int) -> None:
        self._clock = clock
        self._most_trees = most_trees
        self._ids: dict[str, Following] = {}
        self._trees = 0

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, id_: str) -> Following | None:
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

    def follow(self, follower: Follower, id_: str, *, levels: bool, head: int) -> bool:
        """Keep an operation's tree and items from ``head`` on; tell whether it has to be looked at."""
        now = self._clock()
        following = self._ids.get(id_)
        if following is None:
            following = self._ids[id_] = Following(id_, head, now)
        following.followers.add(follower)
        following.left_at = None
        if levels:
            following.levels += 1
            self._trees += following.levels == 1
            following.due_at = now
            if following.levels == 1:
                following.looked = False  # its tree has not been
        return following.due_at is not None

    def unfollow(self, follower: Follower, id_: str) -> None:
        """Keep them no longer for this client."""
        following = self._ids.get(id_)
        if following is None:  # the hub began anew since
            return
        following.followers.discard(follower)
        if follower.ids.get(id_):
            following.levels -= 1
            self._trees -= following.levels == 0
        if not following.followers:
            following.left_at = self._clock()

    def changed(self, following: Following) -> None:
        """Have an operation looked at, but not more often than is good."""
        soon = max(self._clock(), following.looked_at + LOOK_EVERY_S)
        following.due_at = soon if following.due_at is None else min(soon, following.due_at)

    def moved(self, ids: Mapping[str, bool], cursor: int) -> Iterator[str]:
        """Yield those of ``ids`` whose tree or items are newer than ``cursor``."""
        return (id_ for id_ in ids if (known := self._ids.get(id_)) is not None and known.has_moved(cursor))

    def has_looked(self, id_: str) -> bool:
        """Tell whether a followed operation has been looked for."""
        following = self._ids.get(id_)
        return following is None or following.looked

    def floor_of(self, id_: str) -> int:
        """Return the last number of items of an operation that were forgotten."""
        following = self._ids.get(id_)
        return 0 if following is None else following.lost

    def due(self, most: int) -> list[Following]:
        """Return operations that have to be looked at now, those never looked at first."""
        now = self._clock()
        due = [one for one in self._ids.values() if one.due_at is not None and one.due_at <= now and one.followers]
        due.sort(key=lambda one: (one.looked, one.due_at))
        for following in due[:most]:
            following.due_at, following.looked_at = (now + following.later.pop(0) if following.later else None), now
        return due[:most]

    def forget_left(self) -> None:
        """Forget those that nobody has followed for a while."""
        oldest = self._clock() - LINGER_S
        for id_ in [id_ for id_, one in self._ids.items() if one.left_at is not None and one.left_at < oldest]:
            del self._ids[id_]
