"""Consistency of an estimate with the intervals of the running levels below.

An operation does not end before its levels. So the lower bound of a running level is a lower bound
for all levels above it. The rule also holds later, while no level advances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from otel_progress.live.node import Node
from otel_progress.model import Eta, Status

MAX_BOUNDING_LEVELS: Final = 1_000
"""Running levels below a level that bound its estimate, the newest. Older ones are ignored."""


ROUNDING_MARGIN_S: Final = 1e-9
"""Seconds by which a raised estimate exceeds its bound, so that rounding does not reverse them."""


def raise_eta(eta: Eta, below: Eta, clock: float) -> Eta:
    """Return the estimate of a level, raised to the lower bound of another one.

    ``below`` is the estimate of a running level below. Both are compared at ``clock``, in monotonic
    seconds. Return ``eta`` itself if they agree. The result stays ordered: ``low_s`` <=
    ``remaining_s`` <= ``high_s``. It does not count down further than the bound does.
    """
    below = below.at(clock)
    if not below.low_s:
        return eta
    aged, minimum = eta.at(clock), below.low_s + ROUNDING_MARGIN_S
    low_s = None if aged.low_s is None else max(aged.low_s, minimum)
    if aged.remaining_s is None:  # stalled: there is only a lower bound
        if low_s is None or (low_s == aged.low_s and eta.remaining_s is None):
            return eta
        # Why also without a change: an estimate that has just stalled would count down further.
        return replace(aged, low_s=low_s)
    remaining_s = max(aged.remaining_s, minimum)
    high_s = None if aged.high_s is None else max(aged.high_s, remaining_s)
    counts_down_s = aged.counts_down_s
    if below.counts_down_s is not None and below.counts_down_s < below.low_s:
        # Why: the bound holds from then on, so the estimate must not count down below it.
        limit = below.counts_down_s + (remaining_s if low_s is None else low_s) - minimum
        counts_down_s = limit if counts_down_s is None else min(counts_down_s, limit)
    raised = replace(aged, remaining_s=remaining_s, low_s=low_s, high_s=high_s, counts_down_s=counts_down_s)
    return eta if raised == aged else raised


def is_bound_lower(before: Eta | None, after: Eta | None, clock: float) -> bool:
    """Return True if the lower bound of an estimate is lower than before at ``clock``."""
    old = None if before is None else before.at(clock).low_s
    new = None if after is None else after.at(clock).low_s
    return (old or 0.0) > (new or 0.0) + ROUNDING_MARGIN_S


def find_bounds_locked(node: Node) -> Iterator[Eta]:
    """Yield the estimates with an interval of the running levels below a level.

    Levels below such a level are skipped, because their bounds are included in its bound.
    """
    pending, count = [node], 0
    while pending:
        children = pending.pop().children
        left = 0 if children is None else children.running
        for child in reversed(children.nodes.values()) if children is not None and left else ():
            if child.status is not Status.RUNNING:
                continue
            count += 1
            if count > MAX_BOUNDING_LEVELS:
                return
            eta = None if child.estimation is None else child.estimation.eta
            if eta is not None and eta.low_s is not None:
                yield eta
            elif child.children is not None:
                pending.append(child)
            left -= 1
            if left <= 0:
                break
