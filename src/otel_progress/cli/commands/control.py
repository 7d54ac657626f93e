"""``cancel`` and ``rm``: ask work to stop, and forget what is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from otel_progress.cli.context import CliContext, complete_id, find
from otel_progress.cli.output import CliError, echo, say_json
from otel_progress.codec import SCHEMA
from otel_progress.console.format import moment
from otel_progress.console.rows import clean
from otel_progress.operations import OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.text import escape_controls


@click.command(
    epilog="""\b
The work sees it within a moment: progress.track() stops between two elements, and the handle's cancel_requested says so.
It is a request. Work that asks for neither goes on.

\b
Examples:
  otel-progress cancel friday-42
  otel-progress cancel friday-42 --reason "wrong tempo"
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--reason",
    default="cancelled from the command line",
    show_default=True,
    help="Why; the operation's message says it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def cancel(scope: CliContext, operation_id: str, reason: str, as_json: bool) -> None:
    """Ask a running operation to stop. Exits with 1 when it has no active run."""
    with scope.reader() as reader:
        operation = find(reader, operation_id)
    with scope.controller() as controller:
        asked = controller.request_cancel(operation.operation_id, reason)
    if as_json:
        say_json(
            {
                "schema": SCHEMA,
                "operation_id": operation.operation_id,
                "run": operation.run,
                "cancel_requested": asked,
            }
        )
    if not asked:
        msg = f"{operation.operation_id!r} has no active run to cancel: {_ended(operation)}."
        raise CliError(msg)
    if not as_json:
        echo(_answer(operation))


@click.command(
    epilog="""\b
All runs of an ID that are over go, with their levels, events and logs: those that have ended, and abandoned ones, whose
process is gone. An operation under way stays: cancel it first. So does one whose process cannot be looked at, on another
machine or in another container, until ten minutes after its last sign of life.

\b
Examples:
  otel-progress rm friday-42
  otel-progress rm backup-1 backup-2
"""
)
@click.argument("operation_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def rm(scope: CliContext, operation_ids: Sequence[str], as_json: bool) -> None:
    """Forget operations that have ended or were abandoned. Their whole ID is needed."""
    wanted = list(dict.fromkeys(operation_ids))
    with scope.reader() as reader:
        for id_ in wanted:  # before anything is forgotten: all of them or none
            if reader.get(id_) is None:
                near = find(reader, id_).operation_id
                msg = f"There is no operation {escape_controls(id_[:100])!r}. Type the whole ID to forget it: {escape_controls(near)}"
                raise CliError(msg)
        under_way = {operation.operation_id: operation.alive for operation in reader.active(levels=False)}
    with scope.controller() as controller:
        counts = {id_: controller.delete(id_) for id_ in wanted}
    if as_json:
        say_json({"schema": SCHEMA, "deleted": counts})
    else:
        for id_, count in counts.items():
            if count:
                echo(f"Forgot {count} run{'' if count == 1 else 's'} of {clean(id_)}.")
    kept = [id_ for id_, count in counts.items() if not count and id_ in under_way]
    if kept:
        raise CliError(_why_it_stays(kept, under_way))


def _why_it_stays(kept: Sequence[str], under_way: Mapping[str, bool]) -> str:
    """Return why operations were not forgotten; ``under_way`` says of each whether its process lives."""
    alive = [id_ for id_ in kept if under_way[id_]]
    if alive:
        return f"{', '.join(map(repr, alive[:5]))} is under way and stays. First: otel-progress cancel {alive[0]}"
    return (
        f"{', '.join(map(repr, kept[:5]))} stays for now: its process seems to be dead, but cannot be looked at from here. "
        f"It can be forgotten {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after its last sign of life."
    )


def _answer(operation: OperationSnapshot) -> str:
    id_ = clean(operation.operation_id)
    if operation.cancel_requested_at is not None:
        return f"{id_} was asked to stop at {moment(operation.cancel_requested_at)} already."
    if not operation.alive:
        return f"{id_} is asked to stop, but its process gives no sign of life."
    return f"{id_} is asked to stop. See: otel-progress watch {id_}"


def _ended(operation: OperationSnapshot) -> str:
    if not operation.status.finished:
        return "it has just ended"
    return f"{operation.status.value} at {moment(operation.root.ended_at)}"
