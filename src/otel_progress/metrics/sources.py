"""What metrics tell of that no operation knows: where its previews can be fetched, and how large the journal is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from otel_progress.diagnostics import report_internal_error

PublicUrl: TypeAlias = "str | Callable[[], str | None] | None"
"""Base address under which people reach the server, or a function that knows it by the time somebody scrapes."""


JournalSize: TypeAlias = "Callable[[], int | None] | None"
"""A function that returns the size of the journal's files in bytes, None where there is none. May be called from any thread."""


_Answer = TypeVar("_Answer", str, int)


def _unknown() -> None:
    """Stand for what nobody told."""


@dataclass(frozen=True, slots=True)
class MetricSources:
    """Asked at each scrape: ``public_url`` is the base address of the server, ``journal_size`` is in bytes; None while unknown."""

    public_url: Callable[[], str | None] = _unknown
    journal_size: Callable[[], int | None] = _unknown

    @classmethod
    def of(cls, public_url: PublicUrl = None, journal_size: JournalSize = None) -> MetricSources:
        """Return them as they are given to an exporter: an address that never changes may be a text."""
        base = (lambda: public_url) if isinstance(public_url, str) else public_url
        return cls(base or _unknown, journal_size or _unknown)

    def read_public_url(self) -> str | None:
        """Return the base address of the server; None while nobody knows it."""
        return _told(self.public_url)

    def read_journal_size(self) -> int | None:
        """Return the size of the journal's files in bytes; None while nobody knows it."""
        return _told(self.journal_size)


def _told(ask: Callable[[], _Answer | None]) -> _Answer | None:
    """Return what a function of a caller says; it costs no more than its own series when it fails."""
    try:
        return ask()
    except Exception as error:
        report_internal_error("metrics", f"what a metric shows could not be asked for: {error}", error=error)
        return None
