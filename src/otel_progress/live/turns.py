"""Whose turn it is to be estimated: operations before levels, who has waited longest first, and no level more than once a second.

Not thread-safe by itself: the live store's lock is held. Each step takes about the same time, however many levels wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Final

from otel_progress.live.course import EVERY_S, Course
from otel_progress.live.node import Node

AGING: Final = frozenset({"durations", "expected"})
"""What estimates rest on that change with time alone: they are made anew although nothing advanced."""
PATIENCE: Final = 0.02
"""Such an estimate is made anew after this part of the time worked, at least ``EVERY_S`` and at most ``LONGEST_S``."""
LONGEST_S: Final = 10.0


class Turns:
    """Levels that have something new to be estimated from, and those that were estimated so lately that they have to wait."""

    def __init__(self) -> None:
        self._operations: dict[Node, None] = {}
        self._levels: dict[Node, None] = {}
        self._resting: list[tuple[float, int, float, Node]] = []
        self._number = count().__next__

    def want(self, node: Node, course: Course) -> None:
        """Give the level a turn as soon as its second is over."""
        course.stale = True
        if not course.resting:
            self.now(node)

    def now(self, node: Node) -> None:
        """Give the level a turn at once."""
        (self._operations if node.parent is None else self._levels)[node] = None

    def next(self, among: Iterable[Node] | None = None) -> Node | None:
        """Return whose turn it is, of some levels or of all, and take the turn away; None when it is nobody's."""
        for queue in (self._operations, self._levels):
            node = next(iter(queue if among is None else (one for one in among if one in queue)), None)
            if node is not None:
                del queue[node]
                return node
        return None

    def rest(self, node: Node, course: Course, clock: float) -> None:
        """Let a level that is estimated now wait for its next turn."""
        course.stale, course.resting, course.asked = False, True, clock
        heappush(self._resting, (clock + EVERY_S, self._number(), clock, node))

    def wake(self, clock: float) -> None:
        """Give a turn to those that have waited for it long enough."""
        resting = self._resting
        while resting and resting[0][0] <= clock:
            _, _, asked, node = heappop(resting)
            course = node.course
            if course is None or course.asked != asked:
                continue
            course.resting = False
            if course.stale:
                self.now(node)
            elif course.eta is not None and course.eta.basis in AGING:
                worked = node.operation.worked(node.started_clock or clock, clock)
                again = asked + max(EVERY_S, min(LONGEST_S, PATIENCE * worked))
                if again <= clock:
                    self.now(node)
                else:
                    heappush(resting, (again, self._number(), asked, node))

    def drop(self, node: Node) -> None:
        """Let go of a level that ended."""
        self._operations.pop(node, None)
        self._levels.pop(node, None)

    def __len__(self) -> int:
        return len(self._operations) + len(self._levels)
