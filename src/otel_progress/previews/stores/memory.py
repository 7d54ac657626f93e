"""Preview store in the memory of this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from otel_progress.errors import PreviewError
from otel_progress.fork import fork_safe_lock
from otel_progress.previews.media import build_name
from otel_progress.previews.stores.base import foreign_location_error, relative_name

MAX_STORE_BYTES: Final = 64 * 1024 * 1024
"""Maximum size of all previews in memory. The oldest are evicted."""


class MemoryStore:
    """Stores up to ``max_bytes`` of content in this process.

    The oldest content is evicted.
    """

    base = "memory:"

    def __init__(self, max_bytes: int = MAX_STORE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = fork_safe_lock()
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Store content."""
        location = f"{self.base}/{build_name(run, digest, media_type)}"
        with self._lock:
            self._drop(location)
            self._contents[location] = content
            self._size += len(content)
            while self._size > self._max_bytes and len(self._contents) > 1:
                self._drop(next(iter(self._contents)))
        return location

    def read(self, location: str) -> bytes:
        """Return content."""
        if relative_name(self.base, location) is None:
            raise foreign_location_error(location)
        with self._lock:
            content = self._contents.get(location)
        if content is None:
            raise PreviewError("the preview is no longer stored")
        return content

    def delete(self, locations: Iterable[str]) -> int:
        """Delete content."""
        dropped = list(locations)
        with self._lock:
            return sum(map(self._drop, dropped))

    def touch(self, runs: Iterable[str]) -> None:
        """Do nothing. Content in memory is evicted by size only."""

    def sweep(self, before: float) -> int:
        """Do nothing, for the reason of :meth:`touch`."""
        del before
        return 0

    def _drop(self, location: str) -> int:
        content = self._contents.pop(location, None)
        self._size -= 0 if content is None else len(content)
        return content is not None
