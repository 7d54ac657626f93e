"""The real thing: a worker stalls, Prometheus sees it, Alertmanager tells a webhook; work goes on, and it is told as resolved."""

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
"""An id that would break out of a query, a link or a template, if it could."""
LABELS = {"operation_id": ID, "operation_type": "backup"}
TOKEN = "of-the-end-to-end-test"
TELL_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A worker that is watched by everything that is shipped, and the webhook where its alerts arrive."""

    worker: subprocess.Popen[bytes]
    webhook: Webhook

    def told(self, name: str, status: str, path: str, **labels: str) -> dict[str, Any]:
        """Wait for an alert of that name and status, with these labels, on that path of the webhook, and return the first one."""

        def arrived() -> list[dict[str, Any]]:
            found = self.webhook.alerts(name, status, path)
            return [one for one in found if labels.items() <= one["labels"].items()]

        return poll(arrived, TELL_TIMEOUT_S, f"{status} {name} at {path}")[0]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Run a worker, the server over its journal, Prometheus, Alertmanager and a webhook."""
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


def test_from_a_worker_to_a_webhook(scene: Scene) -> None:
    """The watchdog arrives; stalled work is told once, with values and links, and as resolved; then the worker dies."""
    the_watchdog_arrives(scene)
    stalled_work_is_told(scene)
    assert scene.worker.stdin is not None
    scene.worker.stdin.write(b"go on\n")
    scene.worker.stdin.flush()
    its_end_is_told(scene)
    dies = time.time()
    scene.worker.send_signal(signal.SIGKILL)
    the_server_tells_that_nobody_works(scene, dies)


def the_watchdog_arrives(scene: Scene) -> None:
    """Check that the alert that always fires comes to its own receiver and to nobody else."""
    told = scene.told("ProgressWatchdog", "firing", "/watchdog")
    assert told["labels"] == {"alertname": "ProgressWatchdog", "severity": "none"}
    watchdogs = {
        path
        for path, message in scene.webhook.messages
        if message["groupLabels"]["alertname"] == "ProgressWatchdog"
    }
    assert watchdogs == {"/watchdog"}


def stalled_work_is_told(scene: Scene) -> None:
    """Check the alert: labels of the operation alone though two scrapes show it, values for people, links with the id."""
    told = scene.told("ProgressOperationStalled", "firing", "/alerts")
    assert told["labels"] == {"alertname": "ProgressOperationStalled", "severity": "warning", **LABELS}
    annotations = told["annotations"]
    assert annotations["summary"] == f"Operation {ID} (backup) is stalled"
    assert "it has not advanced for " in annotations["description"]
    assert annotations["description"].endswith("s and stands at 30%.")
    link = urlsplit(annotations["dashboard_url"])
    assert (link.scheme, link.netloc, link.path) == ("http", "127.0.0.1:3000", "/d/otel-progress-operation/")
    assert parse_qs(link.query) == {"var-operation_id": [ID], "from": ["now-6h"], "to": ["now"]}
    assert annotations["runbook_url"].endswith("/docs/runbook.md#progressoperationstalled")


def its_end_is_told(scene: Scene) -> None:
    """Check that the same alert is told as resolved, and that there was never a second one of it."""
    resolved = scene.told("ProgressOperationStalled", "resolved", "/alerts")
    assert resolved["labels"] == {"alertname": "ProgressOperationStalled", "severity": "warning", **LABELS}
    assert {alert["fingerprint"] for alert in scene.webhook.alerts("ProgressOperationStalled", "firing")} == {
        resolved["fingerprint"]
    }


def the_server_tells_that_nobody_works(scene: Scene, dies: float) -> None:
    """Check that a dead worker's operation, of which only the server still knows, is abandoned, not stalled; its target is down."""
    told = scene.told("ProgressOperationAbandoned", "firing", "/alerts/critical")
    assert told["labels"] == {"alertname": "ProgressOperationAbandoned", "severity": "critical", **LABELS}
    assert "Its process is gone" in told["annotations"]["description"]
    assert (
        scene.told("ProgressTargetDown", "firing", "/alerts", job="otel-progress-worker")["labels"]["reason"]
        == "down"
    )
    # Only what began after the death counts: a worker that the machine let wait for seconds was rightly called stalled before it.
    alerts = [
        alert
        for _, message in list(scene.webhook.messages)
        for alert in message["alerts"]
        if began(alert) > dies
    ]
    fired = {alert["labels"]["alertname"] for alert in alerts if alert["status"] == "firing"}
    assert {"ProgressOperationAbandoned"} <= fired <= {"ProgressOperationAbandoned", "ProgressTargetDown"}


def began(alert: dict[str, Any]) -> float:
    """Return since when an alert fires, in Unix seconds."""
    match = re.fullmatch(r"([^.Z+]+)(\.\d+)?(Z|[+-]\d\d:\d\d)", alert["startsAt"])
    assert match is not None, alert["startsAt"]
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)
