"""Recovery of ended operations that dead processes left in files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.ends import DECODE_ERRORS, decode_end
from otel_progress.errors import JournalError
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.spill import is_left_by_this_process, list_segments, open_segment, read_records
from otel_progress.model import Instance, LevelSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S
from otel_progress.protocols import ChangeSet

RECOVERY_INTERVAL_S: Final = 60.0
"""Time between two searches for files of dead processes, in seconds."""


RECOVERY_AT_CLOSE_S: Final = 1.0
"""Maximum time that a close stores ended operations of dead processes, in seconds."""


MAX_ENDS_PER_TRANSACTION: Final = 1_000
"""Ended operations stored per transaction, so that other processes can write in between."""


class SpilledEnds:
    """Finds files next to a journal and stores their records, one file per pass.

    ``store`` stores a change set of a dead process. ``find_heartbeat`` returns the last heartbeat
    of a process, or None. Both may raise JournalError.
    """

    def __init__(
        self,
        journal: Path,
        *,
        store: Callable[[ChangeSet], None],
        find_heartbeat: Callable[[Instance], Heartbeat | None],
    ) -> None:
        self._journal = journal
        self._store = store
        self._find_heartbeat = find_heartbeat
        self._next_clock = float("-inf")

    def recover_if_due(self, moment: ReadTime) -> int:
        """Store the ended operations of at most one file. Return their number.

        Raises JournalError if they cannot be stored. Then the file stays.
        """
        if moment.clock < self._next_clock:
            return 0
        self._next_clock = moment.clock + RECOVERY_INTERVAL_S
        return self.recover(moment)

    def recover_if_due_safely(self, moment: ReadTime) -> None:
        """Like ``recover_if_due``, after a write. Its errors are only reported."""
        try:
            self.recover_if_due(moment)
        except JournalError as error:
            msg = f"Ended operations of another process could not be stored yet: {error}"
            report_internal_error("journal", msg, error=error)

    def recover_at_close(self, read_time: Callable[[], ReadTime]) -> None:
        """Store the ended operations that children of this process left in files."""
        deadline = read_time().clock + RECOVERY_AT_CLOSE_S
        with contextlib.suppress(JournalError, OSError):
            while (moment := read_time()).clock < deadline and self.recover(moment):
                pass

    def recover(self, moment: ReadTime) -> int:
        """Store the ended operations of at most one file. Return their number."""
        with contextlib.suppress(OSError):
            for path in list_segments(self._journal):
                # Why suppressed: the file may be removed, locked or replaced at any time.
                with contextlib.suppress(OSError, ValueError):
                    count = self._recover_file(path, moment)
                    if count is not None:
                        # There may be more files.
                        self._next_clock = moment.clock
                        return count
        return 0

    def _recover_file(self, path: Path, moment: ReadTime) -> int | None:
        """Store the records of a file and remove it.

        Return None if its owner may be alive.
        """
        count = 0
        with open_segment(path) as (owner, changed_at, file):
            if owner is None:
                is_recovered = moment.now - changed_at > UNVERIFIED_TIMEOUT_S
            elif self._is_gone(path, owner, changed_at, moment):
                is_recovered = True
                for snapshots in _read_snapshots(file, path):
                    self._store(ChangeSet(owner, changed_at, 0.0, snapshots=snapshots))
                    count += len(snapshots)
            else:
                is_recovered = False
        # Why outside: Windows does not remove open files.
        if is_recovered:
            path.unlink()
        return count if is_recovered else None

    def _is_gone(self, path: Path, owner: Instance, changed_at: float, moment: ReadTime) -> bool:
        if is_left_by_this_process(path, owner):
            return True
        clock = moment.clock - max(0.0, moment.now - changed_at)
        found = self._find_heartbeat(owner) or Heartbeat(owner, changed_at, clock)
        return moment.is_gone(found)


def _read_snapshots(file: BinaryIO, path: Path) -> Iterator[Sequence[LevelSnapshot]]:
    """Yield the ended operations of a file in chunks. Report damaged ones."""
    damaged_count = 0
    while True:
        records, size_bytes, damaged = read_records(file, MAX_ENDS_PER_TRANSACTION)
        damaged_count += damaged
        snapshots = []
        for record in records:
            try:
                snapshots.append(decode_end(record))
            except DECODE_ERRORS:
                damaged_count += 1
        if snapshots:
            yield snapshots
        if not size_bytes:
            break
    if damaged_count:
        report_internal_error(
            "journal", f"{damaged_count} ended operations in {path} are damaged and were skipped."
        )
