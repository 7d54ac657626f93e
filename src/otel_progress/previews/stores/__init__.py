"""From the setting to the store: a folder beside the journal unless told otherwise."""

from __future__ import annotations

from pathlib import Path

from otel_progress.previews.stores.base import Store
from otel_progress.previews.stores.local import LocalStore, folder_of_url
from otel_progress.previews.stores.memory import MemoryStore


def open_store(setting: str, journal: Path | None) -> Store:
    """Return the store of the setting ``previews``; ``journal`` is the file of the journal, None where progress is kept in memory.

    Nothing is made before the first preview. Raises ConfigurationError or MissingExtraError for a URL that cannot be used.
    """
    word = setting.strip()
    if word == "auto":
        return MemoryStore() if journal is None else LocalStore(journal.with_name(f"{journal.stem}-previews"))
    if word.rstrip("/") == "memory:":
        return MemoryStore()
    if "://" not in word or word.lower().startswith("file://"):
        return LocalStore(folder_of_url(word))
    from otel_progress.previews.stores.remote import RemoteStore

    return RemoteStore(word)
