"""Shutdown of the demo worker while several threads work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack.files import DEPLOY

pytestmark = pytest.mark.stack

FILES = 20
"""Files per package and thread. A thread that is not interrupted processes all of them."""
INTERRUPTED = """
import json, os, signal, sys, threading
from pathlib import Path
import otel_progress as progress
from otel_progress.demo.sources import Root
from otel_progress.testing import wait_until
import worker

done, told = [], threading.Event()
compress, request = worker.bz2.compress, progress.request_cancel

def noted(data, level):
    done.append(1)
    told.wait(60) or told.set()  # nobody asks for a stop: they all go on to the end
    return compress(data, level)

def requested(*arguments):
    asked = request(*arguments)
    told.set()
    return asked

worker.bz2.compress, progress.request_cancel = noted, requested

def interrupt():
    wait_until(lambda: len(done) == 2, timeout=60)
    if sys.argv[3] == "process":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        # The wait of the main thread continues, as after a signal that arrives just before it.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with progress.configure(console=False, store=f"sqlite:///{sys.argv[2]}"):
    threading.Thread(target=interrupt).start()
    try:
        worker.compress([Root(Path(sys.argv[1]))])
    except KeyboardInterrupt:
        pass
    (ended,) = progress.get_history()
    print(json.dumps({"status": ended.status.value, "files": len(done)}))
"""


@pytest.mark.parametrize("receiver", ["process", "thread"])
def test_worker_with_signal_stops_threads_between_files(tmp_path: Path, receiver: str) -> None:
    """Ctrl-C and SIGTERM cancel the work before the running packages are complete."""
    sources = tmp_path / "sources"
    for package in ("a", "b"):
        folder = sources / package
        folder.mkdir(parents=True)
        for number in range(FILES):
            (folder / f"m{number}.py").write_text("x = 1\n", encoding="ascii")
    path = os.pathsep.join((str(DEPLOY / "worker"), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", INTERRUPTED, str(sources), str(tmp_path / "journal.db"), receiver]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert ended["status"] == "cancelled"
    assert 0 < ended["files"] < FILES
