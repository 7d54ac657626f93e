"""Fixed names of the dashboards.

Bookmarks, alerts and other dashboards link to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TAG: Final = "otel-progress"
"""The tag of all dashboards."""
FOLDER: Final = "Progress"
"""The folder of the provisioning."""


@dataclass(frozen=True, slots=True)
class Place:
    """A dashboard as link target: uid, title, icon and text of links."""

    uid: str
    title: str
    icon: str
    about: str

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.uid.removeprefix('otel-')}.json"


OVERVIEW: Final = Place(
    "otel-progress-overview",
    "Progress overview",
    "apps",
    "All operations: running ones, problems, expected ends",
)
OPERATION: Final = Place(
    "otel-progress-operation",
    "Operation",
    "info",
    "One operation in detail: progress, remaining time, levels, logs and trace",
)
HISTORY: Final = Place(
    "otel-progress-history",
    "History and ETA accuracy",
    "dashboard",
    "Durations, failures and accuracy of the estimates",
)
ITSELF: Final = Place(
    "otel-progress-self",
    "otel-progress itself",
    "bolt",
    "State of the telemetry: scrapes, errors, limits, the journal, the server",
)

PLACES: Final = (OVERVIEW, OPERATION, HISTORY, ITSELF)
"""All dashboards in the order of the links."""

PROMETHEUS: Final = "prometheus_datasource"
"""Variable: the Prometheus data source. Grafana's linter requires the type in the name."""
LOKI: Final = "loki_datasource"
"""Variable: the Loki data source with the logs."""
TEMPO: Final = "tempo_datasource"
"""Variable: the Tempo data source with the traces."""
JOB: Final = "job"
"""Variable: scrape jobs, or service names with OTLP."""
INSTANCE: Final = "instance"
"""Variable: exporting processes."""
TYPE: Final = "operation_type"
"""Variable: operation types."""
ID: Final = "operation_id"
"""Variable: the selected operation. Hidden but set on dashboards without an operation."""
LEVEL: Final = "level"
"""Variable: levels of the operation."""
TRACE: Final = "trace_id"
"""Hidden variable: the trace of the operation."""
PREVIEW: Final = "preview"
"""Hidden variable: the last preview of the operation, as HTML."""
WINDOW: Final = "window"
"""Variable: time window of one point of the history."""
