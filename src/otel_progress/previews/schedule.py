"""When a preview is due: at fractions of the work, every so many seconds, or at every call. Pure, and cheap to ask."""

from __future__ import annotations

from typing import Literal, TypeAlias

At: TypeAlias = 'tuple[float, ...] | float | Literal["always"]'
"""Fractions (ascending, above 0 and at most 1), a number of seconds, or ``always``."""


def due(at: At, last: float | None, ratio: float | None, clock: float) -> float | None:
    """Return what a preview would be taken for now (a fraction, or ``clock``), None when none is due.

    ``last`` is what the one before was taken for. Of fractions the highest that was passed counts: a level that jumps over two of them
    gets one preview. Every so many seconds begins with the first call.
    """
    if at == "always":
        return clock
    if isinstance(at, tuple):
        if ratio is None:
            return None
        passed = max((one for one in at if one <= ratio), default=None)
        return passed if passed is not None and (last is None or passed > last) else None
    return clock if last is None or clock - last >= at else None
