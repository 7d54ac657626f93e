"""Progress in JupyterLab, in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import ARTIFACTS, held_port
from tests.support.servers import answers, poll, require

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore"),
]

PATIENCE_S = 120.0
"""Deadline of each step. The first start of the server and of the kernel may be slow."""
CELLS = (
    "import otel_progress as progress\n"
    'runtime = progress.configure(service_name="notebook", store="memory:")',
    'op = progress.operation("training", "Train <b>model</b>", total=4, unit="step").start()\nop.increment()',
    'op.increment()\nprint("another cell")',
    "op.increment(2)\nop.complete()\nprogress.flush()\nprogress.get_history()",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start JupyterLab with a notebook and yield its address."""
    place = held_port()
    port = place.getsockname()[1]
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "NB.ipynb").write_text(json.dumps(_build_notebook()), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    for name, value in (("HOME", "home"), ("IPYTHONDIR", "ipython"), ("JUPYTER_CONFIG_DIR", "config")):
        environ[name] = str(tmp_path / value)
    for name, value in (("JUPYTER_DATA_DIR", "data"), ("JUPYTER_RUNTIME_DIR", "runtime")):
        environ[name] = str(tmp_path / value)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--ServerApp.token=x", "--allow-root", f"--ServerApp.root_dir={folder}"]
    log = tmp_path / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environ, cwd=folder, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        poll(lambda: answers(f"{url}/api?token=x"), what="JupyterLab", timeout=PATIENCE_S)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE_S)
        place.close()


def _build_notebook() -> dict[str, Any]:
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _wait_for_text(output: Locator, is_expected: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not is_expected(text := " ".join(output.all_inner_texts())):
        assert time.monotonic() < deadline, text
        output.page.wait_for_timeout(100)
    return text


def test_table_is_updated_in_the_cell_of_its_start(lab: str, tmp_path: Path) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        # Why this address: the other one restores tabs of earlier sessions, which hide the cell.
        page.goto(f"{lab}/doc/tree/NB.ipynb?token=x")
        cells = page.locator(".jp-Notebook .jp-Cell")
        cells.nth(3).wait_for(timeout=1000 * PATIENCE_S)
        page.locator('[data-status="idle"]').first.wait_for(timeout=1000 * PATIENCE_S)
        outputs = [cells.nth(number).locator(".jp-OutputArea-output") for number in range(4)]
        cells.nth(0).click()
        for _ in range(2):
            page.keyboard.press("Shift+Enter")
        _wait_for_text(outputs[1], lambda text: "25%" in text)
        page.keyboard.press("Shift+Enter")
        text = _wait_for_text(outputs[1], lambda text: "50%" in text)
        assert "Train <b>model</b>" in text
        assert _wait_for_text(outputs[2], bool).strip() == "another cell"
        page.keyboard.press("Shift+Enter")
        _wait_for_text(outputs[1], lambda text: "✓" in text and "4/4 steps" in text)
        _wait_for_text(outputs[3], lambda text: "✓" in text)
        bars = page.locator('.jp-OutputArea-output [role="progressbar"]')
        assert bars.count() == 2
        box = bars.first.bounding_box()
        assert box is not None
        assert box["width"] > 100
        page.screenshot(path=Path(os.environ.get(ARTIFACTS) or tmp_path) / "jupyterlab.png")
        browser.close()
