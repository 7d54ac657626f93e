"""``watch``: the live display of all operations of the machine, from another process."""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import click

from otel_progress.cli.context import CliContext, complete_id, find
from otel_progress.cli.output import say_json
from otel_progress.codec import encode_operation
from otel_progress.errors import JournalError
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import Reader

_REMEMBERED: Final = 1000
"""Ends that are remembered, so that an operation a reader yields again is not told twice."""


@click.command(
    epilog="""\b
Ends with Ctrl-C, or with IDs when all of them have ended. Ctrl-C is the usual way to end it, and exits with 0; with
--exit-status it exits with 130, since the outcome is not known.

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
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Write what is under way, and end.")
@click.option("--exit-status", is_flag=True, help="With IDs: exit with 1 unless all of them completed.")
@click.option(
    "--json", "as_json", is_flag=True, help="One line of JSON a change: the operation with its levels."
)
@click.pass_obj
def watch(
    scope: CliContext,
    operation_ids: Sequence[str],
    interval: float,
    once: bool,
    exit_status: bool,
    as_json: bool,
) -> None:
    """Watch operations move, as bars on a terminal and as lines elsewhere."""
    if exit_status and not operation_ids:
        msg = "--exit-status needs the ID of at least one operation, as in: otel-progress watch friday-42 --exit-status"
        raise click.UsageError(msg)
    with scope.reader() as reader:
        wanted = {
            operation.operation_id: operation for operation in (find(reader, id_) for id_ in operation_ids)
        }
        if once:
            _write_once(reader, wanted, as_json, scope.color)
            return
        try:
            statuses = _Watch(reader, wanted, as_json, scope.color).run(interval)
        except KeyboardInterrupt:
            if exit_status:
                raise
            return
    if exit_status and any(status is not Status.COMPLETED for status in statuses):
        raise click.exceptions.Exit(1)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C come in between while everything is closed: it is over already."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which gets no Ctrl-C
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Watch:
    """One watch: the display, and how the operations that were named have ended."""

    def __init__(
        self, reader: Reader, wanted: dict[str, OperationSnapshot], as_json: bool, color: bool | None
    ) -> None:
        from otel_progress.console.terminal import make_console

        self._reader = reader
        self._wanted = wanted
        self._ended = {id_: operation for id_, operation in wanted.items() if operation.status.finished}
        self._told: deque[str] = deque(
            (operation.run for operation in self._ended.values()), maxlen=_REMEMBERED
        )
        self._console = (
            None if as_json else make_console(reader, stream=sys.stdout, color=color, batches=not wanted)
        )

    def run(self, interval: float) -> list[Status]:
        """Show changes until the named operations have ended (without names: until Ctrl-C); return how they ended."""
        changes = self._reader.watch(interval)
        try:
            self._show((), list(self._ended.values()))
            for changed in changes:
                found = [operation for operation in changed if self._is_wanted(operation)]
                ended = [
                    operation
                    for operation in found
                    if operation.status.finished and operation.run not in self._told
                ]
                self._told.extend(operation.run for operation in ended)
                self._ended.update({operation.operation_id: operation for operation in ended if self._wanted})
                self._show([operation for operation in found if not operation.status.finished], ended)
                if self._wanted and self._ended.keys() == self._wanted.keys():
                    break
        finally:
            with _undisturbed():
                if isinstance(changes, Generator):
                    changes.close()
                if self._console is not None:
                    self._console.close()
        return [operation.status for operation in self._ended.values()]

    def _show(self, changed: Sequence[OperationSnapshot], ended: Sequence[OperationSnapshot]) -> None:
        if self._console is None:
            for operation in (*changed, *ended):
                say_json(encode_operation(operation))
            sys.stdout.flush()
            return
        active: Sequence[OperationSnapshot] = ()
        with suppress(
            JournalError
        ):  # when that is more than a journal being replaced, the watch itself raises it
            active = self._reader.active()  # all anew: time goes on for those that did not change
        self._console.show([operation for operation in active if self._is_wanted(operation)], ended)

    def _is_wanted(self, operation: OperationSnapshot) -> bool:
        return not self._wanted or operation.operation_id in self._wanted


def _write_once(
    reader: Reader, wanted: dict[str, OperationSnapshot], as_json: bool, color: bool | None
) -> None:
    operations = list(wanted.values()) if wanted else list(reader.active())
    if as_json:
        for operation in operations:
            say_json(encode_operation(operation))
        return
    if not operations:
        click.echo("No operation is under way.")
        return
    from rich.console import Console

    from otel_progress.console.glyphs import glyphs_for
    from otel_progress.console.layout import ProgressTree

    console = Console(
        file=sys.stdout,
        force_terminal=color or None,
        no_color=True if color is False else None,
        highlight=False,
    )
    console.print(ProgressTree(operations, glyphs=glyphs_for(console.encoding)), soft_wrap=False)
