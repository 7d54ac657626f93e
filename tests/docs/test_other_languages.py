"""The programs of the page on other languages, sent to a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from otel_progress.journal import SqliteJournal
from otel_progress.model import Status
from otel_progress.receivers.receiver import Receiver
from tests.support.documents import PROJECT, blocks
from tests.support.server_threads import threads_end
from tests.support.servers import REQUIRED, require

if TYPE_CHECKING:
    from otel_progress.server.uvicorn_server import Server

pytestmark = pytest.mark.docs

PAGE = PROJECT / "docs" / "how-to" / "other-languages.md"
VERSIONS = {
    "@opentelemetry/api": "1.9.1",
    "@opentelemetry/api-logs": "0.223.1",
    "@opentelemetry/sdk-logs": "0.223.1",
    "@opentelemetry/exporter-logs-otlp-http": "0.223.1",
    "@opentelemetry/resources": "2.12.1",
}
TIMEOUT_S = 240


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """An empty journal."""
    with closing(SqliteJournal(tmp_path / "progress.db")) as journal:
        yield journal


@pytest.fixture
def server(journal: SqliteJournal) -> Iterator[Server]:
    """A server that receives OTLP on two ports."""
    from otel_progress.server.uvicorn_server import Server

    with (
        threads_end(),
        Server(journal, port=0, otlp_port=0, receiver=Receiver(journal)) as server,
    ):
        yield server


def write_file(folder: Path, name: str) -> Path:
    """Write the file of the page into a folder."""
    (text,) = [block.text for block in blocks(PAGE) if block.file == name]
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without OpenTelemetry settings and proxies."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and not name.lower().endswith("_proxy")
    }
    return subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
def test_javascript_program_with_the_sdk_is_shown(
    server: Server, journal: SqliteJournal, tmp_path: Path
) -> None:
    """It uses the SDK of npm and documented attributes only."""
    write_file(tmp_path, "progress.mjs")
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    packages = [f"{name}@{version}" for name, version in VERSIONS.items()]
    # Why not the proxy-free environment: npm may need a proxy.
    installed = subprocess.run(
        [require("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if installed.returncode and os.environ.get(REQUIRED) != "1":
        pytest.skip("npm cannot install the SDK: there may be no network")
    assert installed.returncode == 0, installed.stderr
    endpoint = server.otlp_url
    assert endpoint is not None
    assert endpoint != server.url.rstrip("/")
    done = run(tmp_path, require("node"), "progress.mjs", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    (operation,) = journal.history()
    assert (operation.operation_id, operation.operation_type) == ("clip-7", "encode")
    assert (operation.status, operation.root.current, operation.root.total) == (Status.COMPLETED, 240, 240)
    assert (operation.ratio, operation.root.info.unit, operation.message) == (1.0, "frame", None)
    assert operation.instance is not None
    assert operation.instance.service == "encoder"
    (record,) = journal.logs("clip-7")
    assert (record.severity, record.message, record.logger) == (20, "no audio", "encoder")


def test_curl_is_answered_and_shown(server: Server, journal: SqliteJournal, tmp_path: Path) -> None:
    """Also on the port of the page."""
    write_file(tmp_path, "events.json")
    (command,) = [block.text for block in blocks(PAGE) if block.text.startswith("curl ")]
    for url in (server.otlp_url, server.url.rstrip("/")):
        sent = command.replace("http://127.0.0.1:4318", str(url)).strip()
        assert sent != command.strip()
        done = run(tmp_path, require("sh"), "-c", sent.replace("curl ", "curl -s ", 1))
        assert (done.returncode, done.stdout) == (0, "{}"), done.stderr
    (operation,) = journal.active()
    assert (operation.operation_id, operation.root.current, operation.root.total) == ("backup-7", 80, 240)


@pytest.mark.slow
def test_java_program_is_shown(server: Server, journal: SqliteJournal, tmp_path: Path) -> None:
    """It needs no library."""
    write_file(tmp_path, "Progress.java")
    java = shutil.which("java")
    if java is None:
        pytest.skip("java is not installed")
    done = run(tmp_path, java, "Progress.java", OTEL_EXPORTER_OTLP_ENDPOINT=str(server.otlp_url))
    if done.returncode and "compiler" in done.stderr:
        pytest.skip("this Java has no compiler")
    assert done.returncode == 0, done.stderr
    (operation,) = journal.history()
    assert (operation.operation_id, operation.root.current, operation.ratio) == ("import-7", 100, 1.0)
