"""What a journal is: a sink of this process, a reader for all, and where requests to workers are left."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from otel_progress.protocols import (
    CancelRequestSource,
    Controller,
    Reader,
    Sink,
    SizedStorage,
    TrajectorySource,
)


@runtime_checkable
class Journal(Sink, Reader, Controller, CancelRequestSource, TrajectorySource, SizedStorage, Protocol):
    """Keeps what workers write, over their end, answers about it to any process, and passes on what is asked of a worker.

    ``write`` raises JournalError when it cannot keep a batch. It queues nothing: the batch is lost, and the next one has to hold
    all that is live. A snapshot replaces another of the same level only by a higher ``sequence``.
    """

    @property
    def dropped(self) -> int:
        """Operations, events and log records that this journal deleted before their time because it had grown too large."""
