"""What is kept of one operation because clients follow it by its id: its tree, its items, and what ended before anyone asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from otel_progress.observations import Preview
from otel_progress.operations import Event
from otel_progress.semconv import EVENT_ITEM

if TYPE_CHECKING:
    from otel_progress.server.follower import Follower
    from otel_progress.server.messages import Message

MOST_ITEMS: Final = 500
"""Items remembered of one operation, for clients that are behind."""
LATER_S: Final = (0.5, 1.5, 4.0, 10.0)
"""After the end of an operation it is looked at so many seconds one after the other: its last preview may be in the making."""
LOOK_EVERY_S: Final = 0.25
"""Time between two looks at the tree and the items of one operation, in seconds."""


class Following:
    """One id that somebody follows. ``began`` is the number of the sequence at which that started.

    ``whole`` is the operation in a message of its own: with its levels (``tree``), or as it was found in the past.
    """

    __slots__ = (
        "based",
        "began",
        "due_at",
        "followers",
        "items",
        "later",
        "left_at",
        "levels",
        "looked",
        "looked_at",
        "lost",
        "number",
        "operation_id",
        "run",
        "shown",
        "whole",
    )

    def __init__(self, operation_id: str, began: int, due_at: float) -> None:
        self.operation_id = operation_id
        self.began = began
        self.followers: set[Follower] = set()
        self.levels = 0
        self.whole: Message | None = None
        self.items: deque[Message] = deque()
        self.lost = 0
        self.based = self.looked = False
        self.looked_at = -LOOK_EVERY_S
        self.due_at: float | None = due_at
        self.left_at: float | None = None
        self.run: str | None = None
        self.number = 0
        self.shown: tuple[str, int] | None = None
        self.later: list[float] = []

    @property
    def floor(self) -> int:
        """The last number that is no longer, or was never, remembered."""
        return max(self.began, self.lost)

    def has_moved(self, cursor: int) -> bool:
        """Tell whether its tree or its items are newer than ``cursor``."""
        whole, items = self.whole, self.items
        return (whole is not None and whole.number > cursor) or bool(items and items[-1].number > cursor)

    def after(self, cursor: int) -> Iterator[Message]:
        """Yield the items above ``cursor``, in order."""
        return (item for item in self.items if item.number > cursor)

    def add(self, item: Message) -> None:
        """Remember an item; the oldest one goes when there are too many."""
        self.items.append(item)
        if len(self.items) > MOST_ITEMS:
            self.lost = max(self.lost, self.items.popleft().number)

    def new_items(self, events: Sequence[Event]) -> list[Event]:
        """Return the items among the newest events that were not told yet; at the first look none, they are the past."""
        if not events:
            self.based = True
            return []
        first, run = not self.based, events[-1].run
        told = self.number if run == self.run else -(2**63)
        self.based = True
        self.run, self.number = run, events[-1].number
        return [] if first else [event for event in events if event.number > told and event.kind == EVENT_ITEM]

    def new_previews(self, previews: Sequence[Preview]) -> list[Preview]:
        """Return those among the newest previews that were not told yet; at the first look none."""
        first, shown = self.shown is None, self.shown or ("", 0)
        if not previews:
            self.shown = shown
            return []
        told = shown[1] if previews[-1].run == shown[0] else 0
        self.shown = (previews[-1].run, max(previews[-1].number, told))
        return [] if first else [preview for preview in previews if preview.number > told]
