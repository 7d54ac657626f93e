"""Opens a journal by its URL."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from otel_progress.errors import ConfigurationError, JournalError, MissingExtraError
from otel_progress.journal.protocol import Journal
from otel_progress.journal.redis.address import ACCEPTED_URLS, RedisAddress, is_redis_url, parse_address
from otel_progress.journal.sqlite.journal import DEFAULT_MAX_BYTES, SqliteJournal
from otel_progress.protocols import RenameRun
from otel_progress.settings.defaults import DEFAULT_RETENTION_S
from otel_progress.text import escape_controls, remove_credentials, truncate

MIN_BYTES: Final = 1024 * 1024
"""Smallest accepted size limit. An empty journal needs some 100 KiB."""


_SPILL_NAME_CHARS: Final = 16
"""Characters of the name of a server in the names of files of ended operations."""


_ACCEPTED_URLS: Final = "Use sqlite: (the default file), sqlite:///relative.db or sqlite:////absolute/path.db"


def default_path() -> Path:
    """Return the file of ``sqlite:``.

    It is in ``$XDG_STATE_HOME/otel-progress``, by default ``~/.local/state/otel-progress``. On
    Windows it is in the folder ``otel-progress`` of ``%LOCALAPPDATA%``. Raises JournalError if the
    user has no home directory.
    """
    try:
        return _find_state_folder() / "otel-progress" / "progress.db"
    except RuntimeError as error:
        msg = (
            "There is no place for the journal, because this user has no home directory. "
            "Set HOME or XDG_STATE_HOME, or set the store to a file: sqlite:////absolute/path.db."
        )
        raise JournalError(msg) from error


def _find_state_folder() -> Path:
    """Return the folder for the state of programs.

    Raises RuntimeError without a home directory.
    """
    if sys.platform == "win32":
        state = os.environ.get("LOCALAPPDATA")
        return Path(state) if state else Path.home() / "AppData" / "Local"
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification requires that relative paths are ignored.
    return Path(state) if state.startswith("/") else Path.home() / ".local" / "state"


def open_journal(
    url: str,
    *,
    retention_s: float = DEFAULT_RETENTION_S,
    max_bytes: int = DEFAULT_MAX_BYTES,
    read_only: bool = False,
    missing_ok: bool = False,
    on_deleted: Callable[[Sequence[str]], object] | None = None,
    rename_run: RenameRun | None = None,
) -> Journal:
    """Open the journal at a URL.

    - ``url``: ``sqlite:``, ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``,
      percent-decoded, or the URL of a Redis server, see
      :func:`otel_progress.journal.redis.address.parse_address`.
    - ``retention_s``: time that ended operations are stored, in seconds.
    - ``max_bytes``: size limit of the file. Beyond it, the oldest ended operations are deleted
      early. Redis has its own limit, ``maxmemory``.
    - ``read_only``: never create the file. Raises JournalError at once if it cannot be read.
    - ``missing_ok``: with ``read_only``, a missing journal is empty until a process creates it.
    - ``on_deleted``: called with the locations of previews that were deleted with their operations
      and that nothing refers to any more. It runs in the thread that writes or deletes.
    - ``rename_run``: renames a run of this process whose id another live process uses. It runs in
      the thread that writes. Without it the ids are not checked.

    Without ``read_only``, the first use creates the file. Raises ConfigurationError for an invalid
    value, MissingExtraError if packages are missing, and JournalError without a home directory or
    current directory for the file.
    """
    _check_limits(retention_s, max_bytes)
    if is_redis_url(url):
        return _open_redis(url, retention_s, on_deleted, rename_run, read_only=read_only)
    journal = SqliteJournal(
        _parse_url(url),
        retention_s=retention_s,
        max_bytes=max_bytes,
        read_only=read_only,
        missing_ok=missing_ok,
        on_deleted=on_deleted,
        rename_run=rename_run,
    )
    if read_only:
        journal.check()
    return journal


def _open_redis(
    url: str,
    retention_s: float,
    on_deleted: Callable[[Sequence[str]], object] | None,
    rename_run: RenameRun | None,
    *,
    read_only: bool,
) -> Journal:
    address = parse_address(url)
    if find_spec("redis") is None:
        raise MissingExtraError("A Redis journal", "redis")
    # Why here: other stores do not load these modules. The package redis is imported later.
    from otel_progress.journal.redis.journal import RedisJournal

    journal = RedisJournal(
        address,
        retention_s=retention_s,
        read_only=read_only,
        on_deleted=on_deleted,
        spill_base=_find_spill_base(address),
        rename_run=rename_run,
    )
    if read_only:
        journal.check()
    return journal


def _find_spill_base(address: RedisAddress) -> Path | None:
    """Return the path for ended operations that wait while a server is down, or None.

    It is the same for all processes of this user with the same address.
    """
    name = hashlib.sha1(str(address).encode(), usedforsecurity=False).hexdigest()[:_SPILL_NAME_CHARS]
    try:
        return default_path().with_name(f"redis-{name}")
    except JournalError:
        return None


def _check_limits(retention_s: float, max_bytes: int) -> None:
    if not retention_s >= 0:
        msg = f"Invalid retention {retention_s!r}: expected seconds, 0 or more. A day has 86400."
        raise ConfigurationError(msg)
    if max_bytes < MIN_BYTES:
        msg = f"Invalid size limit {max_bytes!r} of the journal: expected {MIN_BYTES} bytes (1 MiB) or more."
        raise ConfigurationError(msg)


def _parse_url(url: str) -> Path:
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.lower() != "sqlite":
        raise _build_error(url)
    if rest in {"", "//", "///"}:
        return default_path()
    if not rest.startswith("///") or "?" in rest or "#" in rest:
        raise _build_error(url)
    name = os.fsdecode(unquote_to_bytes(rest[3:]))
    if "\0" in name or name.endswith("/"):
        raise _build_error(url)
    try:
        # Why absolute: a later chdir must not move the journal.
        return Path(name).absolute()
    except OSError as error:
        msg = (
            f"The journal {escape_controls(name)} has no place, because the current directory cannot be "
            f"read ({error.strerror}). Set the store to an absolute path: sqlite:////absolute/path.db."
        )
        raise JournalError(msg) from error


def _build_error(url: str) -> ConfigurationError:
    shown = escape_controls(truncate(remove_credentials(url), 200))
    msg = f"Invalid store {shown!r}: expected the URL of a journal. {_ACCEPTED_URLS}"
    msg += f"; write ? and # in a path as %3F and %23. For several machines use {ACCEPTED_URLS}."
    return ConfigurationError(msg)
