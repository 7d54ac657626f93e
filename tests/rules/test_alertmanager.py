"""The configuration of Alertmanager: validity, routing and inhibition."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.alerting.rules import ALERTMANAGER, SEVERITIES, alerts, load
from tests.support.alerting.servers import Alertmanager, alertmanager
from tests.support.servers import poll, require

pytestmark = pytest.mark.server

RECEIVERS = {"critical": "critical", "warning": "default", "info": "info", "none": "watchdog"}
OPERATION = {"operation_id": "nightly", "operation_type": "backup"}


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run amtool and return the result."""
    command = [require("amtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_check_config_finds_route_inhibitions_and_receivers() -> None:
    """`amtool check-config` accepts the file."""
    checked = amtool("check-config", str(ALERTMANAGER))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "3 inhibit rules" in checked.stdout
    assert "4 receivers" in checked.stdout


def test_check_config_with_unknown_receiver_is_rejected(tmp_path: Path) -> None:
    """The check above can fail."""
    broken = tmp_path / "broken.yml"
    broken.write_text(ALERTMANAGER.read_text().replace("receiver: watchdog", "receiver: nobody"))
    assert amtool("check-config", str(broken)).returncode != 0


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.id)
def test_alert_is_routed_to_the_receiver_of_its_severity(alert: Any) -> None:
    """The watchdog has its own receiver."""
    severity = alert.labels["severity"]
    labels = [f"alertname={alert.name}", *(f"{key}={value}" for key, value in alert.labels.items())]
    routes = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    tested = amtool(*routes, f"--verify.receivers={RECEIVERS[severity]}", *labels)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert amtool(*routes, "--verify.receivers=nobody", *labels).returncode != 0


def test_alert_with_unknown_severity_is_routed_to_the_default() -> None:
    """The default receiver is a webhook."""
    tested = amtool(
        "config", "routes", "test", f"--config.file={ALERTMANAGER}", "alertname=Else", "severity=odd"
    )
    assert tested.stdout.strip() == "default"
    receivers = {one["name"]: one for one in load(ALERTMANAGER)["receivers"]}
    assert set(receivers) == set(RECEIVERS.values())
    assert receivers["default"]["webhook_configs"][0]["send_resolved"]
    assert set(RECEIVERS) == set(SEVERITIES)


def test_alerts_of_many_operations_are_one_message() -> None:
    """500 operations that stall at the same time cause one message."""
    document = load(ALERTMANAGER)["route"]
    for route in (document, *document["routes"]):
        assert "operation_id" not in route.get("group_by", [])
        assert "..." not in route.get("group_by", [])
    assert document["group_by"] == ["alertname", "operation_type"]


def test_inhibition_rules_require_each_compared_label() -> None:
    """Every compared label is required on both sides and is not empty."""
    rules = load(ALERTMANAGER)["inhibit_rules"]
    assert len(rules) == 3
    names = {alert.name for alert in alerts()}
    for rule in rules:
        assert rule["equal"] == ["operation_id", "operation_type"]
        for side in (rule["source_matchers"], rule["target_matchers"]):
            assert {f'{label}=~".+"' for label in rule["equal"]} <= set(side)
            named = [matcher for matcher in side if matcher.startswith("alertname")]
            assert set(re.findall(r"\bProgress\w+", named[0])) <= names


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    """Run a real Alertmanager whose webhooks are unreachable."""
    with socket.socket() as nobody:
        nobody.bind(
            ("127.0.0.1", 0)
            # Why no listen(): connections are refused, and no other server gets the port.
        )
        with alertmanager(tmp_path_factory.mktemp("alertmanager"), nobody.getsockname()[1]) as server:
            yield server


def test_inhibition_in_alertmanager_silences_the_same_operation_only(real: Alertmanager) -> None:
    """The more severe alert silences others of its own operation only."""

    def labels(case: str, name: str, **more: str) -> dict[str, str]:
        return {"alertname": f"ProgressOperation{name}", "case": case, **more}

    other = {**OPERATION, "operation_id": "hourly"}
    late = {**OPERATION, "operation_id": "late"}
    still = {**OPERATION, "operation_id": "still"}
    real.post(
        labels("abandoned", "Abandoned", **OPERATION),
        labels("same operation", "Stalled", **OPERATION),
        labels("same operation, late", "PastDeadline", **OPERATION),
        labels("same id, other type", "Stalled", operation_id="nightly", operation_type="restore"),
        labels("other operation", "Stalled", **other),
        labels("late", "PastDeadline", **late),
        labels("late and over its estimate", "EtaOverrun", **late),
        labels("stalled", "Stalled", **still),
        labels("stalled and over its estimate", "EtaOverrun", **still),
        labels("source without labels", "Abandoned"),
        labels("target without labels", "Stalled"),
        labels("late without labels", "PastDeadline"),
        labels("estimate without labels", "EtaOverrun"),
    )
    inhibited = {
        "same operation",
        "same operation, late",
        "late and over its estimate",
        "stalled and over its estimate",
    }
    poll(lambda: {case for case, state in real.inhibited().items() if state} == inhibited, what="inhibition")
    assert len(real.inhibited()) == 13
