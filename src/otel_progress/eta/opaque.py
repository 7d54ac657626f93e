"""Opaque steps: progress and estimate of work that cannot report its progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from otel_progress.errors import RejectedValueError
from otel_progress.eta.cache import prepare_history
from otel_progress.eta.curves import MAX_SECONDS, is_seconds
from otel_progress.eta.durations import estimate_from_durations
from otel_progress.model import Eta
from otel_progress.records import Trajectory

SHARPNESS: Final = 6
"""Exponent of the curve. It follows the time within 1.3 % for two thirds of the duration."""


MAX_RATIO: Final = 0.99
"""Maximum ratio of a step that has not finished."""


def opaque_ratio(elapsed: float, expected: float) -> float:
    """Return the ratio (0 to 0.99) of a step after ``elapsed`` of ``expected`` s.

    With x = elapsed / expected it is x / (1 + x^6)^(1/6). It starts as x, is 0.89 at the expected
    end, then approaches 1 and never decreases. It is 0 without a valid expectation.
    """
    if not (elapsed > 0.0 and expected > 0.0):
        return 0.0
    # Beyond 10 the formula is 1 to six digits, and its power might overflow.
    x = min(elapsed / expected, 10.0)
    bend: float = (1.0 + x**SHARPNESS) ** (1.0 / SHARPNESS)
    return min(MAX_RATIO, x / bend)


def estimate_opaque(
    elapsed: float, history: Sequence[Trajectory], *, expected: float | None = None, confidence: float = 0.8
) -> Eta:
    """Estimate the remaining time of a step ``elapsed`` seconds after its start.

    It uses past durations, and without any the ``expected`` seconds. With ``elapsed`` 0,
    ``remaining_s`` is the expected duration.

    Raises:
        RejectedValueError: ``elapsed`` or ``expected`` is not a valid number of seconds.

    """
    for name, seconds in (("elapsed", elapsed), ("expected", 0.0 if expected is None else expected)):
        if not is_seconds(seconds):
            msg = f"Invalid {name} {seconds}: expected seconds from 0 to {MAX_SECONDS:g}."
            raise RejectedValueError(msg)
    durations = prepare_history(history).durations
    if durations:
        return estimate_from_durations(durations, elapsed, confidence)
    durations = () if expected is None else (expected,)
    return estimate_from_durations(durations, elapsed, confidence, "expected")
