"""Whose turn it is to be estimated: operations before levels, who has waited longest first, and no level more than once a second.

Not thread-safe by itself: the live store's lock is held. Each step takes about the same time, however many levels wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Final

from otel_progress.live.estimation_state import MIN_ESTIMATE_INTERVAL_S, EstimationState
from otel_progress.live.node import Node

TIME_DEPENDENT_BASES: Final = frozenset({"durations", "expected"})
"""What estimates rest on that change with time alone: they are made anew although nothing advanced."""


REFRESH_FRACTION: Final = 0.02
"""Such an estimate is made anew after this part of the time worked, at least ``EVERY_S`` and at most ``LONGEST_S``."""


MAX_REFRESH_S: Final = 10.0


class EstimateScheduler:
    """Levels that have something new to be estimated from, and those that were estimated so lately that they have to wait."""

    def __init__(self) -> None:
        self._operations: dict[Node, None] = {}
        self._levels: dict[Node, None] = {}
        self._resting: list[tuple[float, int, float, Node]] = []
        self._number = count().__next__

    def request(self, node: Node, course: EstimationState) -> None:
        """Give the level a turn as soon as its second is over."""
        course.has_new_data = True
        if not course.cooling_down:
            self.request_now(node)

    def request_now(self, node: Node) -> None:
        """Give the level a turn at once."""
        (self._operations if node.parent is None else self._levels)[node] = None

    def pop_next(self, among: Iterable[Node] | None = None) -> Node | None:
        """Return whose turn it is, of some levels or of all, and take the turn away; None when it is nobody's."""
        for queue in (self._operations, self._levels):
            node = next(iter(queue if among is None else (one for one in among if one in queue)), None)
            if node is not None:
                del queue[node]
                return node
        return None

    def defer(self, node: Node, course: EstimationState, clock: float) -> None:
        """Let a level that is estimated now wait for its next turn."""
        course.has_new_data, course.cooling_down, course.estimated_clock = False, True, clock
        heappush(self._resting, (clock + MIN_ESTIMATE_INTERVAL_S, self._number(), clock, node))

    def release_due(self, clock: float) -> None:
        """Give a turn to those that have waited for it long enough."""
        resting = self._resting
        while resting and resting[0][0] <= clock:
            _, _, asked, node = heappop(resting)
            course = node.estimation
            if course is None or course.estimated_clock != asked:
                continue
            course.cooling_down = False
            if course.has_new_data:
                self.request_now(node)
            elif course.eta is not None and course.eta.basis in TIME_DEPENDENT_BASES:
                worked = node.operation.active_seconds(node.started_clock or clock, clock)
                again = asked + max(MIN_ESTIMATE_INTERVAL_S, min(MAX_REFRESH_S, REFRESH_FRACTION * worked))
                if again <= clock:
                    self.request_now(node)
                else:
                    heappush(resting, (again, self._number(), asked, node))

    def drop(self, node: Node) -> None:
        """Let go of a level that ended."""
        self._operations.pop(node, None)
        self._levels.pop(node, None)

    def __len__(self) -> int:
        return len(self._operations) + len(self._levels)
