"""memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from otel_progress.errors import PreviewError
from otel_progress.fork import fork_safe_lock
from otel_progress.previews.media import name_of
from otel_progress.previews.stores.base import foreign_location_error, relative_name

MAX_IN_MEMORY: Final = 64 * 1024 * 1024
"""Bytes of previews that are kept in memory; the oldest go."""


class MemoryStore:
    """Keeps content in this process, for a store that lives in memory itself. At most ``most`` bytes; the oldest go."""

    base = "memory:"

    def __init__(self, most: int = MAX_IN_MEMORY) -> None:
        self._most = most
        self._lock = fork_safe_lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Keep content."""
        location = f"{self.base}/{name_of(run, digest, media_type)}"
        with self._lock:
            self._drop(location)
            self._kept[location] = content
            self._size += len(content)
            while self._size > self._most and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return location

    def read(self, location: str) -> bytes:
        """Return content."""
        if relative_name(self.base, location) is None:
            raise foreign_location_error(location)
        with self._lock:
            content = self._kept.get(location)
        if content is None:
            raise PreviewError("the preview is no longer kept")
        return content

    def delete(self, locations: Iterable[str]) -> int:
        """Forget content."""
        dropped = list(locations)
        with self._lock:
            return sum(map(self._drop, dropped))

    def touch(self, runs: Iterable[str]) -> None:
        """Do nothing: what is kept in memory goes by its size alone."""

    def sweep(self, before: float) -> int:
        """Do nothing: see :meth:`touch`."""
        del before
        return 0

    def _drop(self, location: str) -> int:
        content = self._kept.pop(location, None)
        self._size -= 0 if content is None else len(content)
        return content is not None
