"""Lookup of the operation or batch that an ID of the command line names."""

from __future__ import annotations

from otel_progress.cli.batch_output import find_batch
from otel_progress.cli.context import find_operation
from otel_progress.cli.output import CliError
from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import Reader


def find_target(reader: Reader, id_or_prefix: str) -> OperationSnapshot | BatchSnapshot:
    """Return the operation or batch of an ID or prefix.

    Whole IDs precede prefixes, operations precede batches. Raises CliError.
    """
    target = reader.get(id_or_prefix) or reader.batch(id_or_prefix)
    if target is not None:
        return target
    try:
        return find_operation(reader, id_or_prefix)
    except CliError:
        batch = find_batch(reader, id_or_prefix)
        if batch is None:
            raise
        return batch
