"""Scheduler of estimates: operations before levels, the oldest request first.

Each level is estimated at most once per second.

Methods whose name ends in ``_locked`` require the lock of the live store. Each takes about constant
time.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from typing import Final

from otel_progress.live.estimation_state import MIN_ESTIMATE_INTERVAL_S, EstimationState
from otel_progress.live.node import Node

TIME_DEPENDENT_BASES: Final = frozenset({"durations", "expected"})
"""Bases of estimates that change with time alone. Such estimates are repeated without an advance.
"""


REFRESH_FRACTION: Final = 0.02
"""Fraction of the active time after which such an estimate is repeated."""


MAX_REFRESH_S: Final = 10.0
"""Longest time between two such estimates, in seconds."""


class EstimateScheduler:
    """Queues of levels with new data, and a heap of levels that cool down."""

    def __init__(self) -> None:
        self._operations: dict[Node, None] = {}
        self._levels: dict[Node, None] = {}
        self._cooling_down: list[tuple[float, int, float, Node]] = []
        """Due time, number, time of the last estimate, and level."""
        self._next_number = count().__next__

    def request_locked(self, node: Node, estimation: EstimationState) -> None:
        """Queue a level with new data, at the end of its cool-down."""
        estimation.has_new_data = True
        if not estimation.cooling_down:
            self.request_now_locked(node)

    def request_now_locked(self, node: Node) -> None:
        """Queue a level without waiting for its cool-down."""
        (self._operations if node.parent is None else self._levels)[node] = None

    def pop_next_locked(self, among: Iterable[Node] | None = None) -> Node | None:
        """Remove and return the next queued level of ``among``, or of all.

        Return None when none is queued.
        """
        for queue in (self._operations, self._levels):
            node = next(iter(queue if among is None else (each for each in among if each in queue)), None)
            if node is not None:
                del queue[node]
                return node
        return None

    def defer_locked(self, node: Node, estimation: EstimationState, clock: float) -> None:
        """Start the cool-down of a level that is estimated now."""
        estimation.has_new_data, estimation.cooling_down, estimation.estimated_clock = False, True, clock
        heappush(self._cooling_down, (clock + MIN_ESTIMATE_INTERVAL_S, self._next_number(), clock, node))

    def release_due_locked(self, clock: float) -> None:
        """End the cool-downs that are over.

        Queue the levels that have new data or a time-dependent estimate.
        """
        heap = self._cooling_down
        while heap and heap[0][0] <= clock:
            _, _, estimated_clock, node = heappop(heap)
            estimation = node.estimation
            if estimation is None or estimation.estimated_clock != estimated_clock:
                continue
            estimation.cooling_down = False
            if estimation.has_new_data:
                self.request_now_locked(node)
            elif estimation.eta is not None and estimation.eta.basis in TIME_DEPENDENT_BASES:
                active_s = node.operation.active_seconds(node.started_clock or clock, clock)
                interval_s = max(MIN_ESTIMATE_INTERVAL_S, min(MAX_REFRESH_S, REFRESH_FRACTION * active_s))
                if estimated_clock + interval_s <= clock:
                    self.request_now_locked(node)
                else:
                    entry = (estimated_clock + interval_s, self._next_number(), estimated_clock, node)
                    heappush(heap, entry)

    def drop_locked(self, node: Node) -> None:
        """Remove a level that ended from the queues."""
        self._operations.pop(node, None)
        self._levels.pop(node, None)

    def __len__(self) -> int:
        return len(self._operations) + len(self._levels)
