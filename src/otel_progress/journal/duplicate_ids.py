"""Detection of operation ids that another live process uses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from otel_progress.journal.sanitize import sanitize_text
from otel_progress.model import Instance, LevelInfo, LevelSnapshot, Status
from otel_progress.protocols import ChangeSet, RenamedRun, RenameRun

MAX_RENAMED_RUNS: Final = 10_000
"""Renamed runs that a writer knows. Beyond it the oldest are dropped. Only their levels that were
collected before they were renamed need it.
"""


MAX_IDS_PER_RUN: Final = 1_000
"""Ids that are tried for one run. Beyond it the run keeps the last one, as a duplicate."""


class DuplicateIdResolver:
    """Renames runs of this process whose operation id another live process uses.

    ``rename`` is None for a process that only stores the runs of other processes.
    """

    def __init__(self, rename: RenameRun | None) -> None:
        self._rename = rename
        self._ids: OrderedDict[str, str] = OrderedDict()
        self._renamed: dict[str, RenamedRun] = {}

    def has_renamed(self, run: str) -> bool:
        """Return True if a run was renamed."""
        return run in self._ids

    def take_renamed_runs(self) -> Sequence[RenamedRun]:
        """Return the runs that were renamed since the last call."""
        renamed = self._renamed
        return [renamed.pop(run) for run in list(renamed)]

    def select_new_runs(self, change_set: ChangeSet, is_written: Callable[[str], bool]) -> dict[str, str]:
        """Return the ids of the running operations that have to be checked, by run.

        These are operations whose caller chose the id, and of which ``is_written`` returns False.
        """
        if self._rename is None:
            return {}
        return {
            snapshot.info.run: snapshot.info.operation_id
            for snapshot in change_set.snapshots
            if snapshot.info.is_id_given
            and snapshot.status is Status.RUNNING
            and not is_written(snapshot.info.run)
        }

    def resolve(
        self, runs: Mapping[str, str], find_owners: Callable[[Mapping[str, str]], Mapping[str, Instance]]
    ) -> Sequence[str]:
        """Rename the runs whose ids other live processes use.

        ``runs`` are ids by run. ``find_owners`` returns for such runs the other process. Return the
        runs that keep an id that is in use.
        """
        used_ids = {run: {id_} for run, id_ in runs.items()}
        pending = dict(runs)
        kept = []
        while pending and self._rename is not None:
            owners = find_owners(pending)
            pending = {}
            for run, owner in owners.items():
                used = used_ids[run]
                found = self._rename(run, used)
                new = None if found is None else sanitize_text(found)
                # Why: a run that has ended in the meantime is only a later run of the id.
                if new is None or new in used or len(used) > MAX_IDS_PER_RUN:
                    kept.append(run)
                    continue
                used.add(new)
                pending[run] = new
                self._add(run, runs[run], new, owner)
        return kept

    def _add(self, run: str, before: str, new: str, owner: Instance) -> None:
        self._ids[run] = new
        if len(self._ids) > MAX_RENAMED_RUNS:
            self._ids.popitem(last=False)
        known = self._renamed.get(run)
        if known is not None:
            before, owner = known.before, known.owner
        self._renamed[run] = RenamedRun(run, before, new, owner)

    def apply(self, change_set: ChangeSet) -> ChangeSet:
        """Return the change set with the current ids of renamed runs.

        Their levels may have been collected before they were renamed.
        """
        ids = self._ids
        if not ids:
            return change_set
        snapshots = change_set.snapshots
        if all(
            ids.get(each.info.run, each.info.operation_id) == each.info.operation_id for each in snapshots
        ):
            return change_set
        return replace(change_set, snapshots=list(self._apply_to_snapshots(snapshots)))

    def _apply_to_snapshots(self, snapshots: Iterable[LevelSnapshot]) -> Iterable[LevelSnapshot]:
        for snapshot in snapshots:
            info = snapshot.info
            id_ = self._ids.get(info.run, info.operation_id)
            yield snapshot if id_ == info.operation_id else replace(snapshot, info=rename_info(info, id_))


def rename_info(info: LevelInfo, operation_id: str) -> LevelInfo:
    """Return the constant values of a level of a renamed operation."""
    return replace(info, operation_id=operation_id, id=info.id if info.path else operation_id)
