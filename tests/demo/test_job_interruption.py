"""Demo with used ports and with Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress.demo import job, run
from otel_progress.model import Status
from tests.support.configuration import occupy_port
from tests.support.demo_journal import PATIENCE_S, kept


@pytest.fixture
def used_port() -> Iterator[int]:
    """Port with a listening socket."""
    with occupy_port() as port:
        yield port


def test_demo_with_used_default_port_serves_on_free_port(
    store: str,
    tree: Path,
    used_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(job, "PORT", used_port)
    assert run(str(tree), store=store, console=False) == 0
    err = capsys.readouterr().err
    assert "curl http://127.0.0.1:" in err
    assert f":{used_port}/" not in err


def test_demo_with_port_used_after_check_serves_on_free_port(
    store: str,
    tree: Path,
    used_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A used port of the settings is left out with a warning."""
    monkeypatch.setattr(
        job, "_choose_port", lambda configured, *_: used_port if configured is None else configured
    )
    assert run(str(tree), store=store, console=False) == 0
    err = capsys.readouterr().err
    assert "curl http://127.0.0.1:" in err
    assert f":{used_port}/" not in err
    caplog.clear()
    assert run(str(tree), store=store, prometheus_port=used_port, server_port=0, console=False) == 0
    assert f":{used_port}/" not in capsys.readouterr().err
    assert f"Port {used_port} of 127.0.0.1 is in use" in caplog.text


INTERRUPTED = """
import sys, threading
from otel_progress.demo import measure, run

def block(data, name):
    print("measuring", flush=True)
    # Why a limit: a signal just before a wait without one does not end it.
    while True:
        threading.Event().wait(0.1)

measure.measure_source = block
sys.exit(run(sys.argv[1], store=sys.argv[2], prometheus_port=0))
"""
"""Program whose survey blocks at its first file until the signal."""


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a terminal does")
def test_demo_interrupted_exits_with_130_and_is_cancelled(tree: Path, store: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tree), store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "measuring\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Interrupted" in errors
    assert "Traceback" not in errors
    operation = kept(store)
    assert (operation.status, operation.message) == (Status.CANCELLED, "KeyboardInterrupt")
