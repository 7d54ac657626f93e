"""Kubeflow Trainer: progress and remaining time in the status of the TrainJob.

``kubectl get trainjob`` shows them. The controller sets the variables of the pods.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from otel_progress.operations import OperationSnapshot
from otel_progress.platforms.http_client import post
from otel_progress.platforms.report import PlatformReport, get_percentage
from otel_progress.platforms.reporter import PlatformError
from otel_progress.semconv import SinkName
from otel_progress.text import truncate

URL: Final = "KUBEFLOW_TRAINER_SERVER_URL"


CA_CERT: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
"""Variable with the path of the certificate of the server's authority."""


TOKEN: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Variable with the path of the token, which changes while the pod runs."""


MAX_METRICS: Final = 50
"""Metrics in a report. Further ones are left out."""


MAX_TOKEN_BYTES: Final = 65_536
"""Bytes of the token that are read. A longer file is not a token."""


class KubeflowPlatform:
    """Sends the status to the server of the controller, at most every 5 seconds."""

    name: SinkName = "platforms.kubeflow"
    interval_s = 5.0
    is_always_active = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._url = environ[URL]
        self._ca_path = environ[CA_CERT]
        self._token_path = Path(environ[TOKEN])
        self._sent: object = None

    def send(self, report: PlatformReport) -> float | None:
        """Send the status, if it has changed."""
        if report.operation is None:
            return None
        status = build_status(report.operation)
        if status != self._sent:
            stamped = {**status, "lastUpdatedTime": _format_time(report.operation.read_at)}
            body = json.dumps({"trainerStatus": stamped}).encode()
            headers = {"Authorization": f"Bearer {self._read_token()}", "Content-Type": "application/json"}
            context = self._build_context()
            post("the server of Kubeflow", self._url, body, headers, context=context, uses_proxy=False)
            self._sent = status
        return None

    def _read_token(self) -> str:
        try:
            with self._token_path.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES + 1).strip()
        except OSError as error:
            msg = f"Invalid token file of Kubeflow ({error.strerror}): expected a token. Check its mount."
            raise PlatformError(msg) from None
        text = token.decode("ascii", "replace")
        if not token or len(token) > MAX_TOKEN_BYTES or not text.isascii() or not text.isprintable():
            msg = f"Invalid token file of Kubeflow ({len(token)} bytes): expected a token. Check its mount."
            raise PlatformError(msg)
        return text

    def _build_context(self) -> ssl.SSLContext:
        """Return the trust in the authority, whose file may change like the token."""
        try:
            return ssl.create_default_context(cafile=self._ca_path)
        except OSError as error:
            reason = error.strerror or "not a certificate"
            msg = f"Invalid certificate file of Kubeflow ({reason}): expected a PEM file. Check its mount."
            raise PlatformError(msg) from None


def build_status(operation: OperationSnapshot) -> dict[str, Any]:
    """Return the status of an operation without its time. Unknown values are left out."""
    status: dict[str, Any] = {}
    percentage = get_percentage(operation)
    if percentage is not None:
        status["progressPercentage"] = percentage
    remaining_s = 0.0 if operation.status.finished else operation.remaining_seconds
    if remaining_s is not None:
        status["estimatedRemainingSeconds"] = max(0, round(remaining_s))
    numbers = {
        name: value
        for name, value in operation.metadata.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if numbers:
        status["metrics"] = [
            {"name": truncate(name, 100), "value": repr(value)}
            for name, value in list(numbers.items())[:MAX_METRICS]
        ]
    return status


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
