"""Glyphs of the terminal display, in Unicode and in ASCII."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otel_progress.model import Status
from otel_progress.operations import Condition


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Set of glyphs, each one cell wide.

    ``pulse`` has three cells and moves along a bar without a total.
    """

    pending: str
    running: str
    completed: str
    failed: str
    cancelled: str
    skipped: str
    full: str
    half: str
    rest: str
    pulse: str
    more: str
    dot: str

    def status(self, status: Status) -> str:
        """Return the glyph of a status."""
        glyph: str = getattr(self, status.value)
        return glyph

    def draw_bar(self, ratio: float, width: int) -> tuple[str, str]:
        """Return the filled and the empty part of a bar of ``width`` cells."""
        halves = int(min(1.0, max(0.0, ratio)) * width * 2 + 1e-9)
        filled = self.full * (halves // 2) + (self.half if halves % 2 else "")
        return filled, self.rest * (width - len(filled))


UNICODE: Final = Glyphs("·", "●", "✓", "✗", "■", "–", "━", "╸", "─", "━━━", "…", "·")


ASCII: Final = Glyphs(".", ">", "+", "x", "!", "-", "#", "#", "-", "<=>", "...", "-")


STATUS_STYLES: Final = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
    Status.SKIPPED: "dim",
}
"""Colour of a status."""


CONDITION_STYLES: Final = {
    Condition.OK: "",
    Condition.STALLED: "bold yellow",
    Condition.OVERDUE: "bold magenta",
    Condition.ABANDONED: "bold red",
    Condition.PAUSED: "cyan",
    Condition.NOT_REPORTING: "bold yellow",
    Condition.SUPERSEDED: "dim",
}
"""Colour of a condition."""


def choose_glyphs(encoding: str | None) -> Glyphs:
    """Return the Unicode glyphs if ``encoding`` can encode them, otherwise ASCII."""
    characters = "".join(str(getattr(UNICODE, name)) for name in Glyphs.__slots__)
    try:
        characters.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
