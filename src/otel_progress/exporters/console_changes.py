"""Which operations ended in a batch, and how they stood then."""

from __future__ import annotations

from otel_progress.model import Snapshot
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import Batch, Reader


def ended_roots(batch: Batch) -> list[Snapshot]:
    """Return the operations that ended, as their own levels; one that ended twice under an id counts twice."""
    return [snapshot for snapshot in batch.snapshots if not snapshot.info.path and snapshot.status.finished]


def ended_operation(reader: Reader, batch: Batch, root: Snapshot, *, levels: bool = True) -> OperationSnapshot:
    """Return an ended operation with its levels as the reader still has them; without, when it has a newer run of that id."""
    if levels:
        found = reader.get(root.info.operation_id)
        if found is not None and found.run == root.info.run:
            return found
    return OperationSnapshot(root, (), batch.at, batch.clock, batch.instance)
