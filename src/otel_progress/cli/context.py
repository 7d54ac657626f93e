"""What all commands share: which journal to read, and how an operation is found in it."""

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

from otel_progress.cli.output import CliError
from otel_progress.errors import ConfigurationError
from otel_progress.settings.fields import Settings
from otel_progress.text import escape_controls

if TYPE_CHECKING:
    from otel_progress.batches import BatchCursor
    from otel_progress.journal import Journal
    from otel_progress.model import Outcome
    from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader
    from otel_progress.records import LogRecord, Preview, ResourceSample


_DEFAULTS: Final = frozenset({"sqlite:", "sqlite://", "sqlite:///"})


_MOST_IDS: Final = 10_000


_MOST_BATCHES: Final = 1_000


@dataclass(frozen=True, slots=True)
class CliContext:
    """The options before the command: the store (None: not given) and whether to colour (None: each stream decides)."""

    store: str | None
    color: bool | None

    @classmethod
    def of(cls, store: str | None, color: str, environ: Mapping[str, str]) -> CliContext:
        """Return the scope of options and environment."""
        if color != "auto":
            return cls(store, color == "always")
        if environ.get("NO_COLOR"):
            return cls(store, False)
        return cls(store, True if environ.get("FORCE_COLOR") else None)

    def settings(self) -> Settings:
        """Return the settings in force: options before environment before defaults. Raises ConfigurationError."""
        return Settings.from_environ(os.environ).with_arguments(store=self.store)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open the journal for reading. Before the first work on this machine the default one is empty, and no error."""
        url = self.settings().store
        if url.lower().startswith("memory:"):
            msg = "The store memory: can only be read in its own process. Use sqlite: in the work, and here."
            raise ConfigurationError(msg)
        with closing(_open(url) or AwaitedJournal(url)) as reader:
            yield reader

    def previews(self) -> Store | None:
        """Return where the content of previews is kept; None when none is."""
        from otel_progress.journal.registry import path_of
        from otel_progress.previews.stores import open_store

        settings = self.settings()
        return None if settings.previews is False else open_store(settings.previews, path_of(settings.store))

    def _forget(self, locations: Sequence[str]) -> None:
        """Delete the content of previews whose operations are gone."""
        store = self.previews()
        if store is not None:
            store.delete(locations)

    @contextmanager
    def controller(self) -> Iterator[Controller]:
        """Open the journal for requests. Only after ``reader`` has found something in it: it would be made otherwise."""
        from otel_progress.journal import open_journal

        journal = open_journal(self.settings().store, on_deleted=self._forget)
        try:
            yield journal
        finally:
            journal.close()


class AwaitedJournal:
    """A Reader of the default journal: of nothing before the first work on this machine, of the journal from then on."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()  # a server reads from several threads
        self._journal: Journal | None = None

    def close(self) -> None:
        """Close the journal, if it came."""
        if self._journal is not None:
            self._journal.close()

    def get(self, operation_id: str) -> OperationSnapshot | None:
        """Return the newest run of an id."""
        journal = self._come()
        return None if journal is None else journal.get(operation_id)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        """Return what has not ended."""
        journal = self._come()
        return () if journal is None else journal.active(levels=levels)

    def history(
        self,
        operation_type: str | None = None,
        limit: int = 100,
        *,
        before: tuple[float, str] | None = None,
        since: float | None = None,
    ) -> Sequence[OperationSnapshot]:
        """Return what has ended."""
        journal = self._come()
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
        """Return the newest events of an id."""
        journal = self._come()
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
        """Return log records of an id."""
        journal = self._come()
        if journal is None:
            return ()
        return journal.logs(
            operation_id, path=path, severity=severity, since=since, after=after, upto=upto, limit=limit
        )

    def resources(
        self, operation_id: str, *, since: float | None = None, upto: float | None = None, limit: int = 600
    ) -> Sequence[ResourceSample]:
        """Return samples of what the process of an id used."""
        journal = self._come()
        return () if journal is None else journal.resources(operation_id, since=since, upto=upto, limit=limit)

    def previews(
        self, operation_id: str, *, path: str | None = None, upto: int | None = None, limit: int = 100
    ) -> Sequence[Preview]:
        """Return the stored previews of an id."""
        journal = self._come()
        return () if journal is None else journal.previews(operation_id, path=path, upto=upto, limit=limit)

    def batch(self, batch_id: str) -> BatchSnapshot | None:
        """Return a batch."""
        journal = self._come()
        return None if journal is None else journal.batch(batch_id)

    def batches(self, limit: int = 100, *, after: BatchCursor | None = None) -> Sequence[BatchSnapshot]:
        """Return the newest batches."""
        journal = self._come()
        return () if journal is None else journal.batches(limit, after=after)

    def size_bytes(self) -> int | None:
        """Return the size of the journal's files."""
        journal = self._come()
        return None if journal is None else journal.size_bytes()

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield nothing until the first work begins, then what the journal yields."""
        while (journal := self._come()) is None:
            yield ()
            time.sleep(interval)
        yield from journal.watch(interval, levels=levels)

    def _come(self) -> Journal | None:
        """Return the journal once it is there. Raises JournalError when it cannot be read."""
        with self._lock:
            if self._journal is None:
                self._journal = _open(self._url)
            return self._journal


def _open(url: str) -> Journal | None:
    """Open a journal for reading; None when it is the default one and not there, or not yet: a worker may just be making it."""
    from otel_progress.journal import open_journal
    from otel_progress.journal.sqlite.connection import NothingRecordedError

    try:
        return open_journal(url, read_only=True)
    except NothingRecordedError:
        if url.lower() in _DEFAULTS:
            return None
        raise


def find(reader: Reader, wanted: str) -> OperationSnapshot:
    """Return the operation whose id is ``wanted`` or the only one that begins so. Raises Fault with near ids otherwise."""
    found = reader.get(wanted)
    if found is not None:
        return found
    ids = known_ids(reader)
    matches = [id_ for id_ in ids if wanted and id_.startswith(wanted)]
    if len(matches) == 1 and (found := reader.get(matches[0])) is not None:
        return found
    shown = escape_controls(wanted[:100])
    if matches:
        msg = f"{shown!r} is the beginning of {len(matches)} ids: {_some(matches)}. Type more of it."
        raise CliError(msg)
    if (batch := reader.batch(wanted)) is not None:
        msg = f"{shown!r} is a batch of operations. See: otel-progress show {escape_controls(batch.id)}"
        raise CliError(msg)
    near = get_close_matches(wanted[:256], ids, n=3, cutoff=0.5)
    hint = f"Did you mean {_some(near)}?" if near else "See: otel-progress ls --all"
    msg = f"There is no operation {shown!r}. {hint}"
    raise CliError(msg)


def known_ids(reader: Reader) -> list[str]:
    """Return the ids of the operations of a journal, the newest first, each once."""
    operations = (*reader.active(levels=False), *reader.history(limit=_MOST_IDS))
    return list(dict.fromkeys(operation.operation_id for operation in operations))


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's signature
    """Return the ids a shell may complete to; nothing when the journal cannot be read."""
    return _completed(ctx, incomplete, known_ids)


def complete_id_or_batch(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the ids of operations and batches a shell may complete to."""
    return _completed(
        ctx,
        incomplete,
        lambda reader: [*(batch.id for batch in reader.batches(_MOST_BATCHES)), *known_ids(reader)],
    )


def _completed(ctx: click.Context, incomplete: str, ids: Callable[[Reader], list[str]]) -> list[str]:
    try:
        root = ctx.find_root()
        with CliContext.of(root.params.get("store"), "never", os.environ).reader() as reader:
            return [id_ for id_ in ids(reader) if id_.startswith(incomplete) and id_.isprintable()]
    except Exception:  # whatever it is, the shell's line is no place for it
        return []


def _some(ids: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(escape_controls(id_) for id_ in ids[:most])
    return shown + (f" and {len(ids) - most} more" if len(ids) > most else "")
