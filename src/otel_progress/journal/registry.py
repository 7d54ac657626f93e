"""From a URL to a journal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from otel_progress.errors import ConfigurationError, MissingExtraError
from otel_progress.journal.protocol import Journal
from otel_progress.journal.sqlite.journal import DEFAULT_MAX_BYTES, DEFAULT_RETENTION_S, SqliteJournal
from otel_progress.text import escape_controls

MIN_BYTES: Final = 1024 * 1024
"""Smallest bound of the file's size: an empty journal has some 100 KiB."""


_ACCEPTED_URLS: Final = "Use sqlite: (the default file), sqlite:///relative.db or sqlite:////absolute/path.db"


def default_path() -> Path:
    """Return the file behind ``sqlite:``: in ``$XDG_STATE_HOME/otel-progress``, by default ``~/.local/state/otel-progress``."""
    if sys.platform == "win32":
        state = os.environ.get("LOCALAPPDATA")
        base = Path(state) if state else Path.home() / "AppData" / "Local"
    else:
        state = os.environ.get("XDG_STATE_HOME", "")
        base = (
            Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
        )  # a relative one is to be ignored (XDG)
    return base / "otel-progress" / "progress.db"


def open_journal(
    url: str,
    *,
    retention_s: float = DEFAULT_RETENTION_S,
    max_bytes: int = DEFAULT_MAX_BYTES,
    read_only: bool = False,
    on_deleted: Callable[[Sequence[str]], object] | None = None,
) -> Journal:
    """Return the journal at ``url``: ``sqlite:``, ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``, percent-decoded.

    Ended operations older than ``retention_s`` seconds go, the oldest ones earlier when the file would pass ``max_bytes``. A
    journal to write is made at its first use; one that is ``read_only`` is never created, and a JournalError says at once when it
    cannot be read. ``on_deleted`` is called with the locations of previews that were deleted here with their operations, once nothing
    refers to them, from the thread that writes or deletes. Raises ConfigurationError for a value that cannot be used,
    MissingExtraError when packages are missing.
    """
    if not retention_s >= 0:
        msg = (
            f"The retention is {retention_s!r}; it has to be a number of seconds, 0 or more (86400 is a day)."
        )
        raise ConfigurationError(msg)
    if max_bytes < MIN_BYTES:
        msg = (
            f"The size bound of the journal is {max_bytes!r} bytes; it has to be {MIN_BYTES} (1 MiB) or more."
        )
        raise ConfigurationError(msg)
    path = _path(url)
    journal = SqliteJournal(
        path, retention_s=retention_s, max_bytes=max_bytes, read_only=read_only, on_deleted=on_deleted
    )
    if read_only:
        journal.check()
    return journal


def path_of(url: str) -> Path:
    """Return the file of a journal's URL. Raises ConfigurationError when it is none."""
    return _path(url)


def _path(url: str) -> Path:
    scheme, colon, rest = url.partition(":")
    if colon and scheme.lower() in {"redis", "rediss"}:
        if find_spec("redis") is None:
            raise MissingExtraError("A Redis journal", "redis")
        msg = f"This release has no Redis journal yet. {_ACCEPTED_URLS}."
        raise ConfigurationError(msg)
    if not colon or scheme.lower() != "sqlite":
        raise _refused(url)
    if rest in {"", "//", "///"}:
        return default_path()
    if not rest.startswith("///") or "?" in rest or "#" in rest:
        raise _refused(url)
    name = os.fsdecode(unquote_to_bytes(rest[3:]))
    if "\0" in name or name.endswith("/"):
        raise _refused(url)
    return Path(name).absolute()  # a later chdir is not to move the journal


def _refused(url: str) -> ConfigurationError:
    shown = escape_controls(url if len(url) <= 200 else url[:199] + "…")
    return ConfigurationError(
        f"The store {shown!r} is not a journal. {_ACCEPTED_URLS}; write ? and # in a path as %3F and %23."
    )
