"""The signs of the terminal display, in Unicode and in ASCII for encodings that cannot carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otel_progress.model import Status
from otel_progress.operations import Condition


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of signs, each one cell wide; ``pulse`` is three cells that travel along the bar of an unknown total."""

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
        """Return the sign of a status."""
        sign: str = getattr(self, status.value)
        return sign


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
}
"""Colour of a condition."""


def choose_glyphs(encoding: str | None) -> Glyphs:
    """Return the Unicode signs when ``encoding`` can carry all of them, else the ASCII ones."""
    signs = "".join(str(getattr(UNICODE, name)) for name in Glyphs.__slots__)
    try:
        signs.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
