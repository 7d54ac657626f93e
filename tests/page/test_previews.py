"""Previews on the page: the newest one live, and earlier ones as a time-lapse."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.browser import PATIENCE_S, Serving, Tab
from tests.support.servers import poll

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
pytest.importorskip("PIL.Image", reason="pillow is not installed: it makes the previews")

expect = sync_api.expect
EVIL = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture
def working(shared: Serving, store: str) -> Iterator[progress.Runtime]:
    """A configuration that writes to the journal of the shared server."""
    del shared
    with progress.configure(
        service_name="page", store=store, console=False, resources=False, tick=0.05, preview_at="always"
    ) as runtime:
        yield runtime


def store_preview(
    runtime: progress.Runtime, level: progress.Level, value: object, name: str = "latent"
) -> None:
    """Create a preview and publish it."""
    level.preview(value, name)
    assert runtime._previews is not None
    assert runtime._previews.flush(PATIENCE_S)
    assert runtime.force_flush(PATIENCE_S)


def create_grey_image(value: int) -> object:
    """Return an image of one grey."""
    from PIL import Image

    return Image.new("L", (64, 32), value)


def stop_the_clock(page: Page) -> None:
    """Stop the page's clock, so that its timers run only when the test advances it.

    Playwright stops a clock only at a future time. That time may have passed when the page
    receives it, so this retries.
    """

    def stopped() -> bool:
        try:
            page.clock.pause_at(page.evaluate("() => Date.now() + 1"))
        except sync_api.Error as error:
            if "to the past" not in str(error):
                raise
            return False
        return True

    poll(stopped, what="stopped clock")


def test_previews_arrive_and_play(working: progress.Runtime, shared: Serving, tab: Tab) -> None:
    """The newest image appears live with a text alternative.

    Slider and button show the earlier ones.
    """
    page = tab.page
    page.clock.install()
    with progress.operation("render", "Progressive", id="lapse", total=4) as op:
        page.goto(f"{shared.url}#/operations/lapse")
        panel = page.get_by_role("region", name="Previews")
        expect(page.get_by_role("heading", name="Progressive")).to_be_visible()
        expect(panel).to_be_hidden()
        for step in range(3):
            op.increment()
            store_preview(working, op, create_grey_image(60 * step))
            expect(panel.get_by_role("img")).to_have_attribute(
                "alt", f"Preview “latent” at {25 * (step + 1)}\u00a0%"
            )
        picture, slider = panel.get_by_role("img"), panel.get_by_role("slider", name="Preview")
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^3 of 3, “latent” at 75"))
        page.wait_for_function("() => document.querySelector('.previews img').naturalWidth === 64")
        tab.shoot("previews")
        slider.focus()
        page.keyboard.press("Home")
        expect(picture).to_have_attribute("alt", "Preview “latent” at 25\u00a0%")
        expect(panel.locator("figcaption")).to_contain_text("1 of 3")
        store_preview(working, op, create_grey_image(240))
        expect(slider).to_have_attribute("max", "3")
        # A new preview does not replace an earlier one that the user selected.
        expect(picture).to_have_attribute("alt", "Preview “latent” at 25\u00a0%")
        stop_the_clock(page)
        panel.get_by_role("button", name="Play").click()
        expect(panel.get_by_role("button", name="Pause")).to_be_visible()
        for number in (2, 3, 4):
            expect(picture).to_have_js_property("complete", True)  # wait until it is loaded
            page.clock.run_for(600)
            expect(slider).to_have_attribute("aria-valuetext", re.compile(f"^{number} of 4"))
        expect(panel.get_by_role("button", name="Play")).to_be_visible()  # stopped at the end
        assert page.evaluate(
            "() => fetch(document.querySelector('.previews img').src)"
            ".then((answer) => answer.headers.get('cache-control'))"
        ) == ("private, max-age=31536000, immutable")


def test_preview_after_the_end_is_shown(working: progress.Runtime, shared: Serving, tab: Tab) -> None:
    """It appears both without and after a reload."""
    gate = threading.Event()
    page = tab.page
    with progress.operation("render", id="late", total=1) as op:
        page.goto(f"{shared.url}#/operations/late")
        expect(page.get_by_role("heading", name="render")).to_be_visible()
        op.preview(lambda: create_grey_image(9) if gate.wait(10 * PATIENCE_S) else "", "result")
        op.increment()
    expect(page.locator(".details .word")).to_have_text("Completed")
    gate.set()
    assert working._previews is not None
    assert working._previews.flush(PATIENCE_S)
    panel = page.get_by_role("region", name="Previews")
    expect(panel.get_by_role("img")).to_have_attribute("alt", re.compile("“result”"))
    page.reload()
    expect(panel.get_by_role("img")).to_have_attribute("alt", re.compile("“result”"))


def test_text_previews_and_hostile_names_are_shown_as_text(
    working: progress.Runtime, shared: Serving, tab: Tab
) -> None:
    """Each name of each level is its own series."""
    page = tab.page
    with progress.operation("render", id="texts", total=1) as op, op.level("frame", EVIL) as frame:
        store_preview(working, op, EVIL, "notes")
        store_preview(working, frame, {"html": EVIL}, EVIL)
        page.goto(f"{shared.url}#/operations/texts")
        panel = page.get_by_role("region", name="Previews")
        expect(panel.locator("pre")).to_contain_text('"html": "<img src=x onerror=alert(1)>')
        expect(panel.get_by_role("slider")).to_be_hidden()
        series = panel.get_by_role("combobox", name="Preview series")
        series.select_option(label="notes")
        expect(panel.locator("pre")).to_have_text("<img src=x onerror=alert(1)>\ufffd")
        expect(panel.get_by_role("img")).to_have_count(0)


def test_deleted_preview_file_is_reported(
    working: progress.Runtime, shared: Serving, store: str, tab: Tab
) -> None:
    page = tab.page
    folder = Path(store.removeprefix("sqlite:///")).with_name("journal-previews")
    with progress.operation("render", id="gone", total=1) as op:
        store_preview(working, op, create_grey_image(200))
        (found,) = working.reader.previews("gone")
        (folder / found.run / found.location.rpartition("/")[2]).unlink()
        page.goto(f"{shared.url}#/operations/gone")
        panel = page.get_by_role("region", name="Previews")
        expect(panel.get_by_text("has expired")).to_be_visible()
        expect(panel.locator("img")).to_be_hidden()
    tab.troubles[:] = [trouble for trouble in tab.troubles if "410" not in trouble]


def test_previews_with_reduced_motion_play_only_on_request(
    working: progress.Runtime, shared: Serving, open_tab: Callable[..., Tab]
) -> None:
    """The button plays in slow steps."""
    page = open_tab(reduced_motion="reduce").page
    page.clock.install()
    with progress.operation("render", id="calm", total=2) as op:
        for step in range(2):
            store_preview(working, op, create_grey_image(100 * step))
        page.goto(f"{shared.url}#/operations/calm")
        panel = page.get_by_role("region", name="Previews")
        slider = panel.get_by_role("slider", name="Preview")
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^2 of 2"))
        stop_the_clock(page)
        panel.get_by_role("button", name="Play").click()
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^1 of 2"))
        expect(panel.get_by_role("img")).to_have_js_property("complete", True)
        page.clock.run_for(1_200)  # two steps of the usual rate
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^1 of 2"))
        page.clock.run_for(800)
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^2 of 2"))
