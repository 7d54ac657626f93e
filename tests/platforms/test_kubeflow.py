"""Kubeflow: the status of a TrainJob over TLS."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress.model import Eta, Status
from otel_progress.platforms.kubeflow import KubeflowPlatform, build_status
from otel_progress.platforms.report import EndedOperations, build_report
from otel_progress.platforms.reporter import PlatformError
from tests.support.factories import CLOCK, ended, operation, snapshot
from tests.support.platform_servers import ReportServer, make_certificate, receiving_reports

TOKEN = "eyJhbGciOi.first"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate of an authority of its own."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: tuple[Path, ssl.SSLContext]) -> Iterator[ReportServer]:
    """The server of the controller."""
    with receiving_reports(certificate[1]) as received:
        yield received


@pytest.fixture
def environ(server: ReportServer, certificate: tuple[Path, ssl.SSLContext], tmp_path: Path) -> dict[str, str]:
    """Variables of a pod."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return {
        "KUBEFLOW_TRAINER_SERVER_URL": f"{server.url}/status",
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(certificate[0]),
        "KUBEFLOW_TRAINER_SERVER_TOKEN": str(tmp_path / "token"),
    }


def read_statuses(server: ReportServer) -> list[dict[str, Any]]:
    """Return the received statuses."""
    return [json.loads(body)["trainerStatus"] for _, body, _ in server.requests]


def test_training_is_reported_with_its_metrics_and_its_end(
    server: ReportServer, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with (
        progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="auto"),
        progress.operation("training", total=4) as op,
    ):
        op.update(current=1, loss=0.25, model="tiny", done=True)
        progress.flush()
        server.wait_for(1)
        op.update(current=4)
    first, last = read_statuses(server)[0], read_statuses(server)[-1]
    assert first.keys() >= {"lastUpdatedTime"}
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    assert last["metrics"] == [{"name": "loss", "value": "0.25"}]
    path, _, headers = server.requests[-1]
    assert path == "/status"
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_token_is_read_again_for_each_report(
    server: ReportServer, environ: dict[str, str], tmp_path: Path
) -> None:
    platform = KubeflowPlatform(environ)
    platform.send(build_report([operation(snapshot(ratio=0.1))], EndedOperations()))
    (tmp_path / "token").write_text("second")
    platform.send(build_report([operation(snapshot(ratio=0.1))], EndedOperations()))
    platform.send(build_report([operation(snapshot(ratio=0.2))], EndedOperations()))
    tokens = [headers["Authorization"] for _, _, headers in server.requests]
    assert tokens == [f"Bearer {TOKEN}", "Bearer second"]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (snapshot(), {}),
        (snapshot(ratio=0.4299), {"progressPercentage": 42}),
        (snapshot(ratio=1.0), {"progressPercentage": 99}),
        (ended(ratio=0.5), {"progressPercentage": 100, "estimatedRemainingSeconds": 0}),
        (
            ended(ratio=0.5, status=Status.FAILED),
            {"progressPercentage": 50, "estimatedRemainingSeconds": 0},
        ),
        (
            snapshot(ratio=0.5, eta=Eta(90.4, 80.0, 100.0, "ready", "rate", 0, CLOCK + 60.0)),
            {"progressPercentage": 50, "estimatedRemainingSeconds": 90},
        ),
    ],
)
def test_status_has_only_known_values(root: Any, expected: dict[str, int]) -> None:
    assert build_status(operation(root)) == expected


def test_untrusted_certificate_and_invalid_token_are_errors_without_secrets(
    environ: dict[str, str], tmp_path: Path, server: ReportServer
) -> None:
    report = build_report([operation(snapshot(ratio=0.1))], EndedOperations())
    other = tmp_path / "other"
    other.mkdir()
    untrusted = {**environ, "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(make_certificate(other)[0])}
    with pytest.raises(PlatformError, match="CERTIFICATE_VERIFY_FAILED") as untrusted_error:
        KubeflowPlatform(untrusted).send(report)
    assert server.requests == []
    (tmp_path / "token").write_bytes(b"line\nbreak")
    with pytest.raises(PlatformError, match="10 bytes") as token_error:
        KubeflowPlatform(environ).send(report)
    (tmp_path / "token").unlink()
    with pytest.raises(PlatformError, match="No such file"):
        KubeflowPlatform(environ).send(report)
    for error in (untrusted_error, token_error):
        assert TOKEN not in str(error.value)
        assert "line" not in str(error.value)


def test_rejected_token_is_logged_once_without_it(
    server: ReportServer,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    server.status = 401
    with (
        caplog.at_level(logging.DEBUG, logger="otel_progress"),
        progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to=["kubeflow"]),
    ):
        list(progress.track(range(3)))
        server.wait_for(1)
    assert caplog.text.count("HTTP status 401") == 1
    assert TOKEN not in caplog.text
