"""Fencing of superseded runs: their changes are left out of a change set."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from otel_progress.protocols import ChangeSet


def list_runs(change_set: ChangeSet) -> set[str]:
    """Return the runs that a change set changes."""
    runs = {snapshot.info.run for snapshot in change_set.snapshots}
    runs.update(run for run, _ in change_set.evicted)
    for records in (
        change_set.events,
        change_set.logs,
        change_set.previews,
        change_set.trajectories,
        change_set.cancel_requests,
        change_set.completed_keys,
    ):
        runs.update(record.run for record in records)
    return runs.union(change_set.resources, change_set.checkpoints)


def leave_out_runs(change_set: ChangeSet, runs: Set[str]) -> ChangeSet:
    """Return a change set without the changes of some runs."""
    if not runs:
        return change_set
    return replace(
        change_set,
        snapshots=[each for each in change_set.snapshots if each.info.run not in runs],
        events=[each for each in change_set.events if each.run not in runs],
        evicted=[each for each in change_set.evicted if each[0] not in runs],
        logs=[each for each in change_set.logs if each.run not in runs],
        resources={run: use for run, use in change_set.resources.items() if run not in runs},
        trajectories=[each for each in change_set.trajectories if each.run not in runs],
        previews=[each for each in change_set.previews if each.run not in runs],
        cancel_requests=[each for each in change_set.cancel_requests if each.run not in runs],
        completed_keys=[each for each in change_set.completed_keys if each.run not in runs],
        checkpoints={run: text for run, text in change_set.checkpoints.items() if run not in runs},
    )
