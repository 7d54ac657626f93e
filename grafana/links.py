"""Links between the dashboards and to the trace, with time range and variables."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from grafana.names import ID, INSTANCE, JOB, LOKI, OPERATION, PLACES, PROMETHEUS, TEMPO, Place

_CARRIED: Final = (PROMETHEUS, TEMPO, LOKI, JOB, INSTANCE)


def between(here: Place) -> list[dashboard.DashboardLink]:
    """Return the links in the head of a dashboard to the other dashboards."""
    return [
        dashboard.DashboardLink(place.title)
        .type(model.DashboardLinkType.LINK)
        .url(f"/d/{place.uid}")
        .tooltip(place.about)
        .icon(place.icon)
        .include_vars(True)
        .keep_time(True)
        for place in PLACES
        if place is not here
    ]


def to_operation(field: str) -> list[dict[str, object]]:
    """Return the link of a table's cell to the operation whose id is in ``field``."""
    carried = "&".join(f"${{{name}:queryparam}}" for name in _CARRIED)
    selected = f'var-{ID}=${{__data.fields["{field}"]:percentencode}}'
    url = f"/d/{OPERATION.uid}?{selected}&{carried}&${{__url_time_range}}"
    return [{"title": "Open the operation", "url": url, "targetBlank": False}]


def to_trace(field: str) -> list[dict[str, object]]:
    """Return the link of a table's cell to the trace with the id in ``field``."""
    query = {"refId": "A", "queryType": "traceql", "query": f'${{__data.fields["{field}"]}}', "limit": 20}
    query["datasource"] = {"type": "tempo", "uid": f"${{{TEMPO}}}"}
    pane = {
        "datasource": f"${{{TEMPO}}}",
        "queries": [query],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    panes = quote(json.dumps({"trace": pane}, separators=(",", ":")), safe="${}[]_.")
    return [
        {"title": "Open the trace", "url": f"/explore?schemaVersion=1&panes={panes}", "targetBlank": False}
    ]
