"""Limits of a Redis journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_LOGS_PER_LEVEL: Final = 1_000
"""Newest log records stored per level. Older ones are deleted."""


MAX_LOGS_PER_RUN: Final = 10_000
"""Newest log records stored per run with all its levels. Older ones are deleted."""


MAX_EVENTS_PER_RUN: Final = 10_000
"""Newest events stored per run. Older ones are deleted and counted."""


MAX_CONTRIBUTIONS_PER_RUN: Final = 100_000
"""Contributions of other processes stored per run. Further ones are dropped and counted."""


MAX_SAMPLES_PER_PROCESS: Final = 3_600
"""Newest resource samples stored per process. Older ones are deleted."""


MAX_CACHED_LEVELS: Final = 250_000
"""Levels in the cache of the writer. Beyond it, the whole cache is dropped, and constant values are
written again.
"""


MIN_TTL_S: Final = 86_400.0
"""Time to live of keys beyond the retention, in seconds. A process renews it after a quarter."""


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Limits of one journal.

    - ``previews_per_operation``: newest previews of a run with all its levels that are stored.
    - ``trajectories``: trajectories of all keys that are stored. The keys that were not extended
      for the longest time are deleted.
    - ``runs_per_pass``: maximum number of runs that one retention pass deletes.
    """

    previews_per_operation: int = 1_000
    trajectories: int = 10_000
    runs_per_pass: int = 500
