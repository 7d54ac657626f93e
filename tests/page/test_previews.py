"""The page shows what work looks like on its way: the newest preview as it comes, and those before as a time-lapse."""

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
    """A configuration that works for the journal of the shared server."""
    del shared
    with progress.configure(
        service_name="page", store=store, console=False, resources=False, tick=0.05, preview_at="always"
    ) as runtime:
        yield runtime


def offer(runtime: progress.Runtime, level: progress.Level, value: object, name: str = "latent") -> None:
    """Take a preview, and have it told to everybody."""
    level.preview(value, name)
    assert runtime._previews is not None
    assert runtime._previews.flush(PATIENCE_S)
    assert runtime.force_flush(PATIENCE_S)


def shade(value: int) -> object:
    """Return a picture of one grey."""
    from PIL import Image

    return Image.new("L", (64, 32), value)


def stop_the_clock(page: Page) -> None:
    """Let the timers of the page wait until they are told that time has passed.

    A clock stops at a moment to come, and that may be over when it hears of it. By then it stands still, so that the next one is not.
    """

    def stopped() -> bool:
        try:
            page.clock.pause_at(page.evaluate("() => Date.now() + 1"))
        except sync_api.Error as error:
            if "to the past" not in str(error):
                raise
            return False
        return True

    poll(stopped, what="clock that stands still")


def test_previews_come_and_play(working: progress.Runtime, shared: Serving, tab: Tab) -> None:
    """The newest picture is there as it comes, with words for who does not see it; slider and button go through those before."""
    page = tab.page
    page.clock.install()
    with progress.operation("render", "Progressive", id="lapse", total=4) as op:
        page.goto(f"{shared.url}#/operations/lapse")
        panel = page.get_by_role("region", name="Previews")
        expect(page.get_by_role("heading", name="Progressive")).to_be_visible()
        expect(panel).to_be_hidden()
        for step in range(3):
            op.increment()
            offer(working, op, shade(60 * step))
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
        offer(working, op, shade(240))
        expect(slider).to_have_attribute("max", "3")
        expect(picture).to_have_attribute(
            "alt", "Preview “latent” at 25\u00a0%"
        )  # who looks at an early one goes on doing so
        stop_the_clock(page)
        panel.get_by_role("button", name="Play").click()
        expect(panel.get_by_role("button", name="Pause")).to_be_visible()
        for number in (2, 3, 4):
            expect(picture).to_have_js_property(
                "complete", True
            )  # one that is still on its way is waited for
            page.clock.run_for(600)
            expect(slider).to_have_attribute("aria-valuetext", re.compile(f"^{number} of 4"))
        expect(panel.get_by_role("button", name="Play")).to_be_visible()  # at the end it stands still
        assert page.evaluate(
            "() => fetch(document.querySelector('.previews img').src).then((answer) => answer.headers.get('cache-control'))"
        ) == ("private, max-age=31536000, immutable")


def test_one_that_comes_after_the_end_is_shown(working: progress.Runtime, shared: Serving, tab: Tab) -> None:
    """The result is often ready when the operation has ended: the page has it without being loaded again, and after it was."""
    gate = threading.Event()
    page = tab.page
    with progress.operation("render", id="late", total=1) as op:
        page.goto(f"{shared.url}#/operations/late")
        expect(page.get_by_role("heading", name="render")).to_be_visible()
        op.preview(lambda: shade(9) if gate.wait(10 * PATIENCE_S) else "", "result")
    expect(page.locator(".details .word")).to_have_text("Completed")
    gate.set()
    assert working._previews is not None
    assert working._previews.flush(PATIENCE_S)
    panel = page.get_by_role("region", name="Previews")
    expect(panel.get_by_role("img")).to_have_attribute("alt", re.compile("“result”"))
    page.reload()
    expect(panel.get_by_role("img")).to_have_attribute("alt", re.compile("“result”"))


def test_texts_and_hostile_names_are_only_text(working: progress.Runtime, shared: Serving, tab: Tab) -> None:
    """A text preview is shown as text, whatever is in it, and each name of each level is a series of its own."""
    page = tab.page
    with progress.operation("render", id="texts", total=1) as op, op.level("frame", EVIL) as frame:
        offer(working, op, EVIL, "notes")
        offer(working, frame, {"html": EVIL}, EVIL)
        page.goto(f"{shared.url}#/operations/texts")
        panel = page.get_by_role("region", name="Previews")
        expect(panel.locator("pre")).to_contain_text('"html": "<img src=x onerror=alert(1)>')
        expect(panel.get_by_role("slider")).to_be_hidden()
        series = panel.get_by_role("combobox", name="Which previews")
        series.select_option(label="notes")
        expect(panel.locator("pre")).to_have_text("<img src=x onerror=alert(1)>\ufffd")
        expect(panel.get_by_role("img")).to_have_count(0)


def test_one_that_is_gone_says_so(working: progress.Runtime, shared: Serving, store: str, tab: Tab) -> None:
    """Where the file of a preview was deleted by somebody the page says so in words."""
    page = tab.page
    folder = Path(store.removeprefix("sqlite:///")).with_name("journal-previews")
    with progress.operation("render", id="gone", total=1) as op:
        offer(working, op, shade(200))
        (found,) = working.reader.previews("gone")
        (folder / found.run / found.location.rpartition("/")[2]).unlink()
        page.goto(f"{shared.url}#/operations/gone")
        panel = page.get_by_role("region", name="Previews")
        expect(panel.get_by_text("no longer kept")).to_be_visible()
        expect(panel.locator("img")).to_be_hidden()
    tab.troubles[:] = [trouble for trouble in tab.troubles if "410" not in trouble]


def test_calm_people_decide_themselves(
    working: progress.Runtime, shared: Serving, open_tab: Callable[..., Tab]
) -> None:
    """With reduced motion nothing moves by itself; who presses the button gets slow steps."""
    page = open_tab(reduced_motion="reduce").page
    page.clock.install()
    with progress.operation("render", id="calm", total=2) as op:
        for step in range(2):
            offer(working, op, shade(100 * step))
        page.goto(f"{shared.url}#/operations/calm")
        panel = page.get_by_role("region", name="Previews")
        slider = panel.get_by_role("slider", name="Preview")
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^2 of 2"))
        stop_the_clock(page)
        panel.get_by_role("button", name="Play").click()
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^1 of 2"))
        expect(panel.get_by_role("img")).to_have_js_property("complete", True)
        page.clock.run_for(1_200)  # two steps of the usual pace
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^1 of 2"))
        page.clock.run_for(800)
        expect(slider).to_have_attribute("aria-valuetext", re.compile("^2 of 2"))
