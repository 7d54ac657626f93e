"""Protocol of preview stores."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Protocol

from otel_progress.errors import PreviewError
from otel_progress.previews.images import MAX_PREVIEW_BYTES
from otel_progress.previews.media import is_name
from otel_progress.records import Preview

MAX_READ_BYTES: Final = 2 * MAX_PREVIEW_BYTES
"""Maximum number of bytes read. No preview is as large."""


class Store(Protocol):
    """Stores content under names that it builds, and touches nothing else.

    Methods may take long. They raise OSError or PreviewError.
    """

    base: str
    """URL prefix of every location."""

    def write(self, run: str, digest: str, media_type: str, content: bytes) -> str:
        """Store the content of a run's preview. Return its location, a URL below the base."""

    def read(self, location: str) -> bytes:
        """Return content.

        Raises PreviewError if it is missing or belongs to another store.
        """

    def delete(self, locations: Iterable[str]) -> int:
        """Delete content and return how much was deleted. Foreign locations are ignored."""

    def touch(self, runs: Iterable[str]) -> None:
        """Mark the content of these runs as in use, so that no :meth:`sweep` deletes it."""

    def sweep(self, before: float) -> int:
        """Delete the content of runs not in use since ``before`` (Unix seconds).

        Return the number of deleted contents.
        """


def relative_name(base: str, location: str) -> str | None:
    """Return the name of a location below ``base``, or None for another store."""
    if not location.startswith(f"{base}/"):
        return None
    name = location[len(base) + 1 :]
    return name if is_name(name) else None


def read_checked(store: Store, preview: Preview) -> bytes:
    """Return the content of a preview.

    Raises PreviewError if it is missing or was changed.
    """
    content = store.read(preview.location)
    digest = hashlib.sha256(content).hexdigest()
    if not hmac.compare_digest(digest.encode(), preview.digest.encode("utf-8", "replace")):
        raise PreviewError("the content of the preview has changed since it was stored")
    return content


def foreign_location_error(location: str) -> PreviewError:
    """Return the error for a location of another store."""
    del location  # not in the message: it may reveal another host's paths to a client
    return PreviewError("the preview is in another store: use the same previews= setting here")
