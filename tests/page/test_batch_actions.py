"""Requests about a batch on the page: cancel, close, delete."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress.testing import wait_until
from tests.support.browser import Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect


def test_batch_is_cancelled_closed_and_deleted(site: str, tab: Tab) -> None:
    """Only the actions that its state allows are shown."""
    batch = progress.batch("November", id="november").start()
    running = batch.operation("job", "Sorting", id="sorting", total=2).start()
    page = tab.page
    page.goto(f"{site}#/batches")
    page.get_by_role("link", name="November").click()
    view = page.get_by_role("region", name="Batches")
    cancel, close = view.get_by_role("button", name="Cancel…"), view.get_by_role("button", name="Close")
    remove, answer = view.get_by_role("button", name="Delete…"), view.get_by_role("status")
    expect(cancel).to_be_visible()
    expect(remove).to_be_hidden()
    cancel.click()
    page.get_by_role("textbox", name="Reason (optional)").fill("too dark")
    page.get_by_role("dialog").get_by_role("button", name="Request cancel").click()
    expect(answer).to_have_text("Cancel requested.")
    wait_until(lambda: running.cancel_requested)
    running.cancel("too dark")
    expect(remove).to_be_visible()
    expect(cancel).to_be_hidden()
    close.click()
    expect(answer).to_have_text("Closed.")
    expect(view.locator(".batch .word").last).to_have_text("Cancelled")
    expect(close).to_be_hidden()
    remove.click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("link", name="November")).to_have_count(0)
