"""Metric inputs that do not belong to an operation: public URL and journal size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from otel_progress.diagnostics import report_internal_error

PublicUrl: TypeAlias = "str | Callable[[], str | None] | None"
"""Base URL of the server, or a function that returns it at each scrape."""


JournalSize: TypeAlias = "Callable[[], int | None] | None"
"""Function that returns the size of the journal in bytes, or None. Any thread may call it."""


_Value = TypeVar("_Value", str, int)


def _return_none() -> None:
    """Return None, for a source that was not given."""


@dataclass(frozen=True, slots=True)
class MetricSources:
    """Functions that a scrape calls: the server's URL and the journal's size in bytes."""

    public_url: Callable[[], str | None] = _return_none
    journal_size: Callable[[], int | None] = _return_none

    @classmethod
    def from_arguments(cls, public_url: PublicUrl = None, journal_size: JournalSize = None) -> MetricSources:
        """Return the sources for the arguments of an exporter.

        A constant URL may be a string.
        """
        base = (lambda: public_url) if isinstance(public_url, str) else public_url
        return cls(base or _return_none, journal_size or _return_none)

    def read_public_url(self) -> str | None:
        """Return the base URL of the server, or None while it is unknown."""
        return _read_safely(self.public_url)

    def read_journal_size(self) -> int | None:
        """Return the size of the journal in bytes, or None while it is unknown."""
        return _read_safely(self.journal_size)


def _read_safely(read: Callable[[], _Value | None]) -> _Value | None:
    """Call ``read``. If it fails, report an internal error and return None."""
    try:
        return read()
    except Exception as error:
        report_internal_error("metrics", f"A source of a metric failed: {error}", error=error)
        return None
