"""Consistency of an estimate with the estimates of the running levels below.

An operation does not end before its levels. So a running level bounds the estimates of all levels
above it. The bound is its lower bound, or its remaining time if it has no interval. The rule also
holds later, while no level advances. Only stored estimates are used, and no estimate is made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from otel_progress.live.node import Node
from otel_progress.model import Eta, Status

MAX_BOUNDING_LEVELS: Final = 1_000
"""Running levels below a level that bound its estimate: the nearest, of siblings the newest. Others
are ignored.
"""


ROUNDING_MARGIN_S: Final = 1e-6
"""Seconds by which a raised estimate exceeds its bound, so that rounding does not reverse them."""


TOLERANCE_S: Final = 1e-9
"""Seconds by which an estimate may be below its bound. Such a difference is a rounding error."""


MAX_EARLY_RATIO: Final = 0.1
"""Ratio up to which the rate of a level is uncertain. Beyond it, its estimate bounds those above.
"""


class Bounds(NamedTuple):
    """Lower bounds that running levels imply for a level above, in seconds.

    ``low_s`` is the bound of the levels with an interval. ``remaining_s`` is the bound of all. They
    count down to ``final_low_s`` and ``final_remaining_s`` while no level advances.
    """

    low_s: float = 0.0
    final_low_s: float = 0.0
    remaining_s: float = 0.0
    final_remaining_s: float = 0.0

    def include(self, eta: Eta | None, clock: float) -> Bounds:
        """Include the bound of another level at ``clock``, in monotonic seconds."""
        # Why not Eta.at: there may be many levels, and this makes no copy of an estimate.
        if eta is None:
            return self
        value, limit = eta.remaining_s if eta.low_s is None else eta.low_s, eta.counts_down_s
        if value is None:
            return self
        if eta.remaining_s is None:  # stalled: it does not count down
            now = final = value
        else:
            since = max(0.0, clock - eta.clock)
            now = max(0.0, value - (since if limit is None else min(since, limit)))
            final = 0.0 if limit is None else max(0.0, value - limit)
        low_s, final_low_s, remaining_s, final_remaining_s = self
        if eta.low_s is not None:
            low_s, final_low_s = max(low_s, now), max(final_low_s, final)
        return Bounds(low_s, final_low_s, max(remaining_s, now), max(final_remaining_s, final))


NO_BOUNDS: Final = Bounds()
"""Bounds of a level without running levels that have an estimate."""


def raise_eta(eta: Eta, bounds: Bounds, clock: float) -> Eta:
    """Return the estimate of a level, raised to the bounds of running levels below it.

    The bounds are those at ``clock``, in monotonic seconds. Return ``eta`` itself if they agree.
    The result stays ordered: ``low_s`` <= ``remaining_s`` <= ``high_s``. It does not count down
    further than the bounds do.
    """
    if not bounds.remaining_s:
        return eta
    aged = eta.at(clock)
    if aged.remaining_s is None:  # stalled: there is only a lower bound
        low_s = None if aged.low_s is None else _raise_seconds(aged.low_s, bounds.remaining_s)
        if low_s is None or (low_s == aged.low_s and eta.remaining_s is None):
            return eta
        # Why also without a change: an estimate that has just stalled would count down further.
        return replace(aged, low_s=low_s)
    # Why not the remaining time for the lower bound: a level without an interval is not that sure.
    low_s = None if aged.low_s is None else _raise_seconds(aged.low_s, bounds.low_s)
    remaining_s = max(_raise_seconds(aged.remaining_s, bounds.remaining_s), low_s or 0.0)
    high_s = None if aged.high_s is None else max(aged.high_s, remaining_s)
    counts_down_s, state = aged.counts_down_s, aged.state
    if remaining_s > aged.remaining_s and counts_down_s is not None:
        # Why: it continues to count down with the level below, to the end of its own count-down.
        counts_down_s, state = counts_down_s + remaining_s - aged.remaining_s, "estimated"
    counts_down_s = _limit_count_down(counts_down_s, remaining_s, bounds.final_remaining_s)
    if low_s is not None:
        counts_down_s = _limit_count_down(counts_down_s, low_s, bounds.final_low_s)
    raised = replace(
        aged, remaining_s=remaining_s, low_s=low_s, high_s=high_s, counts_down_s=counts_down_s, state=state
    )
    return eta if raised == aged else raised


def _raise_seconds(seconds: float, bound: float) -> float:
    return seconds if seconds >= bound - TOLERANCE_S else bound + ROUNDING_MARGIN_S


def _limit_count_down(counts_down_s: float | None, seconds: float, final: float) -> float | None:
    """Return the time for which ``seconds`` may count down to ``final``."""
    limit = max(0.0, seconds - final)
    if not final or (counts_down_s is not None and counts_down_s <= limit + TOLERANCE_S):
        return counts_down_s
    return limit


def is_bound_lower(before: Eta | None, after: Eta | None, clock: float) -> bool:
    """Return True if an estimate implies a lower bound than before at ``clock``."""
    old, new = NO_BOUNDS.include(before, clock), NO_BOUNDS.include(after, clock)
    return max(old.low_s - new.low_s, old.remaining_s - new.remaining_s) > ROUNDING_MARGIN_S


def find_bounds_locked(node: Node, clock: float) -> Bounds:
    """Return the bounds of the running levels below a level.

    ``clock`` is in monotonic seconds.
    """
    bounds, count = NO_BOUNDS, 0
    parents = [node]
    for parent in parents:  # it grows: nearest levels first
        children = parent.children
        left = 0 if children is None else children.running
        for child in reversed(children.nodes.values()) if children is not None and left else ():
            if child.status is not Status.RUNNING:
                continue
            count += 1
            if count > MAX_BOUNDING_LEVELS:
                return bounds
            if child.estimation is not None:
                bounds = bounds.include(child.estimation.eta, clock)
            if child.children is not None:
                parents.append(child)
            left -= 1
            if left <= 0:
                break
    return bounds


def is_refuted_locked(node: Node, eta: Eta, clock: float) -> bool:
    """Return True if an early estimate exceeds the interval of a level above.

    It is early if it is based on the rate of less than ``MAX_EARLY_RATIO``.
    """
    # Why: the interval is based on past runs, which predict better than such a rate. The estimate
    # would raise those of the levels above.
    if eta.low_s is not None or eta.remaining_s is None or eta.basis != "rate":
        return False
    if node.ratio is None or node.ratio >= MAX_EARLY_RATIO:
        return False
    here = node.parent
    while here is not None:
        above = None if here.estimation is None else here.estimation.eta
        high_s = None if above is None else above.at(clock).high_s
        if high_s is not None and eta.remaining_s > high_s:
            return True
        here = here.parent
    return False
