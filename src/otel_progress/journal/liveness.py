"""Liveness and monotonic clocks of processes, derived from stored heartbeats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from otel_progress.model import Instance
from otel_progress.processes import (
    OTLP_TIMEOUT_S,
    get_heartbeat_timeout_s,
    is_alive,
    is_gone,
    is_same_boot,
    this_host,
)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Last heartbeat of a process: Unix seconds and seconds of its monotonic clock."""

    instance: Instance
    heartbeat_at: float
    heartbeat_clock: float


class Liveness(NamedTuple):
    """Whether a process is alive, and its monotonic clock at the time of reading.

    ``not_reporting_since`` is in Unix seconds: see :class:`OperationSnapshot`.
    """

    alive: bool
    clock: float
    not_reporting_since: float | None = None


@dataclass(frozen=True, slots=True)
class ReadTime:
    """Time of reading: ``now`` in Unix seconds, ``clock`` in monotonic seconds."""

    now: float
    clock: float
    suspended_s: float = 0.0
    """Seconds since boot in which the machine was suspended. ``clock`` does not include them."""
    # Why cached: the process is checked once, however many operations it has.
    _liveness: dict[str, Liveness] = field(default_factory=dict)

    def get_liveness(self, heartbeat: Heartbeat) -> Liveness:
        """Return whether a process is alive, and its monotonic clock.

        The clock of a dead process is that of its last heartbeat.
        """
        key = heartbeat.instance.id
        if key not in self._liveness:
            self._liveness[key] = self._check_process(heartbeat)
        return self._liveness[key]

    def get_expiry_s(self, heartbeat: Heartbeat) -> float | None:
        """Return the time after which a living process counts as dead without a heartbeat.

        None if it does not expire, because the process exists on this host or sends none.
        """
        host = heartbeat.instance.host
        timeout_s = get_heartbeat_timeout_s(host)
        if host == this_host() or timeout_s == math.inf:
            return None
        is_comparable = is_same_boot(host)
        age = self.clock - heartbeat.heartbeat_clock if is_comparable else self.now - heartbeat.heartbeat_at
        return max(0.0, timeout_s - age)

    def is_gone(self, heartbeat: Heartbeat) -> bool:
        """Return True if the process has certainly ended.

        See :func:`otel_progress.processes.is_gone`.
        """
        if is_same_boot(heartbeat.instance.host):
            return is_gone(heartbeat.instance, heartbeat.heartbeat_clock, self.clock)
        return is_gone(heartbeat.instance, heartbeat.heartbeat_at, self.now)

    def _check_process(self, heartbeat: Heartbeat) -> Liveness:
        # Why: processes of one boot share the monotonic clock, which has no steps.
        if is_same_boot(heartbeat.instance.host):
            alive = is_alive(heartbeat.instance, heartbeat.heartbeat_clock, self.clock)
            clock = max(self.clock, heartbeat.heartbeat_clock) if alive else heartbeat.heartbeat_clock
            return Liveness(alive, clock)
        alive = is_alive(heartbeat.instance, heartbeat.heartbeat_at, self.now)
        age = max(self.now - heartbeat.heartbeat_at, 0.0)
        timeout_s = get_heartbeat_timeout_s(heartbeat.instance.host)
        is_silent = timeout_s == math.inf and age > OTLP_TIMEOUT_S
        clock = heartbeat.heartbeat_clock + (min(age, timeout_s) if alive else 0.0)
        return Liveness(alive, clock, heartbeat.heartbeat_at if is_silent else None)
