"""The React component of the documents runs in a browser, with React from npm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import otel_progress as progress
from tests.support.documents import PROJECT, blocks
from tests.support.servers import REQUIRED, require

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

COMPONENT = PROJECT / "docs" / "how-to" / "react.md"
PACKAGES = ("react@19.3.1", "react-dom@19.3.1", "esbuild@0.28.2")
INSTALL_TIMEOUT_S = 120
TIMEOUT_MS = 30_000
MAIN = """
import * as React from "react";
import { createRoot } from "react-dom/client";
import { Backup } from "./backup.jsx";

window.reactVersion = React.version;
createRoot(document.getElementById("root")).render(<Backup id="backup-7" />);
"""
PAGE = (
    '<!doctype html><html lang="en"><title>t</title><div id="root"></div>'
    '<script type="module">{}</script></html>'
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The component of the document and a page, bundled as the document describes."""
    npm, folder = require("npm"), tmp_path_factory.mktemp("react")
    (component,) = [block.text for block in blocks(COMPONENT) if block.language == "jsx"]
    (folder / "package.json").write_text("{}", encoding="utf-8")
    (folder / "backup.jsx").write_text(component, encoding="utf-8")
    (folder / "main.jsx").write_text(MAIN, encoding="utf-8")
    done = _run(folder, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES)
    if done.returncode and os.environ.get(REQUIRED) != "1":
        pytest.skip("npm cannot install React: there may be no network")
    assert done.returncode == 0, done.stderr
    esbuild = folder / "node_modules" / "esbuild" / "bin" / "esbuild"
    arguments = ("--bundle", "--format=esm", "--jsx=automatic", "--external:/static/*", "--outfile=bundle.js")
    done = _run(folder, require("node"), str(esbuild), "main.jsx", *arguments)
    assert done.returncode == 0, done.stderr
    return (folder / "bundle.js").read_text(encoding="utf-8")


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of the system."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: it drives the browser"
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=require("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def test_react_component_with_running_operation_shows_each_change(
    bundle: str, browser: Browser, tmp_path: Path
) -> None:
    """The component renders the percentage and calls ``onComplete`` at the end."""
    runtime = progress.configure(
        store=f"sqlite:///{tmp_path / 'journal.db'}", console=False, server_port=0, tick=0.05
    )
    with runtime:
        job = progress.operation("backup", id="backup-7", total=4).start()
        job.increment()
        page: Any = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        html = PAGE.format(bundle.replace("</script", "<\\/script"))
        page.route(
            "**/react.html", lambda route: route.fulfill(content_type="text/html; charset=utf-8", body=html)
        )
        page.goto(f"{runtime.server_url}react.html")
        page.wait_for_selector("progress[value='25']")
        job.increment(message="half")
        page.wait_for_selector("progress[value='50'][title='half']")
        with page.expect_console_message(lambda message: message.text == "ended: completed"):
            job.increment(2)
            job.complete()
        page.wait_for_selector("progress[value='100']")
        assert page.evaluate("window.reactVersion") == PACKAGES[0].partition("@")[2]
        assert problems == []
        page.close()
