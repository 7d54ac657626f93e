"""The promise of the first page, with real processes: one works, others look on, and nothing is shared but the machine."""

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
"""How long anything here may take, on however busy a machine."""

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
    """The environment of every process here: a machine of its own as far as state goes, and no setting of ours."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and name != "COLUMNS"
    }
    return {**ours, "XDG_STATE_HOME": str(tmp_path)}


@pytest.fixture
def worker(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A worker that stands still half-way until a line comes in."""
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


def look(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a second terminal would."""
    command = [sys.executable, "-m", "otel_progress", *arguments]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def get(url: str) -> str:
    """Return what an address of this machine answers, whatever proxy the environment names."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read()).decode()


def reach_half(worker: subprocess.Popen[str]) -> str:
    """Wait until the worker stands still; return the address of its metrics."""
    assert worker.stdout is not None
    url = worker.stdout.readline().strip()
    assert worker.stdout.readline() == "half-way\n"
    return url


def documents(environ: dict[str, str], *arguments: str) -> list[dict[str, object]]:
    """Return the operations a command prints as JSON."""
    done = look(environ, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["operations"]
    return found


def test_a_second_terminal_sees_the_work(worker: subprocess.Popen[str], environ: dict[str, str]) -> None:
    """ls, show, watch and the gauges tell the same while it runs; history has it when it is over."""
    url = reach_half(worker)
    poll(lambda: [o["ratio"] for o in documents(environ, "ls")] == [0.85], what="last tick in the journal")
    shown = look(environ, "show", "friday-42").stdout
    for text in ("Friday setlist", "85%", "1/2", "nightly", "audio096.wav", "no such file", "Executing"):
        assert text in shown
    assert "Friday setlist" in look(environ, "watch", "--once").stdout
    metrics = get(url)
    assert (
        'progress_operation_ratio{operation_id="friday-42",operation_type="setlist_processing"} 0.85'
        in metrics
    )
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    assert worker.wait(TIMEOUT_S) == 0
    ended = documents(environ, "history")
    assert [(o["name"], o["status"], o["ratio"]) for o in ended] == [
        ("checksum", "completed", 1.0),
        ("Friday setlist", "completed", 1.0),
    ]
    assert look(environ, "ls").stdout.count("\n") <= 1


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_worker_is_abandoned(worker: subprocess.Popen[str], environ: dict[str, str]) -> None:
    """After SIGKILL everything up to the last tick is there, and readers say that nobody works on it any more."""
    reach_half(worker)
    poll(lambda: [o["ratio"] for o in documents(environ, "ls")] == [0.85], what="last tick in the journal")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    [abandoned] = documents(environ, "ls")
    assert (abandoned["status"], abandoned["condition"], abandoned["ratio"]) == ("running", "abandoned", 0.85)
    assert abandoned["remaining_seconds"] is None
    assert "abandoned" in look(environ, "show", "friday-42").stdout
