"""Work that cannot report: its progress is presumed from how long it should take, and never at its end before it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.cache import prepare_history
from otel_progress.eta.curves import LONGEST, is_seconds
from otel_progress.eta.durations import from_durations
from otel_progress.model import Eta
from otel_progress.records import Trajectory

SHARPNESS: Final = 6
"""How late the curve bends: true to the time for two thirds of it (to 1.3 %)."""


MOST: Final = 0.99
"""A step that has not ended is never shown further than this."""


def opaque_ratio(elapsed: float, expected: float) -> float:
    """Return the fraction (0 to 0.99) to show of a step of ``expected`` seconds after ``elapsed``.

    With x = elapsed / expected it is x / (1 + x^6)^(1/6): x itself at first, 0.89 when it should be over, and then ever slower towards 1.
    It never falls. 0 where nothing, or nothing sensible, is expected.
    """
    if not (elapsed > 0.0 and expected > 0.0):
        return 0.0
    x = min(
        elapsed / expected, 10.0
    )  # from where on the formula is 1 to six digits, and its power might overflow
    bent: float = (1.0 + x**SHARPNESS) ** (1.0 / SHARPNESS)
    return min(MOST, x / bent)


def estimate_opaque(
    elapsed: float, history: Sequence[Trajectory], *, expected: float | None = None, confidence: float = 0.8
) -> Eta:
    """Return what is left of a step that cannot report, ``elapsed`` seconds after its start; clock = ``elapsed``.

    Past durations tell it, and without any the ``expected`` seconds. What the step should take in all is ``remaining_s`` at ``elapsed`` 0.

    Raises:
        RejectedValueError: ``elapsed`` or ``expected`` is not a number of seconds from 0 on.

    """
    for name, seconds in (("elapsed", elapsed), ("expected", 0.0 if expected is None else expected)):
        if not is_seconds(seconds):
            msg = f"{name}: expected a number of seconds from 0 to {LONGEST:g}, got {seconds}"
            raise RejectedValueError(msg)
    durations = prepare_history(history).durations
    if durations:
        return from_durations(durations, elapsed, confidence)
    return from_durations(() if expected is None else (expected,), elapsed, confidence, "expected")
