"""What a journal is: a sink of this process and a reader for all."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from otel_progress.protocols import Reader, Sink


@runtime_checkable
class Journal(Sink, Reader, Protocol):
    """Keeps what workers write, over their end, and answers about it to any process.

    ``write`` raises JournalError when it cannot keep a batch. It queues nothing: the batch is lost, and the next one has to hold
    all that is live. A snapshot replaces another of the same level only by a higher ``sequence``.
    """

    @property
    def dropped(self) -> int:
        """Operations and events that this journal deleted before their time because it had grown too large."""
