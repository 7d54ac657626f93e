"""Context of all commands: journal, colour option and lookup of operations."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import click

from otel_progress.cli.output import MAX_BATCHES, CliError
from otel_progress.errors import ConfigurationError
from otel_progress.settings.fields import Settings
from otel_progress.text import MAX_ID, escape_controls

if TYPE_CHECKING:
    from otel_progress.batches import BatchCursor
    from otel_progress.journal import Journal
    from otel_progress.model import Outcome
    from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader
    from otel_progress.records import LogRecord, Preview, ResourceSample


_DEFAULT_STORES: Final = frozenset({"sqlite:", "sqlite://", "sqlite:///"})
"""Names of the default journal."""


_MAX_IDS: Final = 10_000
"""Finished operations searched for a prefix or a similar ID, the newest."""


@dataclass(frozen=True, slots=True)
class CliContext:
    """Global options.

    ``store`` None means the environment, ``color`` None depends on the stream.
    """

    store: str | None
    color: bool | None

    @classmethod
    def from_options(cls, store: str | None, color: str, environ: Mapping[str, str]) -> CliContext:
        """Return the context for ``--store``, ``--color`` and the environment."""
        if color != "auto":
            return cls(store, color == "always")
        if environ.get("NO_COLOR"):
            return cls(store, False)
        return cls(store, True if environ.get("FORCE_COLOR") else None)

    def settings(self) -> Settings:
        """Return the current settings: options before environment before defaults.

        Raises ConfigurationError if a setting is invalid.
        """
        return Settings.from_environ(os.environ).with_arguments(store=self.store)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open the journal for reading.

        A default journal that does not exist yet is read as empty.
        """
        url = self.settings().store
        if url.lower().startswith("memory:"):
            msg = (
                "Invalid store 'memory:': expected a store that other processes can read. "
                "Use sqlite: here and in the program."
            )
            raise ConfigurationError(msg)
        with closing(_open_journal(url) or AwaitedJournal(url)) as reader:
            yield reader

    def previews(self) -> Store | None:
        """Return the store of preview content. None if previews are disabled."""
        from otel_progress.journal.registry import path_of
        from otel_progress.previews.stores import open_store

        settings = self.settings()
        return None if settings.previews is False else open_store(settings.previews, path_of(settings.store))

    def _delete_previews(self, locations: Sequence[str]) -> None:
        """Delete the preview content of deleted operations."""
        store = self.previews()
        if store is not None:
            store.delete(locations)

    @contextmanager
    def controller(self) -> Iterator[Controller]:
        """Open the journal for writing.

        Creates the file, so call it only after ``reader`` found an operation.
        """
        from otel_progress.journal import open_journal

        journal = open_journal(self.settings().store, on_deleted=self._delete_previews)
        try:
            yield journal
        finally:
            journal.close()


class AwaitedJournal:
    """Reader of the default journal that is empty until the journal file exists."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()  # a server reads from several threads
        self._journal: Journal | None = None

    def close(self) -> None:
        """Close the journal if it was opened."""
        if self._journal is not None:
            self._journal.close()

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an ID."""
        journal = self._open_if_present()
        return None if journal is None else journal.get(operation_id)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return the active operations."""
        journal = self._open_if_present()
        return () if journal is None else journal.active(levels=levels)

    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return finished operations."""
        journal = self._open_if_present()
        return () if journal is None else journal.history(operation_type, limit, before=before, since=since)

    def events(
        self,
        operation_id: str,
        *,
        level: str | None = None,
        outcome: Outcome | None = None,
        since: float | None = None,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Event]:
        """Return the newest events of an ID."""
        journal = self._open_if_present()
        if journal is None:
            return ()
        return journal.events(operation_id, level=level, outcome=outcome, since=since, upto=upto, limit=limit)

    def logs(
        self,
        operation_id: str,
        *,
        path: str | None = None,
        severity: int = 0,
        since: float | None = None,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
    ) -> Sequence[LogRecord]:
        """Return the newest log records of an ID."""
        journal = self._open_if_present()
        if journal is None:
            return ()
        return journal.logs(
            operation_id, path=path, severity=severity, since=since, after=after, upto=upto, limit=limit
        )

    def resources(
        self, operation_id: str, *, since: float | None = None, upto: float | None = None, limit: int = 600
    ) -> Sequence[ResourceSample]:
        """Return the resource samples of the process of an ID."""
        journal = self._open_if_present()
        return () if journal is None else journal.resources(operation_id, since=since, upto=upto, limit=limit)

    def previews(
        self, operation_id: str, *, path: str | None = None, upto: int | None = None, limit: int = 100
    ) -> Sequence[Preview]:
        """Return the stored previews of an ID."""
        journal = self._open_if_present()
        return () if journal is None else journal.previews(operation_id, path=path, upto=upto, limit=limit)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return the batch of an ID."""
        journal = self._open_if_present()
        return None if journal is None else journal.batch(batch_id)

    def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> Sequence[BatchSnapshot]:
        """Return the newest batches."""
        journal = self._open_if_present()
        return () if journal is None else journal.batches(limit, after=after)

    def size_bytes(self) -> int | None:
        """Return the size of the journal's files."""
        journal = self._open_if_present()
        return None if journal is None else journal.size_bytes()

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield no changes until the journal exists, then the changes of the journal."""
        while (journal := self._open_if_present()) is None:
            yield ()
            time.sleep(interval)
        yield from journal.watch(interval, levels=levels)

    def _open_if_present(self) -> Journal | None:
        """Return the journal, None while its file does not exist.

        Raises JournalError if the file is unreadable.
        """
        with self._lock:
            if self._journal is None:
                self._journal = _open_journal(self._url)
            return self._journal


def _open_journal(url: str) -> Journal | None:
    """Open a journal for reading.

    None if it is the default journal and its file does not exist yet.
    """
    from otel_progress.journal import open_journal
    from otel_progress.journal.sqlite.connection import NothingRecordedError

    try:
        return open_journal(url, read_only=True)
    except NothingRecordedError:
        if url.lower() in _DEFAULT_STORES:
            return None
        raise


def find_operation(reader: Reader, id_or_prefix: str) -> OperationSnapshot:
    """Return the operation of an ID, or of a prefix that matches one ID only.

    Raises CliError with similar IDs otherwise.
    """
    operation = reader.get(id_or_prefix)
    if operation is not None:
        return operation
    ids = list_ids(reader)
    matches = [id_ for id_ in ids if id_or_prefix and id_.startswith(id_or_prefix)]
    if len(matches) == 1 and (operation := reader.get(matches[0])) is not None:
        return operation
    invalid = f"Invalid operation ID {escape_controls(id_or_prefix[:100])!r}"
    if matches:
        msg = (
            f"{invalid}: expected a prefix of one ID, found {len(matches)}: {_join_some(matches)}. "
            "Type more characters."
        )
        raise CliError(msg)
    if (batch := reader.batch(id_or_prefix)) is not None:
        msg = (
            f"{invalid}: expected an operation, found a batch. "
            f"Use: otel-progress show {escape_controls(batch.id)}"
        )
        raise CliError(msg)
    similar = get_close_matches(id_or_prefix[:MAX_ID], ids, n=3, cutoff=0.5)
    hint = f"Did you mean {_join_some(similar)}?" if similar else "To list all: otel-progress ls --all"
    msg = f"{invalid}: expected the ID of a stored operation. {hint}"
    raise CliError(msg)


def list_ids(reader: Reader) -> list[str]:
    """Return the distinct IDs of the operations of a journal, newest first."""
    operations = (*reader.active(levels=False), *reader.history(limit=_MAX_IDS))
    return list(dict.fromkeys(operation.operation_id for operation in operations))


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the operation IDs that complete ``incomplete``.

    Empty if the journal is unreadable.
    """
    return _complete_ids(ctx, incomplete, list_ids)


def complete_id_or_batch(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the IDs of operations and batches that complete ``incomplete``."""
    return _complete_ids(
        ctx,
        incomplete,
        lambda reader: [*(batch.id for batch in reader.batches(MAX_BATCHES)), *list_ids(reader)],
    )


def _complete_ids(ctx: click.Context, incomplete: str, ids: Callable[[Reader], list[str]]) -> list[str]:
    try:
        root = ctx.find_root()
        with CliContext.from_options(root.params.get("store"), "never", os.environ).reader() as reader:
            return [id_ for id_ in ids(reader) if id_.startswith(incomplete) and id_.isprintable()]
    except Exception:  # an error message would disturb the command line that is being completed
        return []


def _join_some(ids: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(escape_controls(id_) for id_ in ids[:limit])
    return shown + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
