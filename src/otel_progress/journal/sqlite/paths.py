"""Compact storage of long paths, so that deep trees need little space.

A path up to ``MAX_PATH_CHARACTERS`` is stored as it is. A longer one is stored as ``%%KEY/REST``.
KEY is the key of a row in ``path_prefixes``, whose path may be compact too. No path contains
``%%``, because ``%`` is encoded in its segments.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from otel_progress.journal.sqlite.connection import query_all
from otel_progress.model import LevelSnapshot
from otel_progress.operations import Event
from otel_progress.records import LogRecord, Preview

MAX_PATH_CHARACTERS: Final = 256
"""Maximum length of a stored path. A longer one is stored as a reference and a rest."""


MAX_CACHED_PATHS: Final = 20_000
"""Long paths of one operation in the cache of a writer. Beyond it, all of them are dropped."""


_MARK: Final = "%%"


_FIND: Final = "SELECT key FROM path_prefixes WHERE operation = ? AND path = ?"


_INSERT: Final = "INSERT INTO path_prefixes (operation, path) VALUES (?, ?)"


_HAS_PREFIXES: Final = "SELECT 1 FROM path_prefixes WHERE operation = ? LIMIT 1"


_SELECT: Final = "SELECT key, path FROM path_prefixes WHERE operation = ?"


_SELECT_BELOW: Final = """SELECT key FROM path_prefixes
    WHERE operation = ? AND (path = ? OR (path > ? AND path < ?))"""


_IS_RANGE: Final = "path = ? OR (path > ? AND path < ?)"


# A path starts with a prefix in the subtree, or with one that starts with such a prefix.
_STARTS_WITH_PREFIX: Final = f"""(path > '%%' AND path < '%%:' AND
    CAST(substr(path, 3, instr(path, '/') - 3) AS INTEGER) IN (
        WITH RECURSIVE below(key) AS (
            SELECT key FROM path_prefixes WHERE operation = ? AND ({_IS_RANGE})
            UNION SELECT p.key FROM path_prefixes p JOIN below b ON p.operation = ?
                AND p.path > '%%' || b.key || '/' AND p.path < '%%' || b.key || '0'
        ) SELECT key FROM below))"""


T = TypeVar("T", Event, LogRecord, Preview)


class PathEncoder:
    """Encodes paths for rows of one file, with a cache.

    Call ``reset`` when the file changes.
    """

    def __init__(self) -> None:
        self._cache: dict[int, dict[str, str]] = {}

    def reset(self) -> None:
        """Drop the cache."""
        self._cache.clear()

    def drop(self, operation: int) -> None:
        """Drop an operation from the cache."""
        self._cache.pop(operation, None)

    def encode(self, connection: sqlite3.Connection, operation: int, path: str) -> str:
        """Return the stored form of a path, and insert the prefixes that it refers to."""
        if len(path) <= MAX_PATH_CHARACTERS:
            return path
        cache = self._cache.setdefault(operation, {})
        if len(cache) > MAX_CACHED_PATHS:
            cache.clear()

        def insert(prefix: str) -> int:
            found = _find_prefix(connection, operation, prefix)
            return found or int(connection.execute(_INSERT, (operation, prefix)).lastrowid or 0)

        return _encode(path, cache, insert) or path


def find_encoded(connection: sqlite3.Connection, operation: int, path: str) -> str:
    """Return the stored form of a path, or the path if its prefixes are not stored."""
    if len(path) <= MAX_PATH_CHARACTERS:
        return path
    found = _encode(path, {}, lambda prefix: _find_prefix(connection, operation, prefix))
    return path if found is None else found


def build_subtree_condition(
    connection: sqlite3.Connection, operation: int, path: str
) -> tuple[str, tuple[str | int, ...]]:
    """Return the SQL condition for rows of a level and its subtree, and its values.

    A subtree is a range of paths, because "0" follows "/".
    """
    stored = find_encoded(connection, operation, path)
    subtree = (stored, f"{stored}/", f"{stored}0")
    if not has_long_paths(connection, operation):
        return f"({_IS_RANGE})", subtree
    return f"({_IS_RANGE} OR {_STARTS_WITH_PREFIX})", (*subtree, operation, *subtree, operation)


def has_long_paths(connection: sqlite3.Connection, operation: int) -> bool:
    """Return True if some path of an operation is stored as a reference and a rest."""
    return connection.execute(_HAS_PREFIXES, (operation,)).fetchone() is not None


def list_subtree_ranges(connection: sqlite3.Connection, operation: int, stored: str) -> list[tuple[str, str]]:
    """Return the ranges of stored paths below a level, both ends excluded."""
    ranges, waiting = [], [stored]
    while waiting:
        above = waiting.pop()
        ranges.append((f"{above}/", f"{above}0"))
        keys = query_all(connection, _SELECT_BELOW, (operation, above, *ranges[-1]))
        waiting += [f"{_MARK}{key}" for (key,) in keys]
    return ranges


def expand_levels(
    connection: sqlite3.Connection, operation: int, levels: Sequence[LevelSnapshot]
) -> Sequence[LevelSnapshot]:
    """Return levels with full paths. Levels whose prefixes are missing are left out."""
    if not any(level.info.path.startswith(_MARK) for level in levels):
        return levels
    expand = _load_prefixes(connection, operation)
    paths = [(level, expand(level.info.path)) for level in levels]
    return [
        level if path == level.info.path else replace(level, info=replace(level.info, path=path))
        for level, path in paths
        if path is not None
    ]


def expand_records(connection: sqlite3.Connection, operation: int, records: Iterable[T]) -> list[T]:
    """Return records with full paths. Records whose prefixes are missing are left out."""
    found = list(records)
    if not any(record.path.startswith(_MARK) for record in found):
        return found
    expand = _load_prefixes(connection, operation)
    paths = [(record, expand(record.path)) for record in found]
    return [replace(record, path=path) for record, path in paths if path is not None]


def read_level_keys(connection: sqlite3.Connection, operation: int) -> dict[str, int]:
    """Return the row keys of an operation's levels by full path."""
    stored = query_all(connection, "SELECT path, key FROM levels WHERE operation = ?", (operation,))
    expand = _load_prefixes(connection, operation)
    return {path: key for compact, key in stored if (path := expand(compact)) is not None}


def _encode(path: str, cache: dict[str, str], find: Callable[[str], int | None]) -> str | None:
    """Return the stored form of a path, or None if ``find`` returns None for a prefix.

    The form of a level depends only on that of its parent, so all writers store the same.
    """
    waiting: list[str] = []
    here = path
    while (stored := cache.get(here)) is None and len(here) > MAX_PATH_CHARACTERS and "/" in here:
        above, _, segment = here.rpartition("/")
        waiting.append(segment)
        here = above
    stored = stored or here
    for segment in reversed(waiting):
        if len(stored) + len(segment) >= MAX_PATH_CHARACTERS:
            key = find(stored)
            if key is None:
                return None
            stored = f"{_MARK}{key}"
        stored = f"{stored}/{segment}"
    cache[path] = stored
    return stored


def _find_prefix(connection: sqlite3.Connection, operation: int, prefix: str) -> int | None:
    found = connection.execute(_FIND, (operation, prefix)).fetchone()
    return None if found is None else int(found[0])


def _load_prefixes(connection: sqlite3.Connection, operation: int) -> Callable[[str], str | None]:
    """Return a function that expands the stored paths of an operation."""
    stored = dict(query_all(connection, _SELECT, (operation,)))
    full: dict[int, str | None] = {}

    def expand(path: str) -> str | None:
        if not path.startswith(_MARK):
            return path
        waiting: list[tuple[int | None, str]] = [(None, path)]
        # Why no recursion: a tree may be deeper than Python's stack.
        while True:
            number, _, _ = waiting[-1][1][len(_MARK) :].partition("/")
            key = int(number) if number.isdecimal() else -1
            if key in full or len(waiting) > len(stored) + 1:
                break
            above = stored.get(key)
            if type(above) is not str or not above.startswith(_MARK):
                full[key] = above if type(above) is str else None
                break
            waiting.append((key, above))
        for found, text in reversed(waiting):
            number, _, rest = text[len(_MARK) :].partition("/")
            prefix = full.get(int(number)) if number.isdecimal() else None
            result = None if prefix is None else f"{prefix}/{rest}"
            if found is None:
                return result
            full[found] = result
        return None

    return expand
