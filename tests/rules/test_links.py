"""Every link of an alert leads somewhere: to a section of the runbook, and to a dashboard that has the variables it sets."""

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
"""Which dashboard shows what an alert is about; alerts about neither are about otel-progress itself."""


@lru_cache(maxsize=1)
def dashboards() -> dict[str, Any]:
    """Return the dashboards that are shipped, by uid."""
    files = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
    return {
        document["uid"]: document
        for document in (json.loads(file.read_text(encoding="utf-8")) for file in files)
    }


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_the_runbook_has_a_section(alert: Rule) -> None:
    """The runbook link ends in the anchor of a heading that is the name of the alert."""
    page, _, anchor = alert.annotations["runbook_url"].partition("#")
    assert (page, anchor) == (RUNBOOK_URL, alert.name.lower())
    assert f"\n## {alert.name}\n" in RUNBOOK.read_text(encoding="utf-8")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_the_dashboard_exists_and_has_the_variables(alert: Rule) -> None:
    """The dashboard link names the uid of a dashboard, and sets variables that are its own."""
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
def test_the_dashboard_is_about_the_same(alert: Rule) -> None:
    """An alert about an operation opens that operation, one about a type the history of that type, all others otel-progress itself."""
    labels = re.findall(r"var-(\w+)=", alert.annotations["dashboard_url"])
    expected = next((ABOUT[label] for label in labels if label in ABOUT), "otel-progress-self")
    assert f"/d/{expected}/" in alert.annotations["dashboard_url"]
    assert ("$labels.operation_id" in alert.annotations["summary"]) == (expected == "otel-progress-operation")


def test_the_address_of_grafana_is_configured_and_kept_out_of_the_labels() -> None:
    """prometheus.yml sets the external label the links are made of, and drops it from the alerts themselves."""
    document = load(CONFIG)
    assert document["global"]["external_labels"] == {"grafana_url": "http://127.0.0.1:3000"}
    assert {"action": "labeldrop", "regex": "grafana_url"} in document["alerting"]["alert_relabel_configs"]
