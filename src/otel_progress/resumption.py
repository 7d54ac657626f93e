"""Resumed operations: completed keys, claims, and work of earlier sessions.

A session is one run of an operation. A run that another session has continued is superseded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, runtime_checkable

from otel_progress.model import Instance, LevelSnapshot, Number, Status, adjust_ratio

MAX_COMPLETED_KEYS: Final = 1_000_000
"""Completed keys stored per operation, of all its sessions. Beyond it no key is recorded. Such
items run again in the next session, and they are counted.
"""


MAX_CHECKPOINT_BYTES: Final = 65_536
"""Bytes of a checkpoint as JSON. A larger value is rejected, and the previous one stays."""


MAX_EMPTY_RUNS: Final = 20
"""Dead runs without progress that a claim leaves out to find an earlier one with progress."""


_SCOPE_BYTES: Final = 8


_KEY_BYTES: Final = 16


class CompletedKey(NamedTuple):
    """Completed level or item of a run.

    ``scope`` is the digest of the level above or of the loop. ``key`` is the digest of the level's
    path segment or of the item's key. ``weight`` is the number of units of the level above.
    """

    run: str
    scope: bytes
    key: bytes
    weight: Number


def digest_level_scope(path: str) -> bytes:
    """Return the scope of the levels directly below a path."""
    return blake2b(f"level\0{path}".encode(), digest_size=_SCOPE_BYTES).digest()


def digest_loop_scope(path: str, type_: str, name: str, number: int) -> bytes:
    """Return the scope of the items of a loop.

    ``path`` is the path of the level above. ``number`` counts the loops with the same type and name
    below it.
    """
    text = f"loop\0{path}\0{type_}\0{name}\0{number}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SCOPE_BYTES).digest()


def digest_key(key: str) -> bytes:
    """Return the digest of an item's key or of a level's path segment."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


@dataclass(frozen=True, slots=True)
class RunClaim:
    """Request of a process to continue the newest run of an operation.

    ``root`` is the operation's new run at its start, with the sequence number 0. ``at`` is in Unix
    seconds and ``clock`` in monotonic seconds.
    """

    instance: Instance
    root: LevelSnapshot
    at: float
    clock: float


@dataclass(frozen=True, slots=True)
class ResumedWork:
    """Work of the earlier sessions of an operation.

    ``root`` is the operation in the run that is continued. ``attempt`` is the number of the session
    that continues it. ``checkpoint`` is JSON, or None. ``completed`` are the scopes, keys and
    weights of completed levels and items.
    """

    root: LevelSnapshot
    attempt: int
    checkpoint: str | None
    completed: Sequence[tuple[bytes, bytes, Number]]

    def count_units(self) -> Number:
        """Return the units of the operation that are done."""
        root = self.root
        if not root.counts_children:
            return root.current
        # Why the larger one: levels without an id have no key.
        scope = digest_level_scope("")
        return max(sum(weight for found, _, weight in self.completed if found == scope), root.completed)


@runtime_checkable
class ResumableStorage(Protocol):
    """Storage that continues runs of other processes."""

    def claim_run(self, claim: RunClaim) -> ResumedWork | None:
        """Continue the newest run of an operation as ``claim.root``, atomically.

        That run becomes superseded. Return None if there is no run to continue, because the newest
        one was completed or skipped. The new run is stored then, too. Raises OperationRunningError
        if the process of the newest run is alive, and JournalError.
        """

    def take_superseded_runs(self) -> Mapping[str, str]:
        """Return the runs whose changes a write has left out since the last call.

        The value is the run of another process that has continued it.
        """


def build_resumed_root(claim: RunClaim, work: ResumedWork) -> LevelSnapshot:
    """Return the root of a claim with the units that earlier sessions have done."""
    root, units = claim.root, work.count_units()
    total = work.root.total if root.total is None else root.total
    ratio = None if not total else max(0.0, min(1.0, units / total))
    return replace(
        root,
        info=replace(root.info, attempt=work.attempt),
        current=units if total is None else min(units, total),
        total=total,
        ratio=adjust_ratio(root.status, units, total, ratio),
        resumed_from=units,
        counts_children=work.root.counts_children,
    )


def is_empty(root: LevelSnapshot) -> bool:
    """Return True if a run has no progress that another one could continue."""
    return not (root.current or root.resumed_from or root.ended_levels.total)


def is_complete(root: LevelSnapshot) -> bool:
    """Return True if nothing of a run is left to do."""
    return root.status is Status.COMPLETED or root.status is Status.SKIPPED
