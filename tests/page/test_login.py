"""Login: a server with a token admits the page through a form and a cookie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.browser import Serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

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


@pytest.mark.slow
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


def log_in(page: Page) -> None:
    """Submit the token."""
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()


def test_login_preserves_the_address_of_the_view(guarded: Serving, tab: Tab) -> None:
    """Also after a wrong token, and for the documentation of the API."""
    page = tab.page
    page.goto(f"{guarded.url}#/operations/secret?show=active")
    page.get_by_label("Token").fill("not-the-token")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert").first).to_contain_text("Invalid token")
    log_in(page)
    expect(page.get_by_role("heading", name="Secret work")).to_be_visible()
    assert page.url == f"{guarded.url}#/operations/secret?show=active"
    page.context.clear_cookies()
    page.goto(f"{guarded.url}docs")
    log_in(page)
    page.wait_for_url(f"{guarded.url}docs")


def test_log_out_ends_the_access_of_all_tabs(guarded: Serving, tab: Tab) -> None:
    """A login in one tab connects the others again."""
    page = tab.page
    page.goto(guarded.url)
    log_in(page)
    other = page.context.new_page()
    other.goto(f"{guarded.url}#/operations/secret")
    expect(other.locator(".connection .word")).to_have_text("Live")
    tab.shoot("log-out")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in – otel-progress")
    expect(other.locator(".connection .word")).to_have_text("Not allowed")
    expect(other.locator(".banner")).to_contain_text("Disconnected since")
    assert [cookie for cookie in page.context.cookies() if cookie["value"]] == []
    log_in(page)
    expect(page.locator(".connection .word")).to_have_text("Live")
    expect(other.locator(".connection .word")).to_have_text("Live")


def test_page_without_a_login_has_no_log_out_button(shared: Serving, tab: Tab) -> None:
    tab.page.goto(shared.url)
    expect(tab.page.locator(".connection .word")).to_have_text("Live")
    expect(tab.page.get_by_role("button", name="Log out")).to_have_count(0)
