"""Links of alerts: to the runbook and to dashboards."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import pytest

from tests.support.alerting.rules import CONFIG, ROOT, RUNBOOK, Rule, alerts, load

RUNBOOK_URL = "https://github.com/otel-progress/otel-progress/blob/main/docs/runbook.md"
GRAFANA = '{{ or $externalLabels.grafana_url "http://127.0.0.1:3000" }}'
ABOUT = {"operation_id": "otel-progress-operation", "operation_type": "otel-progress-history"}
"""The dashboard of an alert by its subject. Alerts with neither label are about otel-progress
itself.
"""


@lru_cache(maxsize=1)
def dashboards() -> dict[str, Any]:
    """Return the shipped dashboards by uid."""
    files = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
    return {
        document["uid"]: document
        for document in (json.loads(file.read_text(encoding="utf-8")) for file in files)
    }


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_runbook_link_ends_in_the_heading_of_the_alert(alert: Rule) -> None:
    """The anchor of the link is the name of the alert."""
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert (page, anchor) == (RUNBOOK_URL, alert.name.lower())
    assert f"\n## {alert.name}\n" in RUNBOOK.read_text(encoding="utf-8")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_dashboard_link_has_an_existing_uid_and_variables(alert: Rule) -> None:
    """The dashboard of the link has all variables that the link sets."""
    match = re.fullmatch(re.escape(GRAFANA) + r"/d/([\w-]+)/\?(.*)", alert.annotations["dashboard_url"])
    assert match is not None
    uid, query = match.groups()
    assert uid in dashboards()
    names = {variable["name"] for variable in dashboards()[uid]["templating"]["list"]}
    parameters = dict(pair.split("=", 1) for pair in query.split("&"))
    assert {"from", "to"} <= set(parameters)
    chosen = {name: value for name, value in parameters.items() if name not in ("from", "to")}
    assert {name.removeprefix("var-") for name in chosen} <= names
    assert all(
        value == f"{{{{ $labels.{name.removeprefix('var-')} | urlquery }}}}" for name, value in chosen.items()
    )


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_dashboard_link_opens_the_subject_of_the_alert(alert: Rule) -> None:
    """Alerts on operations and types open their dashboards, others the internal one."""
    labels = re.findall(r"var-(\w+)=", alert.annotations["dashboard_url"])
    expected = next((ABOUT[label] for label in labels if label in ABOUT), "otel-progress-self")
    assert f"/d/{expected}/" in alert.annotations["dashboard_url"]
    assert ("$labels.operation_id" in alert.annotations["summary"]) == (expected == "otel-progress-operation")


def test_external_label_of_grafana_is_set_and_dropped_from_alerts() -> None:
    """prometheus.yml sets the label for links and removes it from the alerts."""
    document = load(CONFIG)
    assert document["global"]["external_labels"] == {"grafana_url": "http://127.0.0.1:3000"}
    assert {"action": "labeldrop", "regex": "grafana_url"} in document["alerting"]["alert_relabel_configs"]
