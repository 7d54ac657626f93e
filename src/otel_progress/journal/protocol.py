"""Protocol of a journal: a Sink of one process and a Reader for all processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from otel_progress.protocols import (
    BatchController,
    CancelRequestSource,
    ContributionSource,
    Controller,
    Reader,
    Sink,
    SizedStorage,
    TotalsStorage,
    TrajectorySource,
)

FindingState: TypeAlias = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class JournalFinding:
    """Result of one check of a journal. The text of a problem says how to fix it."""

    check: str
    state: FindingState
    text: str


@runtime_checkable
class Journal(
    Sink,
    Reader,
    Controller,
    BatchController,
    CancelRequestSource,
    ContributionSource,
    TrajectorySource,
    SizedStorage,
    TotalsStorage,
    Protocol,
):
    """Stores the progress of processes beyond their end, and requests to them.

    ``write`` raises JournalError if it cannot store a change set. A journal queues nothing: the
    change set is lost, and the next one has to contain all live levels. A snapshot replaces the
    stored one of the same level only if its ``sequence`` is higher.
    """

    @property
    def dropped(self) -> int:
        """Number of operations, events and log records that the size limit deleted early."""

    @property
    def location(self) -> Path | None:
        """File of the journal, or None if it is not in a file.

        Previews are stored next to it.
        """

    @property
    def spill_base(self) -> Path | None:
        """Path next to which ended operations wait in files.

        None if they wait in memory only.
        """

    def prepare(self) -> None:
        """Open the storage for writing. Raises JournalError if that is not possible."""

    def diagnose(self) -> Iterator[JournalFinding]:
        """Check the storage without changing it. Never raises."""
