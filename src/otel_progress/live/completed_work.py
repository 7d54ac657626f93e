"""Completed levels and items of all sessions of an operation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Final

from otel_progress.model import Number
from otel_progress.resumption import (
    MAX_COMPLETED_KEYS,
    CompletedKey,
    ResumedWork,
    digest_key,
    digest_level_scope,
    digest_loop_scope,
)

MAX_NESTED_LOOPS: Final = 10_000
"""Names of loops in the body of other loops that are counted. Beyond it the oldest is dropped."""


_NO_KEYS: Final[Mapping[bytes, Number]] = {}


class CompletedWork:
    """Keys of an operation: those of earlier sessions, and those of this one.

    Threads may add keys without a lock. ``add_entry`` is called with each new key. Beyond
    ``max_keys`` no key is added, and ``on_dropped`` is called.
    """

    __slots__ = (
        "_add_entry",
        "_added",
        "_count",
        "_earlier",
        "_next_loops",
        "_next_nested_loops",
        "_on_dropped",
        "_run",
        "_uncounted",
        "max_keys",
        "running_loops",
        "work",
    )

    def __init__(
        self,
        run: str,
        work: ResumedWork | None,
        *,
        add_entry: Callable[[CompletedKey], object],
        on_dropped: Callable[[], object],
        max_keys: int = MAX_COMPLETED_KEYS,
    ) -> None:
        self.work = work
        self.max_keys = max_keys
        self._run = run
        self._add_entry = add_entry
        self._on_dropped = on_dropped
        self._earlier: dict[bytes, dict[bytes, Number]] = {}
        for scope, key, weight in () if work is None else work.completed:
            self._earlier.setdefault(scope, {})[key] = weight
        self._added: dict[bytes, dict[bytes, Number]] = {}
        self._count = sum(map(len, self._earlier.values()))
        self._uncounted: set[tuple[bytes, bytes]] = set()
        """Restored levels that this session has entered, so that they count themselves."""
        self._next_loops: dict[tuple[str, str, str], Callable[[], int]] = {}
        self._next_nested_loops: dict[tuple[str, str, str], Callable[[], int]] = {}
        self.running_loops: dict[int, Callable[[], object]] = {}
        """Weak references to the iterators of keyed loops, the newest last."""

    # --- levels ----------------------------------------------------------------------------------

    def is_completed(self, parent_path: str, segment: str) -> bool:
        """Return True if an earlier session completed a level."""
        if not self._earlier:
            return False
        return digest_key(segment) in self._earlier.get(digest_level_scope(parent_path), _NO_KEYS)

    def count_restored_levels(self, path: str) -> tuple[int, Number]:
        """Return number and weight of the levels directly below a path that are completed.

        Earlier sessions completed them.
        """
        keys = self._earlier.get(digest_level_scope(path), _NO_KEYS) if self._earlier else _NO_KEYS
        return len(keys), sum(keys.values())

    def add_level(self, parent_path: str, segment: str, weight: Number) -> None:
        """Add a completed level."""
        self.add(digest_level_scope(parent_path), digest_key(segment), weight)

    def take_restored(self, parent_path: str, segment: str) -> Number | None:
        """Return the weight with which the parent still counts a restored level.

        None if it does not. The next call returns None.
        """
        if not self._earlier:
            return None
        identity = digest_level_scope(parent_path), digest_key(segment)
        weight = self._earlier.get(identity[0], _NO_KEYS).get(identity[1])
        if weight is None or identity in self._uncounted:
            return None
        self._uncounted.add(identity)
        return weight

    # --- items -----------------------------------------------------------------------------------

    def create_loop_scope(self, parent_path: str, type_: str, name: str, *, is_nested: bool = False) -> bytes:
        """Return the scope of the next loop with this type and name below a level.

        With ``is_nested``, ``parent_path`` identifies an element of another loop. At most
        MAX_NESTED_LOOPS of such names are stored, because an element is processed once.
        """
        names = (parent_path, type_, name)
        numbers = self._next_nested_loops if is_nested else self._next_loops
        next_number = numbers.get(names)
        if next_number is None:
            next_number = numbers.setdefault(names, itertools.count(1).__next__)
            if is_nested and len(numbers) > MAX_NESTED_LOOPS:
                # Why suppressed: another thread may change the dictionary.
                with contextlib.suppress(RuntimeError, StopIteration, KeyError):
                    del numbers[next(iter(numbers))]
        return digest_loop_scope(parent_path, type_, name, next_number())

    def get_earlier_keys(self, scope: bytes) -> Mapping[bytes, Number]:
        """Return the keys that earlier sessions completed in a scope."""
        return self._earlier.get(scope, _NO_KEYS)

    def add(self, scope: bytes, key: bytes, weight: Number = 1) -> bool:
        """Add a completed key. Return False if this session has added it before."""
        if key in self._earlier.get(scope, _NO_KEYS):
            return True
        added = self._added.get(scope)
        if added is None:
            added = self._added.setdefault(scope, {})
        if key in added:
            return False
        if self._count >= self.max_keys:
            self._on_dropped()
            return True
        self._count += 1
        added[key] = weight
        self._add_entry(CompletedKey(self._run, scope, key, weight))
        return True

    def list_entries(self) -> list[CompletedKey]:
        """Return all keys of all sessions."""
        return [
            CompletedKey(self._run, scope, key, weight)
            for scopes in (self._earlier, self._added)
            for scope, keys in list(scopes.items())
            for key, weight in list(keys.items())
        ]
