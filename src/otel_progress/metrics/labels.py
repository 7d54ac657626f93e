"""Metric labels: sanitised, and bounded in length and number."""

from __future__ import annotations

from typing import Final

from otel_progress.text import escape_controls, normalize_id, truncate

MAX_LABEL_TEXT: Final = 128
"""Maximum length of free text (a name) in a label, in characters."""


OTHER: Final = "other"
"""Label value that is shared by all values beyond a limit."""


def label_id(value: object) -> str:
    """Return an id, type or path as a label.

    The label is one printable line of at most 256 characters. A digest keeps longer values unique.
    A backquote is escaped like a control character, because Grafana cannot put it into a query.
    """
    text = escape_controls(normalize_id(value))
    return normalize_id(text.replace("`", r"\x60") if "`" in text else text)


def label_text(value: object) -> str:
    """Return free text as a label: one printable line of at most 128 characters."""
    return truncate(escape_controls(truncate(value, MAX_LABEL_TEXT)), MAX_LABEL_TEXT)


class BoundedLabels:
    """Passes the first ``limit`` label sets and replaces later ones by ``other``."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def fit(self, *values: str) -> tuple[str, ...]:
        """Return sanitised labels for ``values``, or ``other`` for each beyond the limit."""
        labels = self._known.get(values)
        if labels is None:
            if len(self._known) >= self._limit:
                return (OTHER,) * len(values)
            labels = self._known[values] = tuple(label_id(value) for value in values)
        return labels
