"""Limits of an SQLite journal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Limits of one journal.

    - ``busy_timeout_s``: maximum time a statement waits for a transaction of another process, in
      seconds. Then the use fails with a temporary JournalError.
    - ``rows_per_pass``: maximum number of rows that one transaction deletes. The rest is deleted by
      later transactions, so that writers of other processes wait only briefly.
    - ``previews_per_operation``: newest previews of an operation with all its levels that are
      stored. Older ones are deleted.
    - ``trajectories``: trajectories of all keys that are stored. The keys that were not extended
      for the longest time are deleted.
    """

    busy_timeout_s: float = 2.0
    rows_per_pass: int = 10_000
    previews_per_operation: int = 1_000
    trajectories: int = 10_000
