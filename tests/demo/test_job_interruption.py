"""The demo where it is disturbed: ports that others have, and Ctrl-C in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress.demo import job, run
from otel_progress.model import Status
from tests.support.demo_journal import PATIENCE_S, kept


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_a_taken_port_is_worked_around(
    store: str, tree: Path, taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When another process has the usual port, metrics are served on a free one, and the address says which."""
    monkeypatch.setattr(job, "PORT", taken)
    assert run(str(tree), store=store, console=False) == 0
    err = capsys.readouterr().err
    assert "curl http://127.0.0.1:" in err
    assert f":{taken}/" not in err


def test_a_port_that_is_taken_at_the_last_moment_is_worked_around(
    store: str, tree: Path, taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When both usual ports were free and another process is first all the same, free ones serve; one that was set does not give way."""
    monkeypatch.setattr(job, "_choose_port", lambda wanted, host, usual: taken if wanted is None else wanted)
    assert run(str(tree), store=store, console=False) == 0
    err = capsys.readouterr().err
    assert "curl http://127.0.0.1:" in err
    assert f":{taken}/" not in err
    assert run(str(tree), store=store, prometheus_port=taken, server_port=0, console=False) == 2
    assert f"Port {taken} of 127.0.0.1 is in use" in capsys.readouterr().err


INTERRUPTED = """
import sys, threading
from otel_progress.demo import measure, run

def measured(data, name):
    print("measuring", flush=True)
    threading.Event().wait()

measure.measure = measured
sys.exit(run(sys.argv[1], store=sys.argv[2], prometheus_port=0))
"""
"""A survey that stands still at its first file, where the signal can come at any later time."""


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a terminal does")
def test_interrupt_ends_it_as_cancelled(tree: Path, store: str) -> None:
    """Ctrl-C in the middle: exit code 130, a word about it, no traceback, and the journal says cancelled."""
    command = [sys.executable, "-c", INTERRUPTED, str(tree), store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "measuring\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert "Traceback" not in said
    operation = kept(store)
    assert (operation.status, operation.message) == (Status.CANCELLED, "KeyboardInterrupt")
