"""Browser, server and tab fixtures. A tab fails its test on any page error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import otel_progress as progress
from tests.support.browser import Serving, Tab
from tests.support.servers import require

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--js-flags=--expose-gc",
]
TIMEOUT_MS = 30_000
"""Deadline for a change of the page, generous because the machine may be busy."""


# Not "session": its event loop occupies the thread, so asyncio.run() in other tests would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the Chromium of the system."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: it drives the browser"
    )
    binary = require("chromium")
    sync_api.expect.set_options(timeout=TIMEOUT_MS)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The journal that the shared server reads."""
    return f"sqlite:///{tmp_path_factory.mktemp('journal')}/journal.db"


@pytest.fixture(scope="session")
def shared(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for all tests that do not change it."""
    serving = Serving(store, tmp_path_factory.mktemp("server") / "serve.log")
    try:
        serving.start()
        yield serving
    finally:
        serving.stop()


@pytest.fixture
def site(shared: Serving, store: str) -> Iterator[str]:
    """The address of the shared server, while this process writes to its journal."""
    with progress.configure(
        service_name="page", store=store, console=False, resources=True, capture_logs=True, tick=0.05
    ):
        yield shared.url


@pytest.fixture
def open_tab(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Open tabs, each with its own profile. Options are those of a browser context."""
    tabs: list[Tab] = []
    contexts = []

    def make(**options: Any) -> Tab:
        context = browser.new_context(
            **{"viewport": {"width": 1360, "height": 860}, "locale": "en-GB", **options}
        )
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        tabs.append(Tab(context, tmp_path))
        return tabs[-1]

    yield make
    for context in contexts:
        context.close()
    assert [trouble for tab in tabs for trouble in tab.troubles] == []


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    """A tab of desktop size."""
    return open_tab()
