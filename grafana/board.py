"""Common parts of all dashboards."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.builders import prometheus as prometheus_builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.links import between
from grafana.names import PROMETHEUS, TAG, Place
from grafana.variables import Variable, source

SCHEMA: Final = 41
"""The classic schema: some releases of Grafana 13 reject newer files in provisioning."""
REFRESHES: Final = ["5s", "10s", "30s", "1m", "5m", "15m"]


def board(place: Place, variables: list[Variable], *, span: str, refresh: str) -> dashboard.Dashboard:
    """Return a read-only dashboard without panels, with tag, links and time range."""
    made = (
        dashboard.Dashboard(place.title)
        .uid(place.uid)
        .description(f"{place.about}.")
        .tags([TAG])
        .readonly()
        .version(1)
    )
    made = (
        made.timezone("browser")
        .time(f"now-{span}", "now")
        .refresh(refresh)
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    made = made.timepicker(dashboard.TimePicker().refresh_intervals(REFRESHES)).variables(list(variables))
    return made.links(list(between(place)))


def mark(
    name: str, expression: str, *, title: str, text: str, colour: str, at_value: bool = False
) -> dashboard.AnnotationQuery:
    """Return an annotation from PromQL.

    With ``at_value``, its position is the value in milliseconds since 1970.
    """
    query = (
        prometheus_builder.Dataquery().datasource(source(PROMETHEUS)).ref_id("Anno").expr(expression).range()
    )
    made = (
        dashboard.AnnotationQuery().name(name).datasource(source(PROMETHEUS)).enable(True).icon_color(colour)
    )
    made = (
        made.expr(expression)
        .title_format(title)
        .text_format(text)
        .tag_keys("alertname,severity,operation_type")
    )
    return made.target(query).use_value_for_time(at_value)


def built_in() -> dashboard.AnnotationQuery:
    """Return the annotations that users write in Grafana.

    Grafana itself adds them to each dashboard.
    """
    store = common.DataSourceRef(type_val="grafana", uid="-- Grafana --")
    made = (
        dashboard.AnnotationQuery()
        .name("Annotations & Alerts")
        .datasource(store)
        .enable(True)
        .hide(True)
        .built_in(1)
    )
    return made.icon_color("rgba(0, 211, 255, 1)").type("dashboard")
