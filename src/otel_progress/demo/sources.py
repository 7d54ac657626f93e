"""Finds Python sources: a bounded, sorted walk that follows no symbolic link, and groups of files by package.

Nothing is opened here; files are only looked at with ``lstat``, so a named pipe called ``x.py`` blocks nobody.
"""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from otel_progress.errors import ConfigurationError
from otel_progress.text import escape_controls

MAX_ENTRIES: Final = 500_000
"""Most directory entries looked at, so that ``demo /`` ends."""


MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Largest file that is examined, in bytes."""


MAX_DEPTH: Final = 3
"""Folders below this depth count as part of the one above."""


FULL_BYTES: Final = 32 * 1024 * 1024
"""Most source a survey of the interpreter takes in: about half a minute of work."""


QUICK_BYTES: Final = 2 * 1024 * 1024
"""Most source that ``--quick`` takes in."""


TOP_LEVEL: Final = "(top level)"
"""Name of the group of files that are in no folder of their own."""


_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


class SourceError(ConfigurationError):
    """The path to survey cannot be used; the text says why and what to give instead."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to examine. ``folder`` are the names of its package and the folders below it; ``name`` the rest; bytes."""

    path: str
    folder: tuple[str, ...]
    name: str
    size: int

    @property
    def label(self) -> str:
        """What a person calls the file."""
        return "/".join((*(part for part in self.folder if part != TOP_LEVEL), self.name))


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """Something that is not examined: ``failed`` because it could not be read, or skipped because of what it is."""

    path: str
    reason: str
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """Where a walk begins; ``prefix`` goes before the names of the packages found there."""

    path: Path
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """Either a few files or a few folders, never both: so its share of the work done is the share of its parts."""

    name: str
    files: tuple[SourceFile, ...]
    folders: tuple[Folder, ...]
    count: int


Entry: TypeAlias = "SourceFile | SkippedEntry"


Order: TypeAlias = Literal["name", "smallest"]


def find_interpreter_roots() -> list[Root]:
    """Return where the running interpreter has its standard library and the packages installed beside it."""
    paths = sysconfig.get_paths()
    roots = [Root(Path(paths["stdlib"]))]
    for key in ("purelib", "platlib"):
        path = Path(paths[key])
        if path.is_dir() and all(root.path != path for root in roots):
            roots.append(Root(path, "site-packages/"))
    return roots


def parse_root(text: str) -> Root:
    """Return the root for a path given by a user. Raises :class:`SourceError` unless it is a folder with Python files below."""
    shown = escape_controls(text)[:200]
    advice = "Give a folder that has Python files in it, or none to survey this interpreter's own sources."
    try:
        mode = Path(text).stat().st_mode
        if not stat.S_ISDIR(mode):
            msg = f"{shown!r} is not a folder. {advice}"
            raise SourceError(msg)
        os.scandir(text).close()
    except FileNotFoundError as exc:
        msg = f"There is no folder {shown!r}. {advice}"
        raise SourceError(msg) from exc
    except (OSError, ValueError) as exc:  # ValueError: a null character in the path
        reason = exc.strerror if isinstance(exc, OSError) else exc
        msg = f"The folder {shown!r} cannot be read: {reason}. {advice}"
        raise SourceError(msg) from exc
    root = Root(Path(text))
    if not any(isinstance(found, SourceFile) for found in walk_files(root)):
        msg = f"There are no Python files (*.py) in {shown!r}. {advice}"
        raise SourceError(msg)
    return root


def walk_files(root: Root, *, max_entries: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Yield the Python files below ``root`` by name, and what has to be left; ends with a Left when the bound is reached."""
    pending: list[tuple[str, tuple[str, ...]]] = [(str(root.path), ())]
    seen = 0
    while pending:
        path, parts = pending.pop()
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            yield SkippedEntry(path, f"folder cannot be read: {exc.strerror}", exc)
            continue
        if parts and any(entry.name == "pyvenv.cfg" for entry in found):
            yield SkippedEntry(path, "a virtual environment")
            continue
        seen += len(found)
        if seen > max_entries:
            yield SkippedEntry(path, f"more than {max_entries:,} entries: the rest is left out")
            return
        folders: list[tuple[str, tuple[str, ...]]] = []
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in _SKIPPED_FOLDERS:
                    folders.append((entry.path, (*parts, entry.name)))
            elif entry.name.endswith(".py"):
                yield _classify_entry(entry, parts, root.prefix)
        pending.extend(reversed(folders))


def _classify_entry(entry: os.DirEntry[str], parts: tuple[str, ...], prefix: str) -> Entry:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as exc:
        return SkippedEntry(entry.path, f"cannot be looked at: {exc.strerror}", exc)
    if stat.S_ISLNK(status.st_mode):
        return SkippedEntry(entry.path, "a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        return SkippedEntry(entry.path, "not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        return SkippedEntry(entry.path, f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    first = f"{prefix}{parts[0]}" if parts else f"{prefix}{TOP_LEVEL}"
    folder = (first, *parts[1:MAX_DEPTH])
    return SourceFile(entry.path, folder, "/".join((*parts[MAX_DEPTH:], entry.name)), status.st_size)


def select_files(files: Sequence[SourceFile], limit: int | None, order: Order = "name") -> list[SourceFile]:
    """Return the files, folder by folder, that come to at most ``limit`` bytes (but at least one file); None is no limit.

    ``smallest`` takes the smallest folders first: the most packages for the least work.
    """
    if limit is None:
        return list(files)
    groups: dict[tuple[str, ...], list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.folder, []).append(file)
    folders = list(groups.values())
    if order == "smallest":
        folders.sort(key=lambda group: (sum(file.size for file in group), group[0].folder))
    chosen: list[SourceFile] = []
    size = 0
    for file in (file for group in folders for file in group):
        size += file.size
        if size > limit and chosen:
            break
        chosen.append(file)
    return chosen


def group_by_package(files: Iterable[SourceFile]) -> tuple[Folder, ...]:
    """Return the files as trees of folders, one a package, by name."""
    return _build_folders([(file.folder, file) for file in files])


def _build_folders(files: Sequence[tuple[tuple[str, ...], SourceFile]]) -> tuple[Folder, ...]:
    groups: dict[str, list[tuple[tuple[str, ...], SourceFile]]] = {}
    for parts, file in files:
        groups.setdefault(parts[0], []).append((parts[1:], file))
    return tuple(_build_folder(name, group) for name, group in sorted(groups.items()))


def _build_folder(name: str, files: Sequence[tuple[tuple[str, ...], SourceFile]]) -> Folder:
    if not any(parts for parts, _ in files):
        return Folder(name, tuple(file for _, file in files), (), len(files))
    return Folder(
        name, (), _build_folders([(parts or (TOP_LEVEL,), file) for parts, file in files]), len(files)
    )
