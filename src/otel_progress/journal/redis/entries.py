"""Entries of runs in the indexes of the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from otel_progress.journal.redis import keys
from otel_progress.journal.redis.records import encode_sequence
from otel_progress.journal.snapshots import get_end
from otel_progress.model import LevelSnapshot, Status

STATUS_CODES: Final = {
    Status.PENDING: "r",
    Status.RUNNING: "r",
    Status.COMPLETED: "c",
    Status.FAILED: "f",
    Status.CANCELLED: "x",
    Status.SKIPPED: "s",
}
"""Letters of the statuses in the index of batches."""


NO_ROOT: Final = " " * 16
"""Sequence of a run whose root is not stored yet. It is lower than any other."""


_ORDER: Final = slice(16, 32)


_TIME: Final = slice(32, 48)


_TEXT: Final = slice(48, None)


_dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class RunEntry:
    """Entry of one run. ``registered_at`` is in Unix seconds of the server.

    ``superseded_by`` is the run that has continued it, or None.
    """

    run: str
    order: str
    registered_at: float
    operation_id: str
    operation_type: str
    instance: str
    has_root: bool
    is_ended: bool
    superseded_by: str | None = None


def encode_root_entry(root: LevelSnapshot) -> tuple[str, str, str]:
    """Return run, sequence and text of the entry of a root."""
    info = root.info
    entry: dict[str, Any] = {
        "id": keys.digest(info.operation_id),
        "type": keys.digest(info.operation_type),
        "operation": info.operation_id,
        "kind": info.operation_type,
        "instance": info.instance,
        "status": STATUS_CODES[root.status],
    }
    if root.superseded_by is not None:
        # Why without the batch: the batch counts the run that continues this one.
        entry["superseded"] = root.superseded_by
    elif info.batch is not None:
        entry["batch"] = keys.digest(info.batch)
    if root.status.finished:
        entry["end"] = keys.encode_time(get_end(root))
    return info.run, encode_sequence(root.sequence), _dumps(entry)


def encode_rootless_entry(
    run: str, operation_id: str, operation_type: str, instance: str
) -> tuple[str, str, str]:
    """Return run, sequence and text of the entry of a run whose root is not known."""
    entry = {
        "id": keys.digest(operation_id),
        "type": keys.digest(operation_type),
        "operation": operation_id,
        "kind": operation_type,
        "instance": instance,
        "status": "r",
    }
    return run, NO_ROOT, _dumps(entry)


def decode_entry(run: str, stored: str) -> RunEntry | None:
    """Return the entry of a run, or None if it is invalid."""
    try:
        document = json.loads(stored[_TEXT])
        return RunEntry(
            run,
            stored[_ORDER],
            int(stored[_TIME]) / 1e6,
            str(document["operation"]),
            str(document["kind"]),
            str(document["instance"]),
            stored[:16] != NO_ROOT,
            "end" in document,
            None if (successor := document.get("superseded")) is None else str(successor),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
