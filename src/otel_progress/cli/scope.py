"""What all commands share: which journal to read, and how an operation is found in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import click

from otel_progress.cli.output import Fault
from otel_progress.errors import ConfigurationError
from otel_progress.settings import Settings
from otel_progress.text import printable

if TYPE_CHECKING:
    from otel_progress.model import Event, OperationSnapshot, Outcome
    from otel_progress.protocols import Reader

_DEFAULTS: Final = frozenset({"sqlite:", "sqlite://", "sqlite:///"})
_MOST_IDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Scope:
    """The options before the command: the store (None: not given) and whether to colour (None: each stream decides)."""

    store: str | None
    color: bool | None

    @classmethod
    def of(cls, store: str | None, color: str, environ: Mapping[str, str]) -> Scope:
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
        from otel_progress.journal import default_path, open_journal

        url = self.settings().store
        if url.lower().startswith("memory:"):
            msg = "The store memory: can only be read in its own process. Use sqlite: in the work, and here."
            raise ConfigurationError(msg)
        if url.lower() in _DEFAULTS and not default_path().exists():
            yield NothingYet(url)
            return
        journal = open_journal(url, read_only=True)
        try:
            yield journal
        finally:
            journal.close()


class NothingYet:
    """A Reader of the default journal before it exists."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, operation_id: str) -> OperationSnapshot | None:  # noqa: ARG002 - the signature is the protocol's
        """Return None."""
        return None

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def history(self, operation_type: str | None = None, limit: int = 100) -> Sequence[OperationSnapshot]:  # noqa: ARG002
        """Return nothing."""
        return ()

    def events(
        self,
        operation_id: str,  # noqa: ARG002
        *,
        level: str | None = None,  # noqa: ARG002
        outcome: Outcome | None = None,  # noqa: ARG002
        since: float | None = None,  # noqa: ARG002
        limit: int = 1000,  # noqa: ARG002
    ) -> Sequence[Event]:
        """Return nothing."""
        return ()

    def watch(self, interval: float = 0.25) -> Iterator[Sequence[OperationSnapshot]]:
        """Yield nothing until the first work begins, then what the journal yields."""
        from otel_progress.journal import default_path, open_journal

        while not default_path().exists():
            yield ()
            time.sleep(interval)
        journal = open_journal(self._url, read_only=True)
        try:
            yield from journal.watch(interval)
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
    shown = printable(wanted[:100])
    if matches:
        msg = f"{shown!r} is the beginning of {len(matches)} ids: {_some(matches)}. Type more of it."
        raise Fault(msg)
    near = get_close_matches(wanted[:256], ids, n=3, cutoff=0.5)
    hint = f"Did you mean {_some(near)}?" if near else "See: otel-progress ls --all"
    msg = f"There is no operation {shown!r}. {hint}"
    raise Fault(msg)


def known_ids(reader: Reader) -> list[str]:
    """Return the ids of the operations of a journal, the newest first, each once."""
    operations = (*reader.active(levels=False), *reader.history(limit=_MOST_IDS))
    return list(dict.fromkeys(operation.operation_id for operation in operations))


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's signature
    """Return the ids a shell may complete to; nothing when the journal cannot be read."""
    try:
        root = ctx.find_root()
        with Scope.of(root.params.get("store"), "never", os.environ).reader() as reader:
            return [id_ for id_ in known_ids(reader) if id_.startswith(incomplete) and id_.isprintable()]
    except Exception:  # whatever it is, the shell's line is no place for it
        return []


def _some(ids: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(printable(id_) for id_ in ids[:most])
    return shown + (f" and {len(ids) - most} more" if len(ids) > most else "")
