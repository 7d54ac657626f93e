"""Alerts from end to end: a worker stalls, and Alertmanager calls a webhook."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.alerting.fast_configuration import write_prometheus
from tests.support.alerting.servers import alertmanager, prometheus, serving_journal, working
from tests.support.alerting.webhook import Webhook
from tests.support.servers import poll

pytestmark = [pytest.mark.process, pytest.mark.server]

ID = 'nightly "42" \\ & ü {{ $value }}'
"""An id that tests the escaping in queries, links and templates."""
LABELS = {"operation_id": ID, "operation_type": "backup"}
TOKEN = "of-the-end-to-end-test"
ALERT_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A worker with the shipped monitoring, and the webhook that receives its alerts."""

    worker: subprocess.Popen[bytes]
    webhook: Webhook

    def wait_for_alert(self, name: str, status: str, path: str, **labels: str) -> dict[str, Any]:
        """Wait for an alert on a path of the webhook, and return the first one."""

        def arrived() -> list[dict[str, Any]]:
            found = self.webhook.alerts(name, status, path)
            return [one for one in found if labels.items() <= one["labels"].items()]

        return poll(arrived, ALERT_TIMEOUT_S, f"{status} {name} at {path}")[0]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Run a worker, a server, Prometheus, Alertmanager and a webhook."""
    store = f"sqlite:///{tmp_path / 'journal.db'}"
    with ExitStack() as stack:
        webhook = stack.enter_context(Webhook().serving())
        manager = stack.enter_context(alertmanager(tmp_path, webhook.port))
        worker, metrics = stack.enter_context(working(ID, store))
        token_file = tmp_path / "token"
        token_file.write_text(TOKEN)
        server = stack.enter_context(serving_journal(store, token_file, tmp_path))
        targets = {
            "otel-progress-worker": metrics,
            "otel-progress-server": server,
            "alertmanager": manager.port,
        }
        config = write_prometheus(tmp_path / "prometheus", targets, manager.port, TOKEN)
        stack.enter_context(prometheus(config, tmp_path))
        yield Scene(worker, webhook)


def test_alerts_of_stalled_and_dead_worker_arrive_at_the_webhook(scene: Scene) -> None:
    """The stall is reported and resolved, then the worker dies."""
    check_watchdog_arrives(scene)
    check_stalled_work_is_reported(scene)
    assert scene.worker.stdin is not None
    scene.worker.stdin.write(b"go on\n")
    scene.worker.stdin.flush()
    check_end_is_reported(scene)
    dies = time.time()
    scene.worker.send_signal(signal.SIGKILL)
    check_abandoned_is_reported(scene, dies)


def check_watchdog_arrives(scene: Scene) -> None:
    """Check that the watchdog arrives at its own receiver only."""
    alert = scene.wait_for_alert("ProgressWatchdog", "firing", "/watchdog")
    assert alert["labels"] == {"alertname": "ProgressWatchdog", "severity": "none"}
    watchdogs = {
        path
        for path, message in scene.webhook.messages
        if message["groupLabels"]["alertname"] == "ProgressWatchdog"
    }
    assert watchdogs == {"/watchdog"}


def check_stalled_work_is_reported(scene: Scene) -> None:
    """Check labels of the operation, formatted values and links with the id."""
    alert = scene.wait_for_alert("ProgressOperationStalled", "firing", "/alerts")
    assert alert["labels"] == {"alertname": "ProgressOperationStalled", "severity": "warning", **LABELS}
    annotations = alert["annotations"]
    assert annotations["summary"] == f"Operation {ID} (backup) is stalled"
    assert "it has not advanced for " in annotations["description"]
    assert annotations["description"].endswith("s and is at 30%.")
    link = urlsplit(annotations["dashboard_url"])
    assert (link.scheme, link.netloc, link.path) == ("http", "127.0.0.1:3000", "/d/otel-progress-operation/")
    assert parse_qs(link.query) == {"var-operation_id": [ID], "from": ["now-6h"], "to": ["now"]}
    assert annotations["runbook_url"].endswith("/docs/runbook.md#progressoperationstalled")


def check_end_is_reported(scene: Scene) -> None:
    """Check that the same alert is reported as resolved and was sent once."""
    resolved = scene.wait_for_alert("ProgressOperationStalled", "resolved", "/alerts")
    assert resolved["labels"] == {"alertname": "ProgressOperationStalled", "severity": "warning", **LABELS}
    assert {alert["fingerprint"] for alert in scene.webhook.alerts("ProgressOperationStalled", "firing")} == {
        resolved["fingerprint"]
    }


def check_abandoned_is_reported(scene: Scene, dies: float) -> None:
    """Check that the operation of a dead worker is abandoned and its target down."""
    alert = scene.wait_for_alert("ProgressOperationAbandoned", "firing", "/alerts/critical")
    assert alert["labels"] == {"alertname": "ProgressOperationAbandoned", "severity": "critical", **LABELS}
    assert "Its process is gone" in alert["annotations"]["description"]
    assert (
        scene.wait_for_alert("ProgressTargetDown", "firing", "/alerts", job="otel-progress-worker")["labels"][
            "reason"
        ]
        == "down"
    )
    # Why only alerts after the death: a worker that was delayed for seconds was correctly stalled.
    alerts = [
        alert
        for _, message in list(scene.webhook.messages)
        for alert in message["alerts"]
        if get_start_of_alert(alert) > dies
    ]
    fired = {alert["labels"]["alertname"] for alert in alerts if alert["status"] == "firing"}
    assert {"ProgressOperationAbandoned"} <= fired <= {"ProgressOperationAbandoned", "ProgressTargetDown"}


def get_start_of_alert(alert: dict[str, Any]) -> float:
    """Return the time since which an alert fires, in Unix seconds."""
    match = re.fullmatch(r"([^.Z+]+)(\.\d+)?(Z|[+-]\d\d:\d\d)", alert["startsAt"])
    assert match is not None, alert["startsAt"]
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)
