"""Login: a server with a token admits the page through a form and a cookie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.browser import Serving

if TYPE_CHECKING:
    from tests.support.browser import Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Serving]:
    """A server with a token and one operation."""
    store = f"sqlite:///{tmp_path}/journal.db"
    serving = Serving(store, tmp_path / "serve.log", token=TOKEN)
    with (
        progress.configure(store=store, console=False),
        progress.operation("secret", "Secret work", id="secret", total=2),
    ):
        try:
            serving.start()
            yield serving
        finally:
            serving.stop()


def test_login_with_correct_token_opens_the_page(guarded: Serving, tab: Tab) -> None:
    """A wrong token is reported. Scripts cannot read the token."""
    page = tab.page
    page.goto(guarded.url)
    expect(page).to_have_title("Log in – otel-progress")
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    expect(page.get_by_role("alert")).to_be_hidden()
    field.fill("not-the-token")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("Invalid token")
    tab.shoot("login")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("treeitem", name="Secret work, Running")).to_be_visible()
    expect(page.locator(".connection .word")).to_have_text("Live")
    assert TOKEN not in page.url
    assert (
        page.evaluate(
            "document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})"
        )
        == "{}{}"
    )


def test_page_with_expired_cookie_reports_the_login(guarded: Serving, tab: Tab) -> None:
    """The page reports it and names the fix instead of retrying silently."""
    page = tab.page
    page.goto(guarded.url)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".connection .word")).to_have_text("Live")
    page.context.clear_cookies()
    guarded.kill()
    guarded.start()
    expect(page.locator(".connection .word")).to_have_text("Not allowed")
    expect(page.locator(".banner")).to_contain_text("Reload the page to log in")
