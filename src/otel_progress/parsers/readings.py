"""Readings of parsers, and the protocol of a parser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from otel_progress.model import Number, Status
    from otel_progress.parsers.lines import Line


class LevelKey(NamedTuple):
    """Identity of a level below the operation of a command."""

    type: str
    id: str
    name: str


class Reading(NamedTuple):
    """Progress of the operation, or of one level directly below it.

    ``level`` is None for the operation. Other fields that are None are unchanged. ``status`` ends
    the level.
    """

    level: LevelKey | None = None
    current: Number | None = None
    total: Number | None = None
    unit: str | None = None
    message: str | None = None
    status: Status | None = None


class Parser(Protocol):
    """Parser of one output format.

    It keeps a bounded state between lines. It never raises.
    """

    @property
    def is_stateless(self) -> bool:
        """True if each line has the whole progress, so earlier lines can be left out."""

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress that a line reports."""
