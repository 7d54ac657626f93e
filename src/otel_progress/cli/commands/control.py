"""``cancel``, ``fail`` and ``rm``: changes of stored operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from otel_progress.cli.batch_output import find_batch
from otel_progress.cli.context import CliContext, complete_id, complete_id_or_batch, find_operation
from otel_progress.cli.output import CliError, echo, echo_json, quote_id
from otel_progress.cli.targets import find_target
from otel_progress.codec import SCHEMA
from otel_progress.console.rows import clean_text
from otel_progress.formats import format_moment
from otel_progress.operations import BatchSnapshot, OperationSnapshot
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
@click.argument("operation_id", metavar="ID", shell_complete=complete_id_or_batch)
@click.option(
    "--reason",
    default="cancelled from the command line",
    show_default=True,
    help="Reason, stored as the message of the operation.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def cancel(context: CliContext, operation_id: str, reason: str, as_json: bool) -> None:
    """Request cancellation of an active operation, or of all operations of a batch.

    Exits with 1 if no operation is active.
    """
    with context.reader() as reader:
        operation = find_target(reader, operation_id)
    if isinstance(operation, BatchSnapshot):
        _cancel_batch(context, operation, reason, as_json=as_json)
        return
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


def _cancel_batch(context: CliContext, batch: BatchSnapshot, reason: str, *, as_json: bool) -> None:
    with context.journal() as journal:
        count = journal.cancel_batch(batch.id, reason)
    if as_json:
        echo_json({"schema": SCHEMA, "batch_id": batch.id, "cancel_requested": count})
    if not count:
        msg = f"Invalid batch {batch.id!r}: expected a batch with an active operation."
        raise CliError(msg)
    if not as_json:
        text = f"Cancellation of {count} operation{'' if count == 1 else 's'} of {clean_text(batch.id)}"
        echo(f"{text} is requested. See: otel-progress show {quote_id(batch.id)}")


@click.command(
    epilog="""\b
A batch ends when its last operation has ended after it was closed, or when all operations of its
total have ended. A program closes its batch at the end of the with block. This command closes the
batch of a program that has exited before. Operations that start later still count.

\b
Examples:
  otel-progress close thumbnails
"""
)
@click.argument("batch_id", metavar="BATCH", shell_complete=complete_id_or_batch)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def close(context: CliContext, batch_id: str, as_json: bool) -> None:
    """Declare that a batch gets no more operations.

    Exits with 1 if the batch was closed before.
    """
    with context.reader() as reader:
        batch = find_batch(reader, batch_id)
    if batch is None:
        msg = f"Invalid batch ID {escape_controls(batch_id[:100])!r}: expected the ID of a stored batch."
        raise CliError(f"{msg} To list all: otel-progress ls --batches")
    with context.journal() as journal:
        is_closed = journal.close_batch(batch.id)
    if as_json:
        echo_json({"schema": SCHEMA, "batch_id": batch.id, "closed": is_closed})
    if not is_closed:
        msg = f"Invalid batch {batch.id!r}: expected an open batch, but it was closed before."
        raise CliError(msg)
    if not as_json:
        echo(f"Closed {clean_text(batch.id)}.")


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
operation is not deleted: cancel it first. The ID of a batch deletes the batch with its operations.
The process of a run on another machine or in another container cannot be checked. Such a run can be
deleted ten minutes after its last heartbeat.

\b
Examples:
  otel-progress rm friday-42
  otel-progress rm backup-1 backup-2
  otel-progress rm thumbnails
"""
)
@click.argument(
    "operation_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id_or_batch
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def rm(context: CliContext, operation_ids: Sequence[str], as_json: bool) -> None:
    """Delete finished or abandoned operations and batches.

    The whole ID is required, not only a prefix.
    """
    ids = list(dict.fromkeys(operation_ids))
    with context.reader() as reader:
        batches = _find_batches(reader, ids)
        ids = [id_ for id_ in ids if id_ not in batches]
        _require_whole_ids(reader, ids)
        active = {
            operation.operation_id: not operation.may_be_dead for operation in reader.active(levels=False)
        }
    with context.journal() as journal:
        deleted_counts = {id_: journal.delete(id_) for id_ in ids}
        deleted_batches = {id_: journal.delete_batch(id_) for id_ in batches}
    if as_json:
        document: dict[str, object] = {"schema": SCHEMA, "deleted": deleted_counts}
        if batches:
            document["deleted_batches"] = deleted_batches
        echo_json(document)
    else:
        for id_, is_deleted in deleted_batches.items():
            if is_deleted:
                echo(f"Deleted the batch {clean_text(id_)} with its operations.")
        for id_, count in deleted_counts.items():
            if count:
                echo(f"Deleted {count} run{'' if count == 1 else 's'} of {clean_text(id_)}.")
    kept_ids = [id_ for id_, count in deleted_counts.items() if not count and id_ in active]
    if kept_ids:
        raise CliError(_explain_kept(kept_ids, active))
    kept_batches = [id_ for id_, is_deleted in deleted_batches.items() if not is_deleted]
    if kept_batches:
        msg = (
            f"{', '.join(map(repr, kept_batches[:5]))} was not deleted: an operation of it is active, or "
            "its process cannot be checked from here. "
            f"First use: otel-progress cancel {quote_id(kept_batches[0])}"
        )
        raise CliError(msg)


def _find_batches(reader: Reader, ids: Sequence[str]) -> list[str]:
    """Return the IDs that are those of a batch and of no operation."""
    return [id_ for id_ in ids if reader.get(id_) is None and reader.batch(id_) is not None]


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
