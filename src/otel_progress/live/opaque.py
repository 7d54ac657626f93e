"""Opaque steps: work that cannot report, estimated from its expected duration."""

from __future__ import annotations

from otel_progress.model import Number


class Opaque:
    """Mark of an active opaque step on a level.

    ``since`` is the start in monotonic seconds, ``given`` the duration that the caller expects, in
    seconds. ``base`` is the level's count at the start of the step. ``is_whole_level`` is True when
    the level consists of the step only. ``keys`` are those of the active blocks.
    """

    __slots__ = ("base", "expected", "given", "is_whole_level", "keys", "since", "updated_clock")

    def __init__(
        self, since: float, given: float | None, base: Number, *, is_whole_level: bool, key: object = None
    ) -> None:
        self.since = since
        self.given = given
        self.base = base
        self.is_whole_level = is_whole_level
        self.expected = given
        self.keys: dict[object, None] = {key: None}
        self.updated_clock = since

    def estimate_ratio(
        self, active_s: float, current: Number, total: Number | None, ratio: float | None
    ) -> float | None:
        """Return the estimated ratio of the level after ``active_s`` seconds of the step.

        Return None when no duration is expected. In a level with a total, the step is its next
        unit. The result is then at least the measured ``ratio``.
        """
        if self.expected is None:
            return None
        # Why here: the start of the step has imported it, without the lock.
        from otel_progress.eta import opaque_ratio

        done = opaque_ratio(active_s, self.expected)
        if not total:
            return done
        return max(ratio or 0.0, (self.base + done) / total) if current < total else ratio
