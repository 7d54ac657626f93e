"""What the dashboards are called: fixed, because bookmarks, alerts and other dashboards point at these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TAG: Final = "otel-progress"
"""The tag of all dashboards."""
FOLDER: Final = "Progress"
"""The folder that provisioning puts them in."""


@dataclass(frozen=True, slots=True)
class Place:
    """A dashboard as others refer to it: its uid, its title, and the icon and text of links to it."""

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
    "All operations: what runs, what is in trouble, when it will be done",
)
OPERATION: Final = Place(
    "otel-progress-operation",
    "Operation",
    "info",
    "One operation in depth: progress, forecast, levels, logs and trace",
)
HISTORY: Final = Place(
    "otel-progress-history",
    "History and ETA accuracy",
    "dashboard",
    "How long operations took, how many failed, how right the forecasts were",
)
ITSELF: Final = Place(
    "otel-progress-self",
    "otel-progress itself",
    "bolt",
    "Whether the telemetry can be trusted: scrapes, errors, caps, the journal, the server",
)

PLACES: Final = (OVERVIEW, OPERATION, HISTORY, ITSELF)
"""All dashboards, in the order of the links."""

PROMETHEUS: Final = "prometheus_datasource"
"""Variable: the Prometheus to ask. The linter of Grafana wants the kind in the name where there are several."""
LOKI: Final = "loki_datasource"
"""Variable: the Loki that has the logs."""
TEMPO: Final = "tempo_datasource"
"""Variable: the Tempo that has the traces."""
JOB: Final = "job"
"""Variable: scrape jobs (or service names, by OTLP)."""
INSTANCE: Final = "instance"
"""Variable: processes that export."""
TYPE: Final = "operation_type"
"""Variable: kinds of operations."""
ID: Final = "operation_id"
"""Variable: the operation that is looked at; hidden, but kept, where it is not."""
LEVEL: Final = "level"
"""Variable: levels of that operation."""
TRACE: Final = "trace_id"
"""Hidden variable: the trace of that operation."""
PREVIEW: Final = "preview"
"""Hidden variable: the last preview of that operation, as HTML."""
WINDOW: Final = "window"
"""Variable: how much time one point of the history takes in."""
