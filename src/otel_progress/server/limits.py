"""Bounds of the streams."""

from __future__ import annotations

from dataclasses import dataclass

from otel_progress.server.backlog import ENDED_AGE_S, MOST_ENDED


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of the streams: clients, ids one client may name, operations followed with levels, and times in seconds.

    ``interval_s`` is between two looks at the journal, ``pause_s`` the least time between two writes to one client. A client that has
    not taken a write for ``blocked_s`` is let go.
    """

    clients: int = 1_000
    subscriptions: int = 1_000
    trees: int = 200
    interval_s: float = 0.025
    pause_s: float = 0.05
    heartbeat_s: float = 10.0
    blocked_s: float = 30.0
    most_ended: int = MOST_ENDED
    ended_age_s: float = ENDED_AGE_S
