"""Counts rows of a journal that cannot be decoded and are left out.

They are damaged, or of another version.
"""

from __future__ import annotations

from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import fork_safe_lock

MAX_KNOWN_ROWS: Final = 10_000
"""Distinct rows that are counted. Further ones are not counted."""


_known: Final[set[int]] = set()


_lock: Final = fork_safe_lock()


def count_invalid_row(kind: str, *identity: object) -> None:
    """Count a row once per process, however often it is read.

    The first invalid row of the process is reported.
    """
    key = hash((kind, *identity))
    with _lock:
        is_new = key not in _known and len(_known) < MAX_KNOWN_ROWS
        if is_new:
            _known.add(key)
    if is_new:
        msg = f"A row of the journal with a {kind} is damaged and left out. Run: otel-progress doctor"
        report_internal_error("journal", msg)


def get_invalid_row_count() -> int:
    """Return the number of distinct invalid rows that this process has read."""
    with _lock:
        return len(_known)
