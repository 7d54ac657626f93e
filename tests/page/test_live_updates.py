"""Live updates from start to end, across a server restart, in every condition."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from tests.support.browser import PATIENCE_S, Serving, Tab
from tests.support.servers import poll

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

WORKER = """
import sys
import otel_progress as progress

def resume(word):
    print(word, flush=True)
    sys.stdin.readline()

with progress.configure(service_name="nightly", store=sys.argv[1], console=False, tick=0.05):
    stages = {"download": 1, "render": 3}
    options = dict(id=sys.argv[2], stages=stages, customer="Blue Note")
    with progress.operation("setlist", "Friday setlist", **options) as op:
        resume("started")
        with op.stage("download") as stage:
            stage.set_total(4)
            stage.item("intro.wav")
            stage.item("solo.wav", outcome="failed", error=ValueError("no such take"))
            op.update(message="Fetching from the archive")
            resume("half-way")
            stage.increment(2)
        with op.stage("render") as stage:
            stage.set_total(1)
            stage.increment()
        resume("nearly")
"""


WORDS = """() => {
  window.words = [];
  const word = document.querySelector('.connection .word');
  const observer = new MutationObserver(() => words.push(word.textContent));
  observer.observe(word, {childList: true, characterData: true, subtree: true});
}"""
"""Records the words of the connection status, because restarted is shown for some seconds only."""


class Worker:
    """A process that runs to its next checkpoint per input line."""

    def __init__(self, store: str, operation_id: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        command = [sys.executable, "-c", WORKER, store, operation_id]
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_for(self, word: str) -> None:
        """Wait until the worker stops at a checkpoint."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def resume(self) -> None:
        """Let it work to the next place."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def worker(store: str, request: pytest.FixtureRequest) -> Iterator[Worker]:
    """A worker process that writes to the journal of the shared server."""
    made = Worker(store, f"friday-{request.node.name}")
    yield made
    made.close()


def test_run_is_shown_from_start_to_end(worker: Worker, shared: Serving, tab: Tab) -> None:
    """The list and the details follow it through stages and items without a reload."""
    page = tab.page
    page.goto(shared.url)
    expect(page.locator(".connection")).to_have_attribute("data-state", "live")
    worker.wait_for("started")
    row = page.get_by_role("treeitem", name="Friday setlist, Running")
    row.click()
    details = page.get_by_role("complementary")
    expect(details.get_by_role("heading", name="Friday setlist")).to_be_focused()
    worker.resume()
    worker.wait_for("half-way")
    card = details.locator(".card", has_text="download")
    expect(card.locator(".count")).to_have_text("2 of 4")
    expect(card).to_contain_text("1 failed")
    expect(card.locator(".item")).to_have_text(
        ["Failed: solo.wavValueError: no such take", "Completed: intro.wav"]
    )
    expect(details.locator(".message")).to_have_text("Fetching from the archive")
    expect(details.get_by_role("region", name="Metadata")).to_contain_text("Blue Note")
    expect(row).to_have_accessible_name(re.compile("Friday setlist, Running, 12.%, 0 of 2 stages"))
    tab.shoot("live-half-way")
    worker.resume()
    worker.wait_for("nearly")
    worker.resume()
    expect(details.locator(".chip")).to_have_text("Completed")
    expect(details.locator(".hero .percent")).to_have_text("100\u00a0%")
    expect(details.locator(".hero .left")).to_contain_text("took")
    assert worker.process.wait(PATIENCE_S) == 0


def test_server_restart_loses_no_state(tmp_path: Path, open_tab: Callable[..., Tab]) -> None:
    """The page reports a killed server and recovers with all operations that ended."""
    store = f"sqlite:///{tmp_path}/journal.db"
    runner, stays = Worker(store, "friday-restart"), Worker(store, "friday-stays")
    serving = Serving(store, tmp_path / "serve.log")
    try:
        runner.wait_for("started")
        stays.wait_for("started")
        serving.start()
        page = open_tab().page
        page.goto(serving.url)
        rows = page.get_by_role("treeitem", name="Friday setlist, Running")
        expect(rows).to_have_count(2)
        page.evaluate(WORDS)
        serving.kill()
        expect(page.locator(".connection .word")).to_have_text("Reconnecting…")
        expect(page.locator(".banner")).to_contain_text("Data as of")
        expect(rows).to_have_count(2)
        for word in ("half-way", "nearly"):
            runner.resume()
            runner.wait_for(word)
        runner.resume()
        assert runner.process.wait(PATIENCE_S) == 0
        with (
            progress.configure(store=store, console=False),
            progress.operation("job", "Brief job", id="brief"),
        ):
            pass
        serving.start()
        poll(
            lambda: "Live again: the server has restarted" in page.evaluate("words"),
            what="word of the restart",
        )
        expect(page.locator(".banner")).to_be_hidden()
        expect(page.get_by_role("treeitem", name="Friday setlist, Completed, 100")).to_have_count(1)
        expect(page.get_by_role("treeitem", name="Brief job, Completed")).to_have_count(1)
        expect(rows).to_have_count(1)
        stays.resume()
        stays.wait_for("half-way")
        expect(rows.locator(".note")).to_have_text("Fetching from the archive")
    finally:
        runner.close()
        stays.close()
        serving.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_conditions_have_distinct_words_and_reasons(worker: Worker, site: str, tab: Tab) -> None:
    """Abandoned, overdue, cancelling and failed each have a word, colour and reason."""
    worker.wait_for("started")
    page = tab.page
    page.goto(site)
    expect(
        page.locator(".row.operation", has_text="Friday setlist").filter(has_text="Running")
    ).to_be_visible()
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait(PATIENCE_S)
    late = progress.operation("report", "Quarterly report", id="c-late", total=4, deadline=0.001).start()
    asked = progress.operation("sync", "Photo sync", id="c-asked", total=4).start()
    broken = progress.operation("mail", "Digest", id="c-broken", total=4).start()
    broken.fail(ConnectionRefusedError("mail.example.org refused"))
    expect(page.get_by_role("treeitem", name="Photo sync, Running")).to_be_visible()
    page.goto(f"{site}#/operations/c-asked")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("dialog").get_by_role("button", name="Request cancel").click()
    expected = {
        "Friday setlist": ("Abandoned", "no longer sends heartbeats"),
        "Quarterly report": ("Overdue", "past its deadline"),
        "Photo sync": ("Cancelling", "Cancel requested"),
        "Digest": ("Failed", "ConnectionRefusedError: mail.example.org refused"),
    }
    colours = set()
    for name, (word, reason) in expected.items():
        row = (
            page.locator(".row.operation", has=page.get_by_text(name, exact=True)).filter(has_text=word).first
        )
        expect(row.locator(".chip")).to_have_text(word)
        expect(row.locator(".note")).to_contain_text(reason)
        colours.add(row.locator(".chip").evaluate("node => getComputedStyle(node).color"))
    tab.shoot("conditions")
    assert len(colours) == len(expected)
    assert poll(lambda: asked.cancel_requested, what="request to stop in the worker")
    for level in (late, asked):
        level.cancel()


@pytest.mark.slow
def test_operation_without_progress_is_shown_as_stalled(shared: Serving, store: str, tab: Tab) -> None:
    """The page detects it by its own clock, without any message."""
    page = tab.page
    with (
        progress.configure(service_name="page", store=store, console=False, tick=0.05, stall_after=2),
        progress.operation("transcode", "Lecture 12", id="still") as op,
    ):
        op.increment()
        page.goto(shared.url)
        row = page.locator(".row.operation", has=page.get_by_text("Lecture 12", exact=True))
        expect(row.locator(".chip")).to_have_text("Stalled")
        expect(row.locator(".note")).to_contain_text("No progress for")

        def is_running_after_an_advance() -> bool:
            op.increment()
            return row.locator(".chip").text_content() == "Running"

        poll(is_running_after_an_advance, what="the operation as running")
        expect(row.locator(".chip")).to_have_text("Stalled")


def test_unknown_total_shows_count_without_percentage(site: str, tab: Tab) -> None:
    """The bar has no value on screen and for screen readers."""
    with progress.operation("crawl", "Endless crawl", id="endless", unit="page") as op:
        op.increment(7)
        tab.page.goto(f"{site}#/operations/endless")
        details = tab.page.get_by_role("complementary")
        expect(details.locator(".hero .percent")).to_have_text("Total unknown")
        expect(details.locator(".hero .count")).to_have_text("7 pages")
        bar = details.get_by_role("progressbar", name="Progress of the operation")
        assert bar.get_attribute("aria-valuenow") is None
        assert bar.get_attribute("data-unknown") is not None
        row = tab.page.get_by_role("treeitem", name="Endless crawl, Running, unknown total, 7 pages")
        expect(row.locator(".percent")).to_have_text("–")
        tab.shoot("unknown-total")


def test_ended_operation_can_be_deleted(site: str, tab: Tab) -> None:
    """The page asks for confirmation, which can be declined."""
    with progress.operation("cleanup", "Old run", id="old-run"):
        pass
    page = tab.page
    page.goto(f"{site}#/operations/old-run")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    expect(page.get_by_role("treeitem", name="Old run")).to_be_visible()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("complementary")).to_be_hidden()
    expect(page.get_by_role("treeitem", name="Old run")).to_have_count(0)


def abandon(worker: Worker, page: Any, address: str, button: str) -> Any:
    """Open a running operation and kill its process. Return the details.

    They have ``button`` only after that.
    """
    worker.wait_for("started")
    page.goto(address)
    details = page.get_by_role("complementary")
    expect(details.locator(".chip").first).to_have_text("Running")
    expect(details.get_by_role("button", name=button)).to_be_hidden()
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait(PATIENCE_S)
    expect(details.locator(".chip").first).to_have_text("Abandoned")
    return details


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_abandoned_operation_can_be_deleted(
    worker: Worker, site: str, tab: Tab, request: pytest.FixtureRequest
) -> None:
    page = tab.page
    id_ = f"friday-{request.node.name}"
    details = abandon(worker, page, f"{site}#/operations/{id_}", "Delete…")
    details.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(details).to_be_hidden()
    assert page.request.get(f"{site}api/v1/operations/{id_}").status == 404


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_abandoned_operation_can_be_marked_as_failed(
    worker: Worker, site: str, tab: Tab, request: pytest.FixtureRequest
) -> None:
    """With the keyboard, with a reason, after the dialog was declined once."""
    page = tab.page
    id_ = f"friday-{request.node.name}"
    details = abandon(worker, page, f"{site}#/operations/{id_}", "Mark as failed…")
    button = details.get_by_role("button", name="Mark as failed…")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Mark this operation as failed?")
    expect(dialog.get_by_label("Reason (optional)")).to_be_focused()
    page.keyboard.type("declined")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    assert page.request.get(f"{site}api/v1/operations/{id_}").json()["status"] == "running"
    page.keyboard.press("Enter")
    page.keyboard.type("power failure <b>in</b> rack 4")
    tab.shoot("mark-as-failed-dialog")
    page.keyboard.press("Enter")
    expect(details.locator(".answer")).to_have_text("Marked as failed.")
    expect(details.locator(".chip").first).to_have_text("Failed")
    expect(details.get_by_role("region", name="Error")).to_contain_text("power failure <b>in</b> rack 4")
    expect(details.get_by_role("heading", name="Friday setlist")).to_be_focused()
    expect(button).to_be_hidden()
    expect(details.get_by_role("button", name="Cancel…")).to_be_hidden()
    expect(page.get_by_role("treeitem", name=re.compile("Friday setlist, Failed")).first).to_contain_text(
        "power failure"
    )
    tab.shoot("marked-as-failed")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_refused_mark_as_failed_shows_the_reason(
    worker: Worker, site: str, tab: Tab, request: pytest.FixtureRequest
) -> None:
    """The operation ended in another window, or the session has ended."""
    worker.wait_for("started")
    page = tab.page
    id_ = f"friday-{request.node.name}"
    address = f"{site}api/v1/operations/{id_}"
    page.goto(f"{site}#/operations/{id_}")
    details = page.get_by_role("complementary")
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait(PATIENCE_S)
    answer = details.locator(".answer")
    page.route("**/fail", lambda route: route.fulfill(status=401, body="{}"))
    details.get_by_role("button", name="Mark as failed…").click()
    page.get_by_role("dialog").get_by_role("button", name="Mark as failed").click()
    expect(answer).to_have_text("Not allowed: the session has ended. Reload the page to log in.")
    page.unroute("**/fail")
    details.get_by_role("button", name="Mark as failed…").click()
    assert page.request.post(f"{address}/fail", data={"reason": "first"}).status == 200
    page.get_by_role("dialog").get_by_role("button", name="Mark as failed").click()
    expect(answer).to_contain_text("has already ended (failed)")
    assert page.request.get(address).json()["error"]["message"] == "first"
    tab.troubles[:] = [trouble for trouble in tab.troubles if "409" not in trouble]


def test_logs_batches_and_history_are_shown(site: str, tab: Tab) -> None:
    with progress.operation("mix", "Mix-down", id="mix-1", total=2) as op:
        logging.getLogger("mix").warning("clipping in bar %d", 12)
        op.increment(2)
    with progress.batch("October", id="october", total=3) as batch:
        for number in range(3):
            handle = batch.operation("thumbnail", f"photo-{number}", id=f"photo-{number}", total=1).start()
            if number == 1:
                handle.fail(ValueError("not a picture"))
            else:
                handle.complete()
    page = tab.page
    page.goto(f"{site}#/operations/mix-1")
    expect(page.get_by_role("list", name="Log records")).to_contain_text("clipping in bar 12")
    page.goto(f"{site}#/batches")
    page.get_by_role("link", name="October").click()
    expect(page.locator(".batches .count").last).to_have_text("3 of 3 operations")
    expect(page.get_by_role("region", name="Failed")).to_contain_text("ValueError: not a picture")
    tab.shoot("batch")
    page.goto(f"{site}#/history?type=mix")
    line = page.get_by_role("row", name="Mix-down")
    expect(line).to_contain_text("Completed")
    expect(line.locator(".took")).to_have_text(re.compile(r"^\d\.\d s$"))


def test_early_end_and_failures_below_are_shown(site: str, tab: Tab) -> None:
    """In the list, the details and the history, with the given plural."""
    with progress.operation(
        "load", "Half import", id="early-1", total=1000, unit=("child", "children")
    ) as op:
        op.increment(5)
        with op.level("table") as table:
            for number in range(39):
                table.item(f"{number}", outcome="failed")
    tab.page.goto(f"{site}#/operations/early-1")
    row = tab.page.get_by_role("treeitem", name="Half import, Ended early, 0.5")
    expect(row).to_contain_text("5 of 1,000 children, 39 failed")
    details = tab.page.get_by_role("complementary")
    expect(details.locator(".hero .count")).to_have_text("5 of 1,000 children, 39 failed")
    expect(details.locator(".chip").first).to_have_text("Ended early")
    tab.page.goto(f"{site}#/history")
    line = tab.page.locator("tr", has_text="Half import")
    expect(line).to_contain_text("Ended early")
    expect(line).to_contain_text("5 of 1,000 children, 39 failed")


def test_evicted_levels_are_counted_below_their_parent(site: str, tab: Tab) -> None:
    """Finished tables stay in the list, also after their leaf levels were evicted."""
    page = tab.page
    with progress.operation("migration", "Evicting migration", id="evicting") as op:
        for table_number in range(3):
            with op.level("table", name=f"table_{table_number}") as table:
                for number in range(400):
                    with table.level("chunk") as chunk:
                        if (table_number, number) == (0, 7):
                            chunk.fail("unreadable")
                        if table_number == 1 and number < 3:
                            chunk.set_total(10)
        with op.level("thumbs"):
            page.goto(f"{site}#/operations/evicting")
            levels = page.locator(".details .tree")
            for name in ("table_0", "table_1", "table_2", "thumbs 1"):
                expect(levels.get_by_role("treeitem", name=name)).to_have_count(1)
            thumbs = levels.get_by_role("treeitem", name="thumbs 1")
            expect(thumbs.locator(".name")).to_have_text("thumbs 1")
            expect(thumbs.locator(".type")).to_have_text("")
            expect(levels.get_by_role("treeitem", name="table_1").locator(".type")).to_have_text("table")
            levels.get_by_role("treeitem", name="table_1").click()
            more = levels.locator(".row.more")
            expect(more).to_have_text(["… 400 more, all completed (3 ended early)"])
            levels.get_by_role("treeitem", name="table_0").click()
            expect(levels.get_by_role("treeitem", name="chunk 8, Failed")).to_have_count(1)
            expect(more.filter(has_text="… 399 more, all completed")).to_have_count(1)
            expect(more).to_have_count(2)
            tab.shoot("evicted-levels")
