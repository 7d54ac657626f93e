"""Defaults and limits of settings that other packages share."""

from __future__ import annotations

from typing import Final

DEFAULT_HOST: Final = "127.0.0.1"
"""Address of servers: only this machine can connect."""


DEFAULT_PORT: Final = 7764
"""Port of the server."""


DEFAULT_OTLP_PORT: Final = 4318
"""Port for OTLP over HTTP. Exporters send to it by default."""


MAX_PORT: Final = 65_535
"""Highest port of TCP."""


DEFAULT_TICK_S: Final = 0.1
"""Interval of collecting progress, in seconds."""


DEFAULT_RETENTION_S: Final = 86_400.0
"""Time after which ended operations and their previews are deleted, in seconds."""


DEFAULT_METRICS_RETENTION_S: Final = 300.0
"""Time after which the series of ended operations are removed, in seconds."""


DEFAULT_STALL_AFTER_S: Final = 60.0
"""Shortest time without an advance after which an operation is stalled, in seconds."""


DEFAULT_SEGMENT_AFTER_S: Final = 18_000.0
"""Time after which the span of a running level is continued in a segment, in seconds. Back ends
drop spans that started 6 to 24 hours ago.
"""


DEFAULT_PREVIEW_RATIOS: Final = (0.25, 0.5, 0.75)
"""Ratios of a level at which previews are captured."""


DEFAULT_PREVIEW_EDGE_PIXELS: Final = 512
"""Longer side of previews, in pixels."""


DEFAULT_PREVIEW_COUNT: Final = 50
"""Maximum number of stored previews per operation. Further ones replace earlier ones."""


DEFAULT_PREVIEW_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of the stored previews per operation. Further ones replace earlier ones."""
