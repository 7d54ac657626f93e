"""Metric labels: texts of callers made safe for an exposition and a terminal, and bounded in length and number."""

from __future__ import annotations

from typing import Final

from otel_progress.text import escape_controls, normalize_id, truncate

MAX_LABEL_TEXT: Final = 128
"""Longest free text (a name) in a label, in characters."""


OTHER: Final = "other"
"""What stands for all values of a label beyond its bound."""


def label_id(value: object) -> str:
    """Return an id, type or path as a label: one printable line of at most 256 characters; a digest keeps longer ones unique.

    A backquote is written as an escape, like a control character: Grafana has no way to put one into a query.
    """
    text = escape_controls(normalize_id(value))
    return normalize_id(text.replace("`", r"\x60") if "`" in text else text)


def label_text(value: object) -> str:
    """Return free text as a label: one printable line of at most 128 characters."""
    return truncate(escape_controls(truncate(value, MAX_LABEL_TEXT)), MAX_LABEL_TEXT)


class BoundedLabels:
    """Lets the first ``limit`` label sets through; all later ones become ``other``: no caller can make series without end."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def fit(self, *values: str) -> tuple[str, ...]:
        """Return the labels for ``values``: themselves, made safe, or ``other`` for each."""
        found = self._known.get(values)
        if found is None:
            if len(self._known) >= self._limit:
                return (OTHER,) * len(values)
            found = self._known[values] = tuple(label_id(value) for value in values)
        return found
