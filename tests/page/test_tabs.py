"""Tabs of one browser share a stream, which is closed while all are hidden."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.api_server import get
from tests.support.browser import Serving, Tab
from tests.support.servers import poll

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

TABS = 10
HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange'));
}"""
"""Headless tabs are always visible."""
WITHOUT = {
    "worker": "",
    "leader": "delete window.SharedWorker",
    "own": "delete window.SharedWorker; delete window.BroadcastChannel",
}
"""Script that removes features of the browser, by the place of the stream's host."""


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A server of its own, because the tests count its clients.

    The parameter is the time without an advance after which operations are stalled, in seconds.
    """
    store = f"sqlite:///{tmp_path}/journal.db"
    serving = Serving(store, tmp_path / "serve.log")
    try:
        serving.start()
        with progress.configure(
            store=store, console=False, tick=0.05, stall_after=getattr(request, "param", 600.0)
        ):
            yield serving
    finally:
        serving.stop()


def count_clients(serving: Serving) -> float:
    """Return the number of open streams."""
    found = re.search(
        r'^progress_server_clients\{transport="sse"\} (\S+)$', get(f"{serving.url}metrics").text, re.M
    )
    return 0.0 if found is None else float(found[1])


def start_operations() -> list[progress.Level]:
    """Start one operation per tab, each with a level."""
    operations = []
    for number in range(TABS):
        operation = progress.operation("job", f"Job {number}", id=f"job-{number}", total=1_000).start()
        operation.level("part", "first", total=10).start().increment(3)
        operations.append(operation)
    return operations


def open_tabs(context: BrowserContext, serving: Serving, number: int) -> list[Page]:
    """Open tabs that each show another operation."""
    pages = []
    for position in range(number):
        page = context.new_page()
        page.goto(f"{serving.url}#/operations/job-{position}")
        pages.append(page)
    return pages


@pytest.mark.parametrize(
    ("place", "streams"),
    [
        ("worker", 1),
        pytest.param("leader", 1, marks=pytest.mark.slow),
        pytest.param("own", 3, marks=pytest.mark.slow),
    ],
)
def test_every_tab_receives_live_data(
    served: Serving, open_tab: Callable[..., Tab], place: str, streams: int
) -> None:
    """Also with operations open, and in a tab that opens later."""
    tab = open_tab()
    context = tab.page.context
    if WITHOUT[place]:
        context.add_init_script(WITHOUT[place])
    operations = start_operations()
    pages = open_tabs(context, served, streams if place == "own" else TABS)
    for step in (1, 2):
        for operation in operations:
            operation.increment(10)
        for page in pages:
            details = page.get_by_role("complementary")
            expect(details.locator(".hero .count")).to_have_text(f"{10 * step} of 1,000")
            expect(details.locator(".row.level")).to_have_count(1)
            expect(page.locator(".connection .word")).to_have_text("Live")
            expect(page.get_by_role("treeitem", name="Job 9, Running")).to_contain_text(
                f"{10 * step} of 1,000"
            )
    assert count_clients(served) == streams
    pages.pop(0).close()
    tab.page.goto(f"{served.url}#/operations/job-1")
    operations[1].increment(10)
    for page in (tab.page, pages[0]):
        expect(page.get_by_role("complementary").locator(".hero .count")).to_have_text("30 of 1,000")
    for page in (*pages, tab.page):
        page.close()
    poll(lambda: count_clients(served) == 0.0, what="end of the stream")
    for operation in operations:
        operation.cancel()


@pytest.mark.parametrize("place", ["worker", pytest.param("leader", marks=pytest.mark.slow)])
def test_stream_is_closed_while_all_tabs_are_hidden(
    served: Serving, open_tab: Callable[..., Tab], place: str
) -> None:
    """The first visible tab opens it again and shows the current state."""
    tab = open_tab()
    tab.page.close()
    context = tab.page.context
    if WITHOUT[place]:
        context.add_init_script(WITHOUT[place])
    operations = start_operations()
    first, second = open_tabs(context, served, 2)
    for page in (first, second):
        expect(page.locator(".connection .word")).to_have_text("Live")
    first.evaluate(HIDE, True)
    operations[1].increment(5)
    expect(second.get_by_role("complementary").locator(".hero .count")).to_have_text("5 of 1,000")
    # The server counts a closed stream until its next write.
    poll(lambda: count_clients(served) == 1.0, what="end of all streams but one")
    second.evaluate(HIDE, True)
    poll(lambda: count_clients(served) == 0.0, what="end of the stream")
    operations[1].increment(5)
    second.evaluate(HIDE, False)
    expect(second.get_by_role("complementary").locator(".hero .count")).to_have_text("10 of 1,000")
    expect(second.locator(".connection .word")).to_have_text("Live")
    assert count_clients(served) == 1.0
    for operation in operations:
        operation.cancel()


@contextmanager
def advancing(operation: progress.Level) -> Iterator[None]:
    """Count in a thread for the length of the block."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.2):
            operation.increment()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()
        operation.cancel()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
@pytest.mark.parametrize("served", [4.0], indirect=True)
@pytest.mark.parametrize("failure", ["killed", pytest.param("silent", marks=pytest.mark.slow)])
def test_disconnected_page_freezes_all_conditions(served: Serving, tab: Tab, failure: str) -> None:
    """Healthy work is not shown as stalled. The page reports the time of the failure."""
    operation = progress.operation("job", "Healthy", id="healthy").start()
    with advancing(operation):
        check_disconnection(served, tab, failure)


def check_disconnection(served: Serving, tab: Tab, failure: str) -> None:
    """Interrupt the server until the operation would be stalled."""
    page = tab.page
    page.goto(served.url)
    row = page.get_by_role("treeitem", name="Healthy, Running")
    expect(row).to_be_visible()
    process = served._process
    assert process is not None
    if failure == "killed":
        served.kill()
    else:
        process.send_signal(signal.SIGSTOP)
    try:
        expect(page.locator("main")).to_have_attribute("data-disconnected", "")
        expect(page.locator(".banner")).to_have_text(re.compile(r"^Disconnected since \d\d:\d\d:\d\d\. "))
        words = page.locator(".row.operation .chip").all_text_contents()
        elapsed = row.locator(".ends").text_content()
        done = row.locator(".count").text_content()
        # Longer than the operation may be without an advance.
        page.wait_for_timeout(6_000)
        assert page.locator(".row.operation .chip").all_text_contents() == words
        assert row.locator(".ends").text_content() == elapsed
        assert "Stalled" not in page.locator(".operations .tree").inner_text()
        tab.shoot(f"disconnected-{failure}")
    finally:
        if failure == "silent":
            os.kill(process.pid, signal.SIGCONT)
    if failure == "killed":
        served.start()
    expect(page.locator("main")).not_to_have_attribute("data-disconnected", "")
    expect(page.locator(".banner")).to_be_hidden()
    expect(row).to_be_visible()
    expect(row.locator(".count")).not_to_have_text(str(done))


def test_filters_of_an_address_replace_the_current_ones(served: Serving, tab: Tab) -> None:
    """An unknown filter is ignored. The details keep the filters of the list."""
    page = tab.page
    operations = start_operations()
    search = page.get_by_role("searchbox", name="Search operations")
    rows = page.locator(".operations .row.operation:visible")
    page.goto(f"{served.url}#/operations?q=job+3&show=active&sort=name")
    expect(rows).to_have_count(1)
    page.evaluate("location.hash = '#/operations?show=running'")
    expect(rows).to_have_count(TABS)
    expect(search).to_have_value("")
    expect(page.get_by_role("combobox", name="Order")).to_have_value("newest")
    expect(page.get_by_role("button", name=re.compile("^Running"))).to_have_attribute("aria-pressed", "true")
    page.evaluate("location.hash = '#/operations?show=nonsense'")
    expect(page.get_by_role("button", name=re.compile("^All"))).to_have_attribute("aria-pressed", "true")
    search.fill("job 4")
    expect(rows).to_have_count(1)
    page.evaluate("location.hash = '#/operations?q=job+5'")  # while the field has the focus
    expect(search).to_have_value("job 5")
    rows.first.click()
    assert page.url.endswith("#/operations/job-5?q=job+5")
    page.get_by_role("link", name="Batches").click()
    page.get_by_role("link", name="Operations").click()
    expect(search).to_have_value("job 5")
    page.evaluate("location.hash = '#/operations'")
    expect(search).to_have_value("")
    for operation in operations:
        operation.cancel()


@pytest.mark.parametrize(
    "id_",
    [
        "a/b",
        "..",
        "-1",
        *(pytest.param(id_, marks=pytest.mark.slow) for id_ in (".", "~", "%2F", "../x")),
    ],
)
def test_details_of_any_id_are_shown(served: Serving, tab: Tab, id_: str) -> None:
    """A browser removes such segments from the path of a request."""
    page = tab.page
    with progress.operation("job", "Odd id", id=id_, total=4) as operation:
        operation.level("part", "first").start()
        operation.item("one")
        page.goto(served.url)
        page.get_by_role("treeitem", name="Odd id, Running").click()
        details = page.get_by_role("complementary")
        expect(details.locator(".hero .count")).to_have_text("1 of 4")
        expect(details.locator(".row.level")).to_have_count(1)
        expect(details.locator(".recent .item")).to_have_count(1)
        exported = details.get_by_role("link", name="Export JSON").get_attribute("href")
        assert get(str(exported)).json()["operation_id"] == id_
