"""Schedule of previews: at fractions of the work, at intervals, or at every call.

Pure.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

At: TypeAlias = 'tuple[float, ...] | float | Literal["always"]'
"""Fractions (ascending, above 0 and at most 1), an interval in seconds, or ``always``."""


def find_due_mark(at: At, last: float | None, ratio: float | None, clock: float) -> float | None:
    """Return the mark of a preview that is due now: a fraction or ``clock``.

    Else return None.

    ``last`` is the mark of the previous preview. Only the highest fraction passed counts, so a
    level that skips fractions has one preview. An interval starts with the first call.
    """
    if at == "always":
        return clock
    if isinstance(at, tuple):
        if ratio is None:
            return None
        passed = max((fraction for fraction in at if fraction <= ratio), default=None)
        return passed if passed is not None and (last is None or passed > last) else None
    return clock if last is None or clock - last >= at else None
