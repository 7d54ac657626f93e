"""Search for Python files: a bounded, sorted walk, and groups of files by package.

The walk follows no symbolic links and opens no file, so a named pipe called ``x.py`` cannot block
it.
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
"""Directory entries read per root. Beyond that the walk stops, so ``demo /`` finishes."""


MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Largest file that is examined. Larger ones are skipped."""


MAX_DEPTH: Final = 3
"""Deepest folder with a level of its own. Deeper files belong to it."""


FULL_BYTES: Final = 32 * 1024 * 1024
"""Source examined of the interpreter, about half a minute. Further files are omitted."""


QUICK_BYTES: Final = 2 * 1024 * 1024
"""Source examined with ``--quick``. Further files are omitted."""


TOP_LEVEL: Final = "(top level)"
"""Name of the group of files outside of packages."""


_SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


class SourceError(ConfigurationError):
    """Invalid path to survey."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """File to examine.

    ``folder`` has the names of its package and subfolders, ``name`` the rest. ``size`` is in bytes.
    """

    path: str
    folder: tuple[str, ...]
    name: str
    size: int

    @property
    def label(self) -> str:
        """Path of the file for display, relative to its root."""
        return "/".join((*(part for part in self.folder if part != TOP_LEVEL), self.name))


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """File or folder that is not examined. With an ``error`` it is unreadable."""

    path: str
    reason: str
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """Start of a walk. ``prefix`` precedes the names of the packages found there."""

    path: Path
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """Folder with either files or subfolders.

    Its progress is the progress of its parts.
    """

    name: str
    files: tuple[SourceFile, ...]
    folders: tuple[Folder, ...]
    count: int


Entry: TypeAlias = "SourceFile | SkippedEntry"


Order: TypeAlias = Literal["name", "smallest"]


def find_interpreter_roots() -> list[Root]:
    """Return the folders of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    roots = [Root(Path(paths["stdlib"]))]
    for key in ("purelib", "platlib"):
        path = Path(paths[key])
        if path.is_dir() and all(root.path != path for root in roots):
            roots.append(Root(path, "site-packages/"))
    return roots


def parse_root(text: str) -> Root:
    """Return the root for a path.

    Raises :class:`SourceError` if it is not a folder with Python files.
    """
    shown = escape_controls(text)[:200]
    invalid = f"Invalid path {shown!r}: expected a folder with Python files (*.py)"
    advice = "Without a path, this Python's own files are surveyed."
    try:
        mode = Path(text).stat().st_mode
        if not stat.S_ISDIR(mode):
            msg = f"{invalid}, found a file. {advice}"
            raise SourceError(msg)
        os.scandir(text).close()
    except FileNotFoundError as exc:
        msg = f"{invalid}, but it does not exist. {advice}"
        raise SourceError(msg) from exc
    except (OSError, ValueError) as exc:  # ValueError: the path contains a null character
        reason = exc.strerror if isinstance(exc, OSError) else exc
        msg = f"{invalid}, but it is unreadable ({reason}). {advice}"
        raise SourceError(msg) from exc
    root = Root(Path(text))
    if not any(isinstance(entry, SourceFile) for entry in walk_files(root)):
        msg = f"{invalid}, found no such files. {advice}"
        raise SourceError(msg)
    return root


def walk_files(root: Root, *, max_entries: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Yield the Python files below ``root`` by name, and skipped entries.

    The last entry is a skipped one if ``max_entries`` is reached.
    """
    pending: list[tuple[str, tuple[str, ...]]] = [(str(root.path), ())]
    entry_count = 0
    while pending:
        path, parts = pending.pop()
        try:
            with os.scandir(path) as entries:
                sorted_entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            yield SkippedEntry(path, f"unreadable folder: {exc.strerror}", exc)
            continue
        if parts and any(entry.name == "pyvenv.cfg" for entry in sorted_entries):
            yield SkippedEntry(path, "a virtual environment")
            continue
        entry_count += len(sorted_entries)
        if entry_count > max_entries:
            yield SkippedEntry(path, f"more than {max_entries:,} entries: the others are omitted")
            return
        folders: list[tuple[str, tuple[str, ...]]] = []
        for entry in sorted_entries:
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
        return SkippedEntry(entry.path, f"unreadable file: {exc.strerror}", exc)
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
    """Return files of at most ``limit`` bytes in total, but at least one file.

    Without a limit all files are returned. With the order ``smallest`` the smallest folders are
    included first, which gives the most packages for the least work.
    """
    if limit is None:
        return list(files)
    groups: dict[tuple[str, ...], list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.folder, []).append(file)
    folders = list(groups.values())
    if order == "smallest":
        folders.sort(key=lambda group: (sum(file.size for file in group), group[0].folder))
    selected: list[SourceFile] = []
    size = 0
    for file in (file for group in folders for file in group):
        size += file.size
        if size > limit and selected:
            break
        selected.append(file)
    return selected


def group_by_package(files: Iterable[SourceFile]) -> tuple[Folder, ...]:
    """Return the files as folder trees, one per package, sorted by name."""
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
