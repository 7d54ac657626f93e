"""Signals as a queue, on systems that report the sender and on others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from otel_progress.runner.process_tree import find_descendants
from otel_progress.testing import wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]

PROGRAM = """
import os, signal, sys
from otel_progress.runner.signals import SignalQueue

signal.signal(signal.SIGUSR1, signal.SIG_IGN)
before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
with SignalQueue(has_sender=sys.argv[1] == "True") as queue:
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGWINCH):
        os.kill(os.getpid(), number)
    received = [queue.wait(1.0) for _ in range(3)]
    print(sorted(signal.Signals(each.number).name for each in received))
    print({each.is_from_terminal for each in received})
    print(queue.wait(0.0), sorted(queue.original_mask))
    os.kill(os.getpid(), signal.SIGTERM)
    queue.discard()
print(before == (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


@pytest.mark.parametrize("has_sender", [hasattr(signal, "sigtimedwait"), False])
def test_queue_returns_signals_that_are_not_ignored(has_sender: bool) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(has_sender)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "['SIGINT', 'SIGTERM', 'SIGWINCH']",
        "{False}" if has_sender else "{None}",
        "None []",
        "True",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_descendants_of_process_are_found() -> None:
    script = "sh -c 'sleep 300 & wait' & wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        wait_until(lambda: len(find_descendants(process.pid)) == 2, timeout=60.0)
        child, grandchild = find_descendants(process.pid)
        assert find_descendants(child) == [grandchild]
        os.killpg(process.pid, signal.SIGKILL)
    assert process.pid not in find_descendants(os.getpid())
