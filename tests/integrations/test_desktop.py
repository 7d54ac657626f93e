"""Progress dialogs of the documentation, with the real toolkits."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import PROJECT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.process]

PATIENCE_S = 120.0
PAGE = PROJECT / "docs" / "how-to" / "desktop.md"

QT_DRIVER = """
import json, sys, threading
import otel_progress as progress
import qt_dialog

threads, values = set(), []
show = qt_dialog.OperationDialog.show_progress
is_cancelled = sys.argv[1] == "cancel"

def show_progress(dialog, event, operation):
    threads.add(threading.current_thread() is threading.main_thread())
    show(dialog, event, operation)
    values.append(dialog.bar.value())
    if is_cancelled and operation.root.current > 10:
        dialog.button.click()

qt_dialog.OperationDialog.show_progress = show_progress
qt_dialog.main()
operation = progress.get_operation("export-1")
print(json.dumps([sorted(threads), values, operation.status.value]))
"""

TK_DRIVER = """
import json, sys, threading
import otel_progress as progress
import tk_dialog

threads, values = set(), []
show = tk_dialog.OperationDialog.show_progress
is_cancelled = sys.argv[1] == "cancel"

def show_progress(dialog, operation):
    threads.add(threading.current_thread() is threading.main_thread())
    show(dialog, operation)
    values.append(float(dialog.bar["value"]))
    if is_cancelled and operation.root.current > 10:
        dialog.button.invoke()

tk_dialog.OperationDialog.show_progress = show_progress
tk_dialog.main()
operation = progress.get_operation("export-1")
print(json.dumps([sorted(threads), values, operation.status.value]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the programs of the page."""
    for block in blocks(PAGE):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def display(tmp_path: Path) -> Iterator[str]:
    """A virtual X display."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("Xvfb is not installed: this test opens a window of Tk")
    reading, writing = os.pipe()
    command = [server, "-displayfd", str(writing), "-nolisten", "tcp", "-screen", "0", "800x600x24"]
    with (
        (tmp_path / "xvfb.log").open("wb") as log,
        subprocess.Popen(command, pass_fds=(writing,), stdout=log, stderr=log) as process,
    ):
        os.close(writing)
        try:
            with os.fdopen(reading) as numbers:
                number = numbers.readline()  # empty if it ended
            assert number, (tmp_path / "xvfb.log").read_text()
            yield f":{number.strip()}"
        finally:
            process.terminate()


def run(folder: Path, driver: str, way: str, **environ: str) -> tuple[list[bool], list[float], str]:
    (folder / "driver.py").write_text(driver, encoding="utf-8")
    state = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "driver.py", way],
        cwd=folder,
        env=state | {"XDG_STATE_HOME": str(folder / "state")} | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Why: Qt prints on its offscreen platform that it ignores hints.
    assert [line for line in done.stderr.splitlines() if not line.startswith("This plugin")] == []
    threads, values, status = json.loads(done.stdout)
    return threads, values, status


def assert_shown(result: tuple[list[bool], list[float], str], way: str) -> None:
    threads, values, status = result
    assert threads == [True]  # only the thread of the window
    assert values == sorted(values)
    if way == "complete":
        assert status == "completed"
        assert values[-1] == 100
        assert len(set(values)) > 3
    else:
        assert status == "cancelled"
        assert values[-1] < 100


@pytest.mark.parametrize("way", ["complete", "cancel"])
def test_qt_dialog_shows_progress_in_its_thread(way: str, folder: Path) -> None:
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("PySide6 is not installed: this test runs the real one")
    assert_shown(run(folder, QT_DRIVER, way, QT_QPA_PLATFORM="offscreen"), way)


@pytest.mark.parametrize("way", ["complete", "cancel"])
def test_tk_dialog_shows_progress_in_its_thread(way: str, folder: Path, display: str) -> None:
    if importlib.util.find_spec("tkinter") is None:
        pytest.skip("tkinter is not installed: this test runs the real one")
    assert_shown(run(folder, TK_DRIVER, way, DISPLAY=display), way)
