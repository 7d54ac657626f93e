"""What all commands share: which journal to read, and how an operation is found in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import click

from otel_progress.cli.output import CliError
from otel_progress.errors import ConfigurationError
from otel_progress.protocols import BatchQuery, HistoryQuery
from otel_progress.settings.fields import Settings
from otel_progress.text import escape_controls

if TYPE_CHECKING:
    from otel_progress.operations import OperationSnapshot
    from otel_progress.previews.stores.base import Store
    from otel_progress.protocols import Controller, Reader


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
        from otel_progress.journal import open_journal

        missing_ok = url.lower() in _DEFAULTS
        with closing(open_journal(url, read_only=True, missing_ok=missing_ok)) as journal:
            yield journal

    def previews(self) -> Store | None:
        """Return where the content of previews is kept; None when none is."""
        from otel_progress.journal import open_journal
        from otel_progress.previews.stores import open_store

        settings = self.settings()
        if settings.previews is False:
            return None
        with closing(open_journal(settings.store)) as journal:
            return open_store(settings.previews, journal.location)

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
    operations = (*reader.active(levels=False), *reader.history(HistoryQuery(limit=_MOST_IDS)))
    return list(dict.fromkeys(operation.operation_id for operation in operations))


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's signature
    """Return the ids a shell may complete to; nothing when the journal cannot be read."""
    return _completed(ctx, incomplete, known_ids)


def complete_id_or_batch(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the ids of operations and batches a shell may complete to."""
    return _completed(
        ctx,
        incomplete,
        lambda reader: [
            *(batch.id for batch in reader.batches(BatchQuery(_MOST_BATCHES))),
            *known_ids(reader),
        ],
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
