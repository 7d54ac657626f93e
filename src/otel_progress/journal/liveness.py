"""Whether a worker lives, and what its monotonic clock says now, from the sign of life it last left in the journal."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_progress.model import Instance
from otel_progress.processes import HEARTBEAT_TIMEOUT_S, is_alive, is_gone, is_same_boot


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A process with its last sign of life: wall time and its monotonic clock, in seconds."""

    instance: Instance
    heartbeat_at: float
    heartbeat_clock: float


@dataclass(frozen=True, slots=True)
class ReadTime:
    """One moment of reading: ``now`` in Unix seconds, ``clock`` on this process's monotonic clock."""

    now: float
    clock: float
    # Each process is looked at once a moment, however many operations it has.
    _seen: dict[str, tuple[bool, float]] = field(default_factory=dict)

    def liveness_of(self, pulse: Heartbeat) -> tuple[bool, float]:
        """Return whether the worker lives, and its clock now; for a dead one its clock at the last sign of life."""
        key = pulse.instance.id
        if key not in self._seen:
            self._seen[key] = self._look(pulse)
        return self._seen[key]

    def is_gone(self, pulse: Heartbeat) -> bool:
        """Return True when the worker is dead for certain, see :func:`otel_progress.processes.is_gone`."""
        if is_same_boot(pulse.instance.host):
            return is_gone(pulse.instance, pulse.heartbeat_clock, self.clock)
        return is_gone(pulse.instance, pulse.heartbeat_at, self.now)

    def _look(self, pulse: Heartbeat) -> tuple[bool, float]:
        # Within one boot the monotonic clock is the same for all, so a step of the wall clock has no part in it.
        if is_same_boot(pulse.instance.host):
            alive = is_alive(pulse.instance, pulse.heartbeat_clock, self.clock)
            return alive, max(self.clock, pulse.heartbeat_clock) if alive else pulse.heartbeat_clock
        alive = is_alive(pulse.instance, pulse.heartbeat_at, self.now)
        since = min(max(self.now - pulse.heartbeat_at, 0.0), HEARTBEAT_TIMEOUT_S)
        return alive, pulse.heartbeat_clock + (since if alive else 0.0)
