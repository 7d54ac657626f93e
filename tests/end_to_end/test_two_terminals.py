"""Example of the README with real processes: one records, others read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import poll

pytestmark = pytest.mark.process

TIMEOUT_S = 120.0
"""Time limit of each step, also on a busy machine."""

WORKER = """
import sys
import otel_progress as progress

runtime = progress.configure(service_name="nightly", prometheus_port=0, console=False)
print(runtime.metrics_url, flush=True)
songs = {"s1": ["intro", "verse"], "s2": ["intro", "solo"]}
with progress.operation("setlist_processing", "Friday setlist", id="friday-42", total=len(songs)) as op:
    for song, actions in songs.items():
        with op.level("song", song, song.upper(), total=len(actions)) as level:
            for action in actions:
                with level.level("action", action, action) as step:
                    step.update(current=3, total=10, message="Executing", sample_rate=44100)
                    if (song, action) == ("s2", "solo"):
                        step.item("audio096.wav", outcome="failed", error="no such file")
                        print("half-way", flush=True)
                        sys.stdin.readline()
for path in progress.track(["a", "b"], "checksum"):
    pass
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Environment of each process, with its own state directory and without settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and name != "COLUMNS"
    }
    return {**inherited, "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def worker(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Process that pauses half-way until it receives a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def run_cli(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as in a second terminal."""
    command = [sys.executable, "-m", "otel_progress", *arguments]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def get(url: str) -> str:
    """Return the response of a URL of this machine, without a proxy."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        url, timeout=TIMEOUT_S
    ) as response:
        return bytes(response.read()).decode()


def wait_until_half_way(worker: subprocess.Popen[str]) -> str:
    """Wait until the process pauses. Return the URL of its metrics."""
    assert worker.stdout is not None
    url = worker.stdout.readline().strip()
    assert worker.stdout.readline() == "half-way\n"
    return url


def list_operations(environ: dict[str, str], *arguments: str) -> list[dict[str, object]]:
    """Return the operations that a command prints as JSON."""
    result = run_cli(environ, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    operations: list[dict[str, object]] = json.loads(result.stdout)["operations"]
    return operations


def test_second_terminal_shows_active_operation_and_later_its_history(
    worker: subprocess.Popen[str], environ: dict[str, str]
) -> None:
    """Commands and metrics agree."""
    url = wait_until_half_way(worker)
    poll(
        lambda: [operation["ratio"] for operation in list_operations(environ, "ls")] == [0.85],
        what="last tick in the journal",
    )
    shown = run_cli(environ, "show", "friday-42").stdout
    for text in ("Friday setlist", "85%", "1/2", "nightly", "audio096.wav", "no such file", "Executing"):
        assert text in shown
    assert "Friday setlist" in run_cli(environ, "watch", "--once").stdout
    metrics = get(url)
    assert (
        'progress_operation_ratio{operation_id="friday-42",operation_type="setlist_processing"} 0.85'
        in metrics
    )
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert worker.wait(TIMEOUT_S) == 0
    ended = list_operations(environ, "history")
    assert [(operation["name"], operation["status"], operation["ratio"]) for operation in ended] == [
        ("checksum", "completed", 1.0),
        ("Friday setlist", "completed", 1.0),
    ]
    assert run_cli(environ, "ls").stdout.count("\n") <= 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_operation_of_killed_process_is_abandoned(
    worker: subprocess.Popen[str], environ: dict[str, str]
) -> None:
    """Its state of the last tick is in the journal."""
    wait_until_half_way(worker)
    poll(
        lambda: [operation["ratio"] for operation in list_operations(environ, "ls")] == [0.85],
        what="last tick in the journal",
    )
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    [abandoned] = list_operations(environ, "ls")
    assert (abandoned["status"], abandoned["condition"], abandoned["ratio"]) == ("running", "abandoned", 0.85)
    assert abandoned["remaining_seconds"] is None
    assert "abandoned" in run_cli(environ, "show", "friday-42").stdout
