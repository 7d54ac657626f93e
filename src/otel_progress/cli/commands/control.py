"""``cancel``, ``fail`` and ``rm``: changes of stored operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from otel_progress.cli.context import CliContext, complete_id, find_operation
from otel_progress.cli.output import CliError, echo, echo_json, quote_id
from otel_progress.codec import SCHEMA
from otel_progress.console.format import format_moment
from otel_progress.console.rows import clean_text
from otel_progress.operations import OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import Reader
from otel_progress.text import escape_controls


@click.command(
    epilog="""\b
The program receives the request within a moment. progress.track() stops between two elements,
and the handle's cancel_requested becomes true. A program that uses neither continues.

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
    help="Reason, stored as the message of the operation.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def cancel(context: CliContext, operation_id: str, reason: str, as_json: bool) -> None:
    """Request cancellation of an active operation.

    Exits with 1 if the operation is not active.
    """
    with context.reader() as reader:
        operation = find_operation(reader, operation_id)
    with context.controller() as controller:
        is_requested = controller.request_cancel(operation.operation_id, reason)
    if as_json:
        echo_json(
            {
                "schema": SCHEMA,
                "operation_id": operation.operation_id,
                "run": operation.run,
                "cancel_requested": is_requested,
            }
        )
    if not is_requested:
        msg = (
            f"Invalid operation {operation.operation_id!r}: expected an active operation, "
            f"but {_describe_end(operation)}."
        )
        raise CliError(msg)
    if not as_json:
        echo(_describe_request(operation))


@click.command(
    epilog="""\b
An operation is abandoned if its process has exited without an end, for example after a SIGKILL.
If its process is running, the operation is not changed: cancel it instead. The process of a run on
another machine or in another container cannot be checked. Such a run can be marked ten minutes
after its last heartbeat.

\b
Examples:
  otel-progress fail friday-42
  otel-progress fail friday-42 --reason "out of memory"
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--reason",
    default="its process exited without an end",
    show_default=True,
    help="Reason, stored as the error of the operation.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def fail(context: CliContext, operation_id: str, reason: str, as_json: bool) -> None:
    """Mark an abandoned operation as failed.

    Exits with 1 if the operation has ended or if its process may still run.
    """
    with context.reader() as reader:
        operation = find_operation(reader, operation_id)
    id_ = operation.operation_id
    is_failed = False
    if not operation.status.finished and operation.may_be_dead:
        with context.controller() as controller:
            is_failed = controller.fail_abandoned(id_, reason)
    if as_json:
        echo_json({"schema": SCHEMA, "operation_id": id_, "run": operation.run, "failed": is_failed})
    if not is_failed:
        raise CliError(_explain_not_failed(operation))
    if not as_json:
        echo(f"Marked {clean_text(id_)} as failed.")


def _explain_not_failed(operation: OperationSnapshot) -> str:
    """Return why an operation was not marked as failed."""
    invalid = f"Invalid operation {operation.operation_id!r}: expected an abandoned operation"
    if operation.status.finished:
        return f"{invalid}, but {_describe_end(operation)}."
    if not operation.may_be_dead:
        fix = f"Use: otel-progress cancel {quote_id(operation.operation_id)}"
        return f"{invalid}, but its process is running. {fix}"
    return (
        f"{invalid}. Its process seems to have exited, but cannot be checked from here. "
        f"Try again {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after its last heartbeat."
    )


@click.command(
    epilog="""\b
Deletes all finished and abandoned runs of an ID with their levels, events and logs. An active
operation is not deleted: cancel it first. The process of a run on another machine or in another
container cannot be checked. Such a run can be deleted ten minutes after its last heartbeat.

\b
Examples:
  otel-progress rm friday-42
  otel-progress rm backup-1 backup-2
"""
)
@click.argument("operation_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def rm(context: CliContext, operation_ids: Sequence[str], as_json: bool) -> None:
    """Delete finished or abandoned operations.

    The whole ID is required, not only a prefix.
    """
    ids = list(dict.fromkeys(operation_ids))
    with context.reader() as reader:
        _require_whole_ids(reader, ids)
        active = {
            operation.operation_id: not operation.may_be_dead for operation in reader.active(levels=False)
        }
    with context.controller() as controller:
        deleted_counts = {id_: controller.delete(id_) for id_ in ids}
    if as_json:
        echo_json({"schema": SCHEMA, "deleted": deleted_counts})
    else:
        for id_, count in deleted_counts.items():
            if count:
                echo(f"Deleted {count} run{'' if count == 1 else 's'} of {clean_text(id_)}.")
    kept_ids = [id_ for id_, count in deleted_counts.items() if not count and id_ in active]
    if kept_ids:
        raise CliError(_explain_kept(kept_ids, active))


def _require_whole_ids(reader: Reader, ids: Sequence[str]) -> None:
    """Raise CliError unless every ID exists.

    Runs before the first deletion, so all operations are deleted or no operation.
    """
    for id_ in ids:
        if reader.get(id_) is None:
            match = quote_id(find_operation(reader, id_).operation_id)
            msg = (
                f"Invalid operation ID {escape_controls(id_[:100])!r}: expected a whole ID. "
                f"To delete it, use: otel-progress rm {match}"
            )
            raise CliError(msg)


def _explain_kept(ids: Sequence[str], active: Mapping[str, bool]) -> str:
    """Return why operations were not deleted.

    ``active`` maps IDs to whether their process is alive.
    """
    alive_ids = [id_ for id_ in ids if active[id_]]
    if alive_ids:
        return (
            f"{', '.join(map(repr, alive_ids[:5]))} is active and was not deleted. "
            f"First use: otel-progress cancel {quote_id(alive_ids[0])}"
        )
    return (
        f"{', '.join(map(repr, ids[:5]))} was not deleted: its process seems to have exited, but cannot be "
        f"checked from here. Try again {UNVERIFIED_TIMEOUT_S / 60:.0f} minutes after its last heartbeat."
    )


def _describe_request(operation: OperationSnapshot) -> str:
    id_ = clean_text(operation.operation_id)
    if operation.cancel_requested_at is not None:
        return (
            f"Cancellation of {id_} was already requested at {format_moment(operation.cancel_requested_at)}."
        )
    if operation.may_be_dead:
        return f"Cancellation of {id_} is requested, but its process does not respond."
    return f"Cancellation of {id_} is requested. See: otel-progress watch {quote_id(operation.operation_id)}"


def _describe_end(operation: OperationSnapshot) -> str:
    if not operation.status.finished:
        return "it has just finished"
    return f"its status is {operation.status.value} since {format_moment(operation.root.ended_at)}"
