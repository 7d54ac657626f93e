"""A runtime and the command line with a Redis journal."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.errors import MissingExtraError
from otel_progress.journal import open_journal
from otel_progress.testing import recording
from tests.support.cli_process import finish, start
from tests.support.command_line import run
from tests.support.redis_servers import RedisServer, create_name


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """URL of an empty journal."""
    return f"{redis_server.url}?name={create_name()}"


@pytest.mark.server
@pytest.mark.parametrize(("previews", "expected"), [("auto", "in the memory"), ("folder", "in a folder")])
def test_previews_that_other_machines_cannot_read_are_reported_once(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, previews: str, expected: str
) -> None:
    """The control with a file as journal is silent."""
    caplog.set_level(logging.WARNING, logger="otel_progress")
    setting = previews if previews == "auto" else str(tmp_path / "previews")
    for store in (f"sqlite:///{tmp_path}/p.db", url):
        with recording(store=store, previews=setting, preview_at="always") as recorder:
            for name in ("one", "two"):
                with progress.operation("job", id=name) as operation:
                    operation.preview(f"text of {name}")
                    assert recorder.runtime.force_flush(60.0)
    texts = [
        each.getMessage() for each in caplog.records if "shared by several machines" in each.getMessage()
    ]
    assert len(texts) == 1
    assert expected in texts[0]
    assert "s3://" in texts[0]


@pytest.mark.server
def test_operation_of_a_runtime_is_read_by_commands(url: str) -> None:
    """List, history, deletion and doctor work with the store."""
    with recording(store=url) as recorder, progress.operation("job", id="job-1", total=2) as operation:
        operation.increment()
        assert recorder.runtime.force_flush(60.0)
        assert "job-1" in run("--store", url, "ls").stdout
    assert "job-1" in run("--store", url, "history").stdout
    checked = run("--store", url, "doctor")
    assert "version" in checked.stdout
    assert "1 finished" in checked.stdout
    assert run("--store", url, "rm", "job-1").exit_code == 0
    assert "job-1" not in run("--store", url, "history").stdout


def test_doctor_of_missing_server_names_the_fix_without_credentials() -> None:
    """It is one problem."""
    checked = run("--store", "redis://user:S3cret@127.0.0.1:1/0", "doctor")
    assert checked.exit_code == 1
    assert checked.stdout.count("cannot be reached") == 1
    assert "S3cret" not in checked.output
    assert "user:" not in checked.output


def test_store_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL is checked first."""
    monkeypatch.setattr("otel_progress.journal.registry.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"otel-progress\[redis\]"):
        open_journal("redis://localhost")


@pytest.mark.process
def test_configuration_does_not_import_the_package() -> None:
    """It takes more than 100 ms, so the thread of the sink imports it."""
    code = (
        "import sys, otel_progress as p; "
        "r = p.configure(store='redis://127.0.0.1:1/0', console=False, otlp=False); "
        "assert 'redis' not in sys.modules; r.shutdown()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.server
@pytest.mark.process
def test_watch_command_survives_a_restart_of_the_server(own_server: RedisServer) -> None:
    """It reports the outage once, and shows the end."""
    with recording(store=own_server.url) as recorder:
        with progress.operation("job", id="job-1", total=2) as operation:
            operation.increment()
            assert recorder.runtime.force_flush(60.0)
            command = start(own_server.url, "watch", "job-1", "--json", "--exit-status")
            try:
                assert command.stdout is not None
                assert command.stderr is not None
                assert '"job-1"' in command.stdout.readline()
                own_server.kill()
                assert "Trying again" in command.stderr.readline()
                own_server.start()
            except BaseException:
                command.kill()
                raise
        for _ in range(2):
            # The second time, everything is written again, because the server lost its data.
            assert recorder.runtime.force_flush(60.0)
        output, errors = finish(command)
    for pipe in (command.stdout, command.stderr):
        pipe.close()
    assert command.returncode == 0, errors
    assert '"completed"' in output
    assert "Trying again" not in errors
