"""Context of all commands: journal, colour option and lookup of operations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import click

from otel_progress.cli.output import MAX_BATCHES, CliError, quote_id
from otel_progress.errors import ConfigurationError, ProgressError
from otel_progress.protocols import BatchQuery, HistoryQuery
from otel_progress.settings.fields import Settings
from otel_progress.text import MAX_ID, escape_controls

if TYPE_CHECKING:
    from otel_progress.journal.protocol import Journal
    from otel_progress.operations import OperationSnapshot
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader


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
    def reader(self, *, missing_ok: bool = False) -> Iterator[Reader]:
        """Open the journal for reading.

        A default journal that does not exist yet is read as empty, and with ``missing_ok`` any
        journal is. Ended operations that dead processes left in files are stored first.
        """
        url = self.settings().store
        if url.lower().startswith("memory:"):
            msg = (
                "Invalid store 'memory:': expected a store that other processes can read. "
                "Use sqlite: or redis://HOST here and in the program."
            )
            raise ConfigurationError(msg)
        from otel_progress.journal import open_journal

        is_default = url.lower() in _DEFAULT_STORES
        # Why: a process whose journal was busy at its exit left its ends in a file. Each close of a
        # journal that is not read-only stores them.
        with suppress(ProgressError):
            open_journal(url).close()
        with closing(open_journal(url, read_only=True, missing_ok=missing_ok or is_default)) as journal:
            yield journal

    def previews(self) -> Store | None:
        """Return the store of preview content. None if previews are disabled."""
        from otel_progress.journal import open_journal
        from otel_progress.previews.stores import open_store

        settings = self.settings()
        if settings.previews is False:
            return None
        with closing(open_journal(settings.store)) as journal:
            return open_store(settings.previews, journal.location)

    def _delete_previews(self, locations: Sequence[str]) -> None:
        """Delete the preview content of deleted operations."""
        store = self.previews()
        if store is not None:
            store.delete(locations)

    @contextmanager
    def controller(self) -> Iterator[Controller]:
        """Open the journal to change an operation.

        Creates the file, so call it only after ``reader`` found an operation.
        """
        with self.journal() as journal:
            yield journal

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Open the journal for writing, with the retention of the settings."""
        from otel_progress.journal import open_journal

        settings = self.settings()
        journal = open_journal(
            settings.store, retention_s=settings.retention, on_deleted=self._delete_previews
        )
        try:
            yield journal
        finally:
            journal.close()


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
        msg = f"{invalid}: expected an operation, found a batch. Use: otel-progress show {quote_id(batch.id)}"
        raise CliError(msg)
    similar = get_close_matches(id_or_prefix[:MAX_ID], ids, n=3, cutoff=0.5)
    hint = f"Did you mean {_join_some(similar)}?" if similar else "To list all: otel-progress ls --all"
    msg = f"{invalid}: expected the ID of a stored operation. {hint}"
    raise CliError(msg)


def list_ids(reader: Reader) -> list[str]:
    """Return the distinct IDs of the operations of a journal, newest first."""
    operations = (*reader.active(levels=False), *reader.history(HistoryQuery(limit=_MAX_IDS)))
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
        lambda reader: [*(batch.id for batch in reader.batches(BatchQuery(MAX_BATCHES))), *list_ids(reader)],
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
