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

from otel_progress.cli.batch_output import is_abandoned_batch
from otel_progress.cli.context import CliContext, complete_id_or_batch
from otel_progress.cli.output import EXIT_ABANDONED, echo_json
from otel_progress.cli.targets import find_target
from otel_progress.codec import encode_batch, encode_operation
from otel_progress.errors import JournalError
from otel_progress.missed_ends import MissedEnds
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Condition, OperationSnapshot
from otel_progress.protocols import HistoryQuery, Reader
from otel_progress.text import escape_controls

_MAX_REMEMBERED_RUNS: Final = 1000
"""Finished runs remembered, so that a run the reader yields again is shown only once."""


_ABANDONED_S: Final = 2.0
"""Time that an operation has to be abandoned until the watch does not wait for it, in seconds."""


_BATCH_POLL_S: Final = 1.0
"""Time between two polls of the watched batches, in seconds."""


_RETRY_S: Final = 0.5
"""Time between two attempts to read a journal that is not reachable, in seconds."""


@click.command(
    epilog="""\b
Ends with Ctrl-C, or with IDs when all of them have finished or are abandoned. The IDs are those of
operations and batches. Ctrl-C exits with 0; with --exit-status it exits with 130, because the
outcome is not known. An operation that sends no heartbeats is not abandoned when it is silent:
limit the time, for example with timeout 3h otel-progress watch ID.

\b
Examples:
  otel-progress watch
  otel-progress watch friday-42 --exit-status
  otel-progress watch thumbnails --exit-status
  otel-progress watch --once
  otel-progress watch --json | jq .percentage
"""
)
@click.argument("operation_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_id_or_batch)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=0.25,
    show_default=True,
    help="Seconds between polls.",
)
@click.option("--once", is_flag=True, help="Write the active operations and exit.")
@click.option(
    "--exit-status",
    is_flag=True,
    help="With IDs: exit with 1 unless all of them completed, with 4 if some are abandoned instead.",
)
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
        wanted, batches = _find_targets(reader, operation_ids)
        if once:
            _write_once(reader, wanted, batches, as_json, context.color)
            return
        try:
            session = _WatchSession(reader, wanted, batches, as_json, context.color)
            code = session.run(interval)
        except KeyboardInterrupt:
            if exit_status:
                raise
            return
    if exit_status and code:
        raise click.exceptions.Exit(code)


def _find_targets(
    reader: Reader, ids: Sequence[str]
) -> tuple[dict[str, OperationSnapshot], dict[str, BatchSnapshot]]:
    """Return the operations and batches of IDs or prefixes by their ID.

    Whole IDs precede prefixes, operations precede batches. Raises CliError.
    """
    operations, batches = {}, {}
    for id_ in ids:
        target = find_target(reader, id_)
        if isinstance(target, BatchSnapshot):
            batches[target.id] = target
        else:
            operations[target.operation_id] = target
    return operations, batches


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

    The error is reported once. The first change of each watch contains the operations with the IDs
    ``wanted``, and those that ended shortly before.
    """
    has_failed, missed = False, MissedEnds(reader)
    while True:
        is_first = True
        watch: Iterator[Sequence[OperationSnapshot]] = iter(())
        try:
            missed.start()
            watch = reader.watch(interval)
            for changes in watch:
                missed.add(changes)
                if is_first:
                    # Why: a new watch yields the active operations only.
                    found = {operation.run: operation for operation in (*changes, *missed.find())}
                    current = (reader.get(id_) for id_ in wanted)
                    found.update((each.run, each) for each in current if each is not None)
                    has_failed, is_first, changes = False, False, list(found.values())
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
    """Display of one watch and final state of the operations and batches.

    ``wanted`` and ``batches`` are empty for all operations.
    """

    def __init__(
        self,
        reader: Reader,
        wanted: dict[str, OperationSnapshot],
        batches: dict[str, BatchSnapshot],
        as_json: bool,
        color: bool | None,
    ) -> None:
        from otel_progress.console.terminal import make_console

        self._reader = reader
        self._wanted = wanted
        self._finished = {id_: operation for id_, operation in wanted.items() if operation.status.finished}
        self._shown_runs: deque[str] = deque(
            (operation.run for operation in self._finished.values()), maxlen=_MAX_REMEMBERED_RUNS
        )
        self._batches = batches
        self._written_batches: dict[str, object] = {}
        self._next_batch_poll = float("-inf")
        self._abandoned_since: dict[str, float] = {}
        """Monotonic time since which an operation is abandoned, by its ID."""
        self._abandoned: set[str] = set()
        shown = list(batches) if wanted or batches else True
        self._console = (
            None if as_json else make_console(reader, stream=sys.stdout, color=color, batches=shown)
        )

    def run(self, interval: float) -> int:
        """Show changes until all wanted operations and batches have finished.

        Abandoned operations have, too. Without any, run until Ctrl-C. Return 0 if all completed,
        EXIT_ABANDONED if others are abandoned, and 1 if others have ended with another status.
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
                    self._finished.update(
                        (operation.operation_id, operation)
                        for operation in finished
                        if operation.operation_id in self._wanted
                    )
                self._write(
                    [operation for operation in operations if not operation.status.finished], finished
                )
                self._find_abandoned(operations)
                self._poll_batches()
                if self._has_finished():
                    break
        finally:
            with _interrupts_ignored():
                if isinstance(changes, Generator):
                    changes.close()
                if self._console is not None:
                    self._console.close()
        for id_ in sorted(self._abandoned):
            click.echo(f"{escape_controls(id_)} is abandoned: its process has exited.", err=True)
        return self._get_exit_code()

    def _has_finished(self) -> bool:
        if not self._wanted and not self._batches:
            return False
        is_open = any(not batch.is_finished for batch in self._batches.values())
        return not is_open and self._wanted.keys() == (self._finished.keys() | self._abandoned)

    def _get_exit_code(self) -> int:
        statuses = [operation.status for operation in self._finished.values()]
        is_abandoned = bool(self._abandoned)
        for batch in self._batches.values():
            if is_abandoned_batch(batch):
                is_abandoned = True
            else:
                statuses.append(batch.status)
        if any(status is not Status.COMPLETED for status in statuses):
            return 1
        return EXIT_ABANDONED if is_abandoned else 0

    def _find_abandoned(self, changed: Iterable[OperationSnapshot]) -> None:
        """Find wanted operations that have been abandoned for ``_ABANDONED_S``."""
        now = time.monotonic()
        for operation in changed:
            if operation.condition is Condition.ABANDONED:
                self._abandoned_since.setdefault(operation.operation_id, now)
            else:
                self._abandoned_since.pop(operation.operation_id, None)
        for id_, since in list(self._abandoned_since.items()):
            if id_ not in self._wanted or now - since < _ABANDONED_S:
                continue
            # Why read again: a process that was only disconnected may not change its operation.
            with suppress(JournalError):
                current = self._reader.get(id_)
                if current is not None and current.condition is not Condition.ABANDONED:
                    del self._abandoned_since[id_]
                    self._abandoned.discard(id_)
                else:
                    self._abandoned.add(id_)

    def _poll_batches(self) -> None:
        """Read the wanted batches again, at most once per ``_BATCH_POLL_S``."""
        now = time.monotonic()
        if not self._batches or now < self._next_batch_poll:
            return
        self._next_batch_poll = now + _BATCH_POLL_S
        with suppress(JournalError):
            for id_ in self._batches:
                batch = self._reader.batch(id_)
                if batch is not None:
                    self._batches[id_] = batch
                    self._write_batch(batch)

    def _write_batch(self, batch: BatchSnapshot) -> None:
        """Write a changed batch as a line of JSON."""
        state = (batch.counts, batch.ratio, batch.abandoned, batch.is_finished)
        if self._console is None and self._written_batches.get(batch.id) != state:
            self._written_batches[batch.id] = state
            echo_json(encode_batch(batch, operations=False))
            sys.stdout.flush()

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
        if not self._wanted and not self._batches:
            return True
        return operation.operation_id in self._wanted or operation.root.info.batch in self._batches


def _write_once(
    reader: Reader,
    wanted: dict[str, OperationSnapshot],
    batches: dict[str, BatchSnapshot],
    as_json: bool,
    color: bool | None,
) -> None:
    operations = list(wanted.values()) if wanted or batches else list(reader.active())
    operations += [operation for batch in batches.values() for operation in batch.active]
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
