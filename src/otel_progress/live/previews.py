"""Records of previews on their way: from the thread that stored one to its operation, and to the next batch.

Not thread-safe by itself: the live store calls it with its lock held. How many an operation has is bounded by whoever stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from otel_progress.live.node import Operation
from otel_progress.observations import Preview

MAX_WAITING: Final = 10_000
"""Records of previews that may wait for the next batch; the oldest go."""


class Gallery:
    """The previews of this process by operation, oldest first, and those that no sink was told of."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Operation, list[Preview]] = WeakKeyDictionary()
        self._unsent: list[Preview] = []

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, operation: Operation, preview: Preview, gone: Sequence[Preview]) -> None:
        """Take in a preview and those that made room for it."""
        without = {one.number for one in gone}
        kept = self._kept.setdefault(operation, [])
        kept[:] = [*(one for one in kept if one.number not in without), preview]
        operation.previews = max(operation.previews, preview.number)
        self._unsent += [*gone, preview]
        del self._unsent[:-MAX_WAITING]

    def take(self) -> list[Preview]:
        """Return what the next batch has to carry; those without a location are gone."""
        records, self._unsent = self._unsent, []
        return records

    def of(self, operation: Operation) -> Sequence[Preview]:
        """Return the previews of an operation."""
        return list(self._kept.get(operation, ()))

    def forget(self, operations: Iterable[Operation]) -> list[str]:
        """Let go of operations; return where their content is."""
        return [one.location for operation in operations for one in self._kept.pop(operation, ())]


def within(previews: Sequence[Preview], path: str | None, upto: int | None, limit: int) -> Sequence[Preview]:
    """Return the newest ``limit`` previews of a level and of what is below it, up to number ``upto``, in their order."""
    if upto is not None:
        previews = [one for one in previews if one.number <= upto]
    if path:
        previews = [one for one in previews if one.path == path or one.path.startswith(f"{path}/")]
    return list(previews[-limit:]) if limit > 0 else []
