"""Work that cannot report: how far it probably is, from how long it is expected to take. Pure."""

from __future__ import annotations

from otel_progress.model import Number


class Opaque:
    """The mark of an opaque step on a level while it is in force: since when (monotonic), and what is expected of it, in seconds.

    ``given`` is what the caller expects, ``base`` what the level had counted when the step began, ``depth`` how many contexts are open.
    ``whole`` says that the level is nothing but the step, because the step began it.
    """

    __slots__ = ("base", "depth", "expected", "given", "looked", "since", "whole")

    def __init__(self, since: float, given: float | None, base: Number, *, whole: bool) -> None:
        self.since = since
        self.given = given
        self.base = base
        self.whole = whole
        self.expected = given
        self.depth = 1
        self.looked = since

    def ratio(
        self, worked: float, current: Number, total: Number | None, ratio: float | None
    ) -> float | None:
        """Return the estimated ratio of the level after ``worked`` seconds of the step; None when nothing is expected of it.

        Where the level has a total, the step stands for its next unit, and what is truly done (``current``, ``ratio``) is never
        hidden; otherwise the step is all there is to the level.
        """
        if self.expected is None:
            return None
        from otel_progress.eta import opaque_ratio  # loaded by now, see LiveStore.begin_opaque

        done = opaque_ratio(worked, self.expected)
        if not total:
            return done
        return max(ratio or 0.0, (self.base + done) / total) if current < total else ratio
