"""Stores of preview content, and the selection of one by the setting ``previews``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from otel_progress.previews.stores.base import Store
from otel_progress.previews.stores.local import LocalStore, parse_folder_url
from otel_progress.previews.stores.memory import MemoryStore


def open_store(setting: str, journal: Path | None, now: Callable[[], float] = time.time) -> Store:
    """Return the store for the setting ``previews``.

    ``journal`` is the file of the journal, or None if progress is stored in memory. The default
    store is a folder next to the journal. ``now`` returns Unix seconds, for the age of content.
    Nothing is created before the first preview. Raises ConfigurationError or MissingExtraError
    for an invalid URL.
    """
    location = setting.strip()
    if location == "auto":
        if journal is None:
            return MemoryStore()
        return LocalStore(journal.with_name(f"{journal.stem}-previews"), now)
    if location.rstrip("/") == "memory:":
        return MemoryStore()
    if "://" not in location or location.lower().startswith("file://"):
        return LocalStore(parse_folder_url(location), now)
    from otel_progress.previews.stores.remote import RemoteStore

    return RemoteStore(location)
