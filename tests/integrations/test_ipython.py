"""Progress in IPython on a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyte
import pytest

pytest.importorskip("IPython", reason="IPython is not installed")
pytest.importorskip("termios", reason="no terminals of this kind on this platform")
terminal_process = pytest.importorskip("tests.support.terminal_process")

pytestmark = pytest.mark.process

CELLS = (
    "import time, otel_progress as progress",
    "r = progress.configure(service_name='a', store='memory:')",
    "op = progress.operation('long', 'Background', total=4).start()",
    "for n in progress.track(range(8), 'rows'): time.sleep(0.2)",
    "print('printed', 6 * 7)",
    "progress.configure(service_name='b', store='memory:') is r",
    "with progress.operation('other', 'After it'): pass",
)


def test_bars_leave_the_prompt_alone_and_configure_can_be_repeated(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR"}}
    environ.update(TERM="xterm-256color", OTEL_PROGRESS_CONSOLE="auto", IPYTHONDIR=str(tmp_path))
    command = [sys.executable, "-W", "ignore", "-m", "IPython", "--no-banner", "--colors=NoColor"]
    command += ["--simple-prompt", "--no-confirm-exit"]
    with terminal_process.TerminalProcess(command, environ, tmp_path, rows=40) as process:
        for number, cell in enumerate(CELLS, 1):
            process.wait_for(f"In [{number}]: ")
            process.press(f"{cell}\n")
        process.wait_for(f"In [{len(CELLS) + 1}]: ")
        process.press("exit\n")
        assert process.finish() == 0
        screen = pyte.Screen(80, 40)
        pyte.ByteStream(screen).feed(process.output)
        text = "\n".join(line.rstrip() for line in screen.display)
    assert "●" in process.output.decode("utf-8", "replace"), "a frame was drawn"
    for number, cell in enumerate(CELLS, 1):
        # A permanent line may be shown between the prompt and the input, on a line of its own.
        assert f"\nIn [{number}]:" in text
        assert f"{cell}\n" in text
    assert "\nprinted 42\n" in text
    assert "Out[6]: False" in text
    assert "✓ track rows completed 8/8" in text
    assert "■ long Background cancelled" in text
    assert "✓ other After it completed" in text
    assert screen.margins is None
