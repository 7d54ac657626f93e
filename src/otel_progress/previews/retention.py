"""Which previews of one run are kept: a bounded number and size, thinned out so that together they still span the run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from otel_progress.records import Preview
from otel_progress.settings.defaults import DEFAULT_PREVIEW_BYTES, DEFAULT_PREVIEW_COUNT, DEFAULT_RETENTION_S


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one operation: at most ``count`` previews of ``size`` bytes in all, none older than ``age`` seconds."""

    count: int = DEFAULT_PREVIEW_COUNT
    size: int = DEFAULT_PREVIEW_BYTES
    age: float = DEFAULT_RETENTION_S


class PreviewRetention:
    """The previews of one run, oldest first. Content that several share is stored once."""

    def __init__(self) -> None:
        self.kept: list[Preview] = []
        self.number = 0

    def location_of(self, digest: str, media_type: str) -> str | None:
        """Return where content is stored already, None when it is not."""
        found = (one.location for one in self.kept if one.digest == digest and one.media_type == media_type)
        return next(found, None)

    def is_unchanged(self, path: str, name: str, digest: str) -> bool:
        """Tell whether the last preview of a level and name was the same."""
        last = next((one for one in reversed(self.kept) if one.path == path and one.name == name), None)
        return last is not None and last.digest == digest

    def add(self, preview: Preview, bounds: Bounds) -> list[Preview]:
        """Take in a preview; return those that make room for it, which are no longer kept."""
        self.number = preview.number
        self.kept.append(preview)
        gone = [one for one in self.kept[:-1] if preview.at - one.at > bounds.age]
        self.kept = [one for one in self.kept if one not in gone]
        while len(self.kept) > 1 and (len(self.kept) > bounds.count or self._size() > bounds.size):
            gone.append(self.kept.pop(self._least_informative()))
        return gone

    def unused(self, gone: list[Preview]) -> list[str]:
        """Return the locations of previews that are gone which none of the others needs."""
        used = {one.location for one in self.kept}
        return [location for location in dict.fromkeys(one.location for one in gone) if location not in used]

    def _size(self) -> int:
        return sum({one.location: one.size_bytes for one in self.kept}.values())

    def _least_informative(self) -> int:
        """Return the index of the preview that is missed least: whose neighbours are nearest to each other, never the first or the last."""
        if len(self.kept) < 3:
            return 0
        gaps = [self.kept[index + 1].at - self.kept[index - 1].at for index in range(1, len(self.kept) - 1)]
        return 1 + gaps.index(min(gaps))
