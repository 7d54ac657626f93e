"""Retention of the previews of one run, thinned out so that they span the run.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from otel_progress.records import Preview
from otel_progress.settings.defaults import DEFAULT_PREVIEW_BYTES, DEFAULT_PREVIEW_COUNT, DEFAULT_RETENTION_S


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits per operation: number, total size in bytes, and age in seconds."""

    count: int = DEFAULT_PREVIEW_COUNT
    size: int = DEFAULT_PREVIEW_BYTES
    age: float = DEFAULT_RETENTION_S


class PreviewRetention:
    """Stored previews of one run, oldest first.

    Content that several share is stored once.
    """

    def __init__(self) -> None:
        self.previews: list[Preview] = []
        self.number = 0

    def location_of(self, digest: str, media_type: str) -> str | None:
        """Return the location of content that is already stored, else None."""
        locations = (
            preview.location
            for preview in self.previews
            if preview.digest == digest and preview.media_type == media_type
        )
        return next(locations, None)

    def is_unchanged(self, path: str, name: str, digest: str) -> bool:
        """Return whether the last preview of a level and name has the same content."""
        same_name = (
            preview for preview in reversed(self.previews) if preview.path == path and preview.name == name
        )
        last = next(same_name, None)
        return last is not None and last.digest == digest

    def add(self, preview: Preview, bounds: Bounds) -> list[Preview]:
        """Add a preview. Return the previews that are removed to stay within the bounds."""
        self.number = preview.number
        self.previews.append(preview)
        removed = [old for old in self.previews[:-1] if preview.at - old.at > bounds.age]
        self.previews = [kept for kept in self.previews if kept not in removed]
        while len(self.previews) > 1 and (
            len(self.previews) > bounds.count or self._total_size() > bounds.size
        ):
            removed.append(self.previews.pop(self._least_informative()))
        return removed

    def unused_locations(self, removed: list[Preview]) -> list[str]:
        """Return the locations of removed previews that no stored preview uses."""
        used = {preview.location for preview in self.previews}
        locations = dict.fromkeys(preview.location for preview in removed)
        return [location for location in locations if location not in used]

    def _total_size(self) -> int:
        return sum({preview.location: preview.size_bytes for preview in self.previews}.values())

    def _least_informative(self) -> int:
        """Return the index of the preview whose neighbours are closest in time.

        The first and the last preview are not considered.
        """
        previews = self.previews
        if len(previews) < 3:
            return 0
        gaps = [previews[index + 1].at - previews[index - 1].at for index in range(1, len(previews) - 1)]
        return 1 + gaps.index(min(gaps))
