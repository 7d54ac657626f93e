"""``watch``: live display of the operations of all processes on this machine."""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import click

from otel_progress.cli.context import CliContext, complete_id, find_operation
from otel_progress.cli.output import echo_json
from otel_progress.codec import encode_operation
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import HistoryQuery, Reader
from otel_progress.text import escape_controls

_MAX_REMEMBERED_RUNS: Final = 1000
"""Finished runs remembered, so that a run the reader yields again is shown only once."""


_RETRY_S: Final = 0.5
"""Time between two attempts to read a journal that is not reachable, in seconds."""


@click.command(
    epilog="""\b
Ends with Ctrl-C, or with IDs when all of them have finished. Ctrl-C exits with 0; with
--exit-status it exits with 130, because the outcome is not known.

\b
Examples:
  otel-progress watch
  otel-progress watch friday-42 --exit-status
  otel-progress watch --once
  otel-progress watch --json | jq .percentage
"""
)
@click.argument("operation_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_id)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=0.25,
    show_default=True,
    help="Seconds between polls.",
)
@click.option("--once", is_flag=True, help="Write the active operations and exit.")
@click.option("--exit-status", is_flag=True, help="With IDs: exit with 1 unless all of them completed.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Write one line of JSON per change: the operation with its levels.",
)
@click.pass_obj
def watch(
    context: CliContext,
    operation_ids: Sequence[str],
    interval: float,
    once: bool,
    exit_status: bool,
    as_json: bool,
) -> None:
    """Watch active operations: bars on a terminal, lines elsewhere."""
    if exit_status and not operation_ids:
        msg = (
            "Invalid option --exit-status: expected at least one ID with it, "
            "as in otel-progress watch friday-42 --exit-status."
        )
        raise click.UsageError(msg)
    with context.reader(missing_ok=not once) as reader:
        if operation_ids and not once:
            try:
                _wait_for_journal(reader, interval)
            except KeyboardInterrupt:
                if exit_status:
                    raise
                return
        found = (find_operation(reader, id_) for id_ in operation_ids)
        wanted = {operation.operation_id: operation for operation in found}
        if once:
            _write_once(reader, wanted, as_json, context.color)
            return
        try:
            statuses = _WatchSession(reader, wanted, as_json, context.color).run(interval)
        except KeyboardInterrupt:
            if exit_status:
                raise
            return
    if exit_status and any(status is not Status.COMPLETED for status in statuses):
        raise click.exceptions.Exit(1)


def _wait_for_journal(reader: Reader, interval: float) -> None:
    """Wait until a journal that does not exist yet has an operation or a batch."""
    location = getattr(reader, "location", None)
    if location is None or location.exists():
        return
    click.echo(f"Waiting for the journal {escape_controls(str(location))}.", err=True)
    while not (reader.active(levels=False) or reader.history(HistoryQuery(limit=1))):
        time.sleep(interval)


def _follow_changes(
    reader: Reader, interval: float, wanted: Iterable[str]
) -> Iterator[Sequence[OperationSnapshot]]:
    """Yield the changes of a reader. Watch again after a temporary error.

    The error is reported once. The operations with the IDs ``wanted`` are yielded after it, because
    they may have finished in the meantime.
    """
    has_failed = False
    while True:
        watch = reader.watch(interval)
        try:
            for changes in watch:
                if has_failed:
                    found = {operation.run: operation for operation in changes}
                    current = (reader.get(id_) for id_ in wanted)
                    found.update((each.run, each) for each in current if each is not None)
                    has_failed, changes = False, list(found.values())
                yield changes
            return
        except JournalError as error:
            if not error.is_temporary:
                raise
            if not has_failed:
                click.echo(f"{escape_controls(str(error))} Trying again.", err=True)
            has_failed = True
        finally:
            if isinstance(watch, Generator):
                watch.close()
        time.sleep(_RETRY_S)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C while the session is closed."""
    try:
        previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which receives no Ctrl-C
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)


class _WatchSession:
    """Display of one watch and final state of the operations.

    ``wanted`` is empty for all operations.
    """

    def __init__(
        self, reader: Reader, wanted: dict[str, OperationSnapshot], as_json: bool, color: bool | None
    ) -> None:
        from otel_progress.console.terminal import make_console

        self._reader = reader
        self._wanted = wanted
        self._finished = {id_: operation for id_, operation in wanted.items() if operation.status.finished}
        self._shown_runs: deque[str] = deque(
            (operation.run for operation in self._finished.values()), maxlen=_MAX_REMEMBERED_RUNS
        )
        self._console = (
            None if as_json else make_console(reader, stream=sys.stdout, color=color, batches=not wanted)
        )

    def run(self, interval: float) -> list[Status]:
        """Show changes until the wanted operations have finished. Return their statuses.

        Without wanted operations, run until Ctrl-C.
        """
        changes = _follow_changes(self._reader, interval, self._wanted)
        try:
            self._write((), list(self._finished.values()))
            for changed in changes:
                operations = [operation for operation in changed if self._is_wanted(operation)]
                finished = [
                    operation
                    for operation in operations
                    if operation.status.finished and operation.run not in self._shown_runs
                ]
                self._shown_runs.extend(operation.run for operation in finished)
                if self._wanted:
                    self._finished.update({operation.operation_id: operation for operation in finished})
                self._write(
                    [operation for operation in operations if not operation.status.finished], finished
                )
                if self._wanted and self._finished.keys() == self._wanted.keys():
                    break
        finally:
            with _interrupts_ignored():
                if isinstance(changes, Generator):
                    changes.close()
                if self._console is not None:
                    self._console.close()
        return [operation.status for operation in self._finished.values()]

    def _write(self, changed: Sequence[OperationSnapshot], finished: Sequence[OperationSnapshot]) -> None:
        if self._console is None:
            for operation in (*changed, *finished):
                echo_json(encode_operation(operation))
            sys.stdout.flush()
            return
        active: Sequence[OperationSnapshot] = ()
        # Why: a journal that is being replaced fails only briefly. watch() raises a lasting error.
        with suppress(JournalError):
            # Why: the elapsed time of unchanged operations also changes, so all are read again.
            active = self._reader.active()
        self._console.show_operations(
            [operation for operation in active if self._is_wanted(operation)], finished
        )

    def _is_wanted(self, operation: OperationSnapshot) -> bool:
        return not self._wanted or operation.operation_id in self._wanted


def _write_once(
    reader: Reader, wanted: dict[str, OperationSnapshot], as_json: bool, color: bool | None
) -> None:
    operations = list(wanted.values()) if wanted else list(reader.active())
    if as_json:
        for operation in operations:
            echo_json(encode_operation(operation))
        return
    if not operations:
        click.echo("No active operations.")
        return
    from rich.console import Console

    from otel_progress.console.glyphs import choose_glyphs
    from otel_progress.console.layout import ProgressTree

    console = Console(
        file=sys.stdout,
        force_terminal=color or None,
        no_color=True if color is False else None,
        highlight=False,
    )
    console.print(ProgressTree(operations, glyphs=choose_glyphs(console.encoding)), soft_wrap=False)
