"""Liveness and monotonic clocks of processes, derived from stored heartbeats."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_progress.model import Instance
from otel_progress.processes import HEARTBEAT_TIMEOUT_S, is_alive, is_gone, is_same_boot


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Last heartbeat of a process: Unix seconds and seconds of its monotonic clock."""

    instance: Instance
    heartbeat_at: float
    heartbeat_clock: float


@dataclass(frozen=True, slots=True)
class ReadTime:
    """Time of reading: ``now`` in Unix seconds, ``clock`` in monotonic seconds."""

    now: float
    clock: float
    suspended_s: float = 0.0
    """Seconds since boot in which the machine was suspended. ``clock`` does not include them."""
    # Why cached: the process is checked once, however many operations it has.
    _liveness: dict[str, tuple[bool, float]] = field(default_factory=dict)

    def get_liveness(self, heartbeat: Heartbeat) -> tuple[bool, float]:
        """Return True for a living process, and its monotonic clock.

        The clock of a dead process is that of its last heartbeat.
        """
        key = heartbeat.instance.id
        if key not in self._liveness:
            self._liveness[key] = self._check_process(heartbeat)
        return self._liveness[key]

    def is_gone(self, heartbeat: Heartbeat) -> bool:
        """Return True if the process has certainly ended.

        See :func:`otel_progress.processes.is_gone`.
        """
        if is_same_boot(heartbeat.instance.host):
            return is_gone(heartbeat.instance, heartbeat.heartbeat_clock, self.clock)
        return is_gone(heartbeat.instance, heartbeat.heartbeat_at, self.now)

    def _check_process(self, heartbeat: Heartbeat) -> tuple[bool, float]:
        # Why: processes of one boot share the monotonic clock, which has no steps.
        if is_same_boot(heartbeat.instance.host):
            alive = is_alive(heartbeat.instance, heartbeat.heartbeat_clock, self.clock)
            return alive, max(self.clock, heartbeat.heartbeat_clock) if alive else heartbeat.heartbeat_clock
        alive = is_alive(heartbeat.instance, heartbeat.heartbeat_at, self.now)
        since = min(max(self.now - heartbeat.heartbeat_at, 0.0), HEARTBEAT_TIMEOUT_S)
        return alive, heartbeat.heartbeat_clock + (since if alive else 0.0)
