"""Progress bar of pooch that records downloads as levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_progress.integrations.transfer import Transfer, find_parent

if TYPE_CHECKING:
    from types import TracebackType

    from otel_progress.instrument.level import Level


class ProgressBar:
    """Progress bar for the argument ``progressbar`` of pooch.

    ``with ProgressBar("data.zip") as bar: pooch.retrieve(url, known_hash, progressbar=bar)``. Each
    download is a level that counts bytes, as a child of the level that is current when the bar is
    created. ``name`` is a display name, ``type`` the kind of the level, and further arguments are
    metadata. One bar serves any number of downloads, one after the other.

    A level is completed by pooch, or fails if an exception leaves the block. Without a block, a
    download that failed ends with the next one. Never raises.
    """

    def __init__(self, name: str | None = None, *, type: str = "download", **metadata: object) -> None:
        self._name = name
        self._type = type
        self._metadata = metadata
        self._parent: Level | None = find_parent()
        self._total: int | None = None
        self._transfer: Transfer | None = None
        self._is_filling = False
        """True after :meth:`reset`, which announces that the next update is the size."""

    @property
    def total(self) -> int | None:
        """Number of bytes in all. None if it is unknown.

        pooch sets it when a download starts.
        """
        return self._total

    @total.setter
    def total(self, total: int | None) -> None:
        if self._transfer is not None and self._transfer.is_running:
            self._transfer.fail("the download did not finish")
        self._total = total or None
        self._transfer = None
        self._start()

    def _start(self) -> Transfer:
        if self._transfer is None or not self._transfer.is_running:
            self._is_filling = False
            self._transfer = Transfer(
                self._type, self._name, total=self._total, parent=self._parent, metadata=self._metadata
            )
        return self._transfer

    def update(self, size: int) -> None:
        """Count bytes. pooch counts the size of a whole chunk for the last one."""
        transfer = self._start()
        if self._is_filling:
            # Why: pooch fills a bar at the end, because the response may have been decompressed.
            if size:
                transfer.set_done(size)
        elif transfer.total is None:
            transfer.add(size)
        else:
            transfer.add(max(0, min(size, transfer.total - transfer.done)))

    def reset(self) -> None:
        """Prepare for the size as the next update."""
        self._is_filling = True

    def close(self) -> None:
        """End the level as completed."""
        if self._transfer is not None:
            self._transfer.end()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._transfer is not None:
            self._transfer.end(error)
