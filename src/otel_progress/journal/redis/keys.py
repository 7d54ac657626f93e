"""Names of the keys of a journal, and sortable members of its indexes.

Keys of one run have the run as hash tag, so in a cluster they are in one slot. The indexes of the
journal have the name of the journal as hash tag, and the keys of a process have its id.

Indexes are sorted sets whose scores are all 0. Their members are sorted by bytes, so a query is a
range of members. A member starts with fixed-width parts.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

PREFIX: Final = "otelp"
"""Beginning of all keys."""


DIGEST_CHARS: Final = 20
"""Characters of the digest of a text within a member."""


NUMBER_CHARS: Final = 20
"""Characters of a sortable integer."""


TIME_CHARS: Final = 16
"""Characters of a sortable float."""


_OFFSET: Final = 2**63


_TAG: Final = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


_RUN_KINDS: Final = (
    "levels", "infos", "meta", "events", "logs", "log-levels", "previews", "contributions",
)  # fmt: skip
"""Kinds of the keys of a run, in the order of the arguments of the scripts."""


class JournalKeys:
    """Names of the keys of one journal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._base = f"{PREFIX}:{name}:"
        index = f"{self._base}{{{name}}}:"
        self.meta = f"{index}meta"
        """Hash: schema version and id of the journal."""
        self.revision = f"{index}revision"
        """Number of the last entry of the feed."""
        self.order = f"{index}order"
        """Number of the last registered run."""
        self.feed = f"{index}feed"
        """Stream with the runs that changed."""
        self.runs = f"{index}runs"
        """Hash: sequence, order, time and index entry of each run."""
        self.active = f"{index}active"
        """Runs that have not ended, by order."""
        self.ids = f"{index}ids"
        """Runs by operation id and order."""
        self.ended = f"{index}ended"
        """Ended runs by their end."""
        self.types = f"{index}types"
        """Ended runs by operation type and end."""
        self.members = f"{index}members"
        """Runs by batch, status and end."""
        self.expiry = f"{index}expiry"
        """Ended runs by the time of the server at which their end was stored."""
        self.batches = f"{index}batches"
        """Hash: declarations of batches."""
        self.tallies = f"{index}tallies"
        """Hash: numbers of deleted runs by batch and status."""
        self.tally_ends = f"{index}tally-ends"
        """Ends of deleted runs by batch."""
        self.locations = f"{index}locations"
        """References to the content of previews."""
        self.trajectories = f"{index}trajectories"
        """Trajectories by key and number."""
        self.trajectory_keys = f"{index}trajectory-keys"
        """Keys of trajectories by the number of their newest one."""
        self.trajectory_owners = f"{index}trajectory-owners"
        """Trajectories by operation id."""
        self.trajectory_number = f"{index}trajectory-number"
        """Number of the last trajectory."""
        self.retention_lease = f"{index}lease:retention"
        """Lease of the process that deletes expired runs."""

    @property
    def indexes(self) -> tuple[str, ...]:
        """Keys that expire if no process uses the journal."""
        return (
            self.meta, self.revision, self.order, self.feed, self.runs, self.active, self.ids, self.ended,
            self.types, self.members, self.expiry, self.batches, self.tallies, self.tally_ends,
            self.locations,
        )  # fmt: skip

    def levels(self, run: str) -> str:
        """Hash of a run: path to sequence, digest of the info, and state."""
        return self._of_run(run, "levels")

    def infos(self, run: str) -> str:
        """Hash of a run: path to constant values."""
        return self._of_run(run, "infos")

    def run_meta(self, run: str) -> str:
        """Hash of a run: cancel request, resource use, numbers of its writers."""
        return self._of_run(run, "meta")

    def events(self, run: str) -> str:
        """Events of a run by number."""
        return self._of_run(run, "events")

    def logs(self, run: str) -> str:
        """Log records of a run by number."""
        return self._of_run(run, "logs")

    def log_levels(self, run: str) -> str:
        """Numbers of the log records of a run by level."""
        return self._of_run(run, "log-levels")

    def previews(self, run: str) -> str:
        """Previews of a run by number."""
        return self._of_run(run, "previews")

    def completed(self, lineage: str) -> str:
        """Set of the completed keys of a resumed operation. ``lineage`` is its first run."""
        return self._of_run(lineage, "completed")

    def owner(self, lineage: str) -> str:
        """Run that may add completed keys: the newest one of a lineage."""
        return self._of_run(lineage, "owner")

    def claim_lease(self, operation_id: str) -> str:
        """Lease of the process that continues a run of an operation."""
        return f"{self._base}{{{self.name}}}:lease:claim:{digest(operation_id)}"

    def contributions(self, run: str) -> str:
        """Hash of a run: writer and path to the contribution of another process."""
        return self._of_run(run, "contributions")

    def list_run_keys(self, run: str) -> tuple[str, ...]:
        """Return all keys of a run."""
        # Why not the methods above: each write of a run calls it.
        prefix = self._of_run(run, "")
        return tuple([prefix + kind for kind in _RUN_KINDS])

    def totals(self, group: str) -> str:
        """Hash of a group of processes: process and series to value."""
        return f"{self._base}{{{group.translate(_TAG)}}}:totals"

    def heartbeat(self, instance: str) -> str:
        """Last heartbeat of a process."""
        return self._of_instance(instance, "heartbeat")

    def samples(self, instance: str) -> str:
        """Resource samples of a process by clock."""
        return self._of_instance(instance, "samples")

    def requests(self, instance: str) -> str:
        """Hash of a process: run to cancel request."""
        return self._of_instance(instance, "requests")

    def _of_run(self, run: str, kind: str) -> str:
        return f"{self._base}{{{run.translate(_TAG)}}}:run:{kind}"

    def _of_instance(self, instance: str, kind: str) -> str:
        return f"{self._base}{{{instance.translate(_TAG)}}}:process:{kind}"


def digest(text: str) -> str:
    """Return the fixed-width digest of a text."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:DIGEST_CHARS]


def encode_number(number: int) -> str:
    """Return a text that sorts like the integer.

    Raises OverflowError beyond 64 bits, and TypeError for another type.
    """
    if type(number) is not int:
        raise TypeError(number)
    if not -_OFFSET <= number < _OFFSET:
        raise OverflowError(number)
    return f"{number + _OFFSET:020d}"


def clamp_number(number: int) -> str:
    """Return :func:`encode_number` of the nearest integer of 64 bits."""
    return encode_number(max(-_OFFSET, min(number, _OFFSET - 1)))


def encode_time(value: float) -> str:
    """Return a text that sorts like the number. It has all digits."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))
    # The bits of negative numbers sort in reverse.
    return f"{bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63):016x}"


def decode_time(text: str) -> float:
    """Return the number of :func:`encode_time`."""
    bits = int(text, 16)
    bits ^= 1 << 63 if bits >> 63 else 0xFFFFFFFFFFFFFFFF
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    return float(value)
