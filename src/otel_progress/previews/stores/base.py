"""Where the content of previews is kept: what every store does, and the one in memory."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Protocol

from otel_progress.errors import PreviewError
from otel_progress.previews.images import MAX_MADE
from otel_progress.previews.media import is_name
from otel_progress.records import Preview

LARGEST: Final = 2 * MAX_MADE
"""Bytes of content that are read at most: more than any preview has."""


class Store(Protocol):
    """Keeps content under names of its own making, and touches nothing else. Methods may take long and raise OSError or PreviewError."""

    base: str
    """URL that every location begins with."""

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Keep the content of a run's preview and return its location, a URL below the base."""

    def read(self, location: str) -> bytes:
        """Return content. Raises PreviewError when it is not there, or when the location is none of this store."""

    def delete(self, locations: Iterable[str]) -> int:
        """Forget content; return how many pieces there were. Locations of other stores are passed over."""

    def touch(self, runs: Iterable[str]) -> None:
        """Mark the content of these runs as in use, so that no :meth:`sweep` takes it."""

    def sweep(self, before: float) -> int:
        """Forget the content of runs that was not in use since ``before`` (Unix seconds); return how many pieces that were."""


def relative_name(base: str, location: str) -> str | None:
    """Return the name of content at a location below a base; None for a location that is none of this base."""
    if not location.startswith(f"{base}/"):
        return None
    name = location[len(base) + 1 :]
    return name if is_name(name) else None


def read_checked(store: Store, preview: Preview) -> bytes:
    """Return the content of a preview as it was stored. Raises PreviewError when it is not there, or something else in its place."""
    content = store.read(preview.location)
    if not hmac.compare_digest(
        hashlib.sha256(content).hexdigest().encode(), preview.digest.encode("utf-8", "replace")
    ):
        raise PreviewError("the content of the preview is no longer what was stored")
    return content


def foreign_location_error(location: str) -> PreviewError:
    """Return the error for a location of another store."""
    del location  # it may be of anywhere: not to be repeated to whoever asks
    return PreviewError(
        "the preview is kept in another place than the one that is looked at: set the same previews= there"
    )
