"""Accessibility: keyboard, screen reader, dark mode, phone width, reduced motion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress

if TYPE_CHECKING:
    from tests.support.browser import Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

CONTRASTS = """() => {
  const element = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const canvas = element.getContext("2d", {willReadFrequently: true});
  const blend = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim()) continue;
    if (!node.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    if (node.closest("noscript, script, option, .visually-hidden, .hidden-word, :disabled")) continue;
    const grounds = [];
    for (let one = node; one; one = one.parentElement) grounds.unshift(getComputedStyle(one).backgroundColor);
    const ground = blend(["white", ...grounds]);
    const text = blend(["white", ...grounds, getComputedStyle(node).color]);
    const [light, dark] = [luminance(ground), luminance(text)].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.nodeValue.slice(0, 40), node.className]);
  }
  return found;
}"""
"""The contrast of every visible text with what is behind it (WCAG 2, 1.4.3)."""


@pytest.fixture
def work(site: str) -> Iterator[str]:
    """Operations of every kind that can be created quickly.

    Yields the address of the page.
    """
    with progress.operation(
        "setlist", "Reachable setlist", id="reach", total=2, unit="song", stages={"load": 1, "mix": 2}
    ) as op:
        with op.stage("load") as stage:
            stage.set_total(2)
            stage.item("a.wav")
            stage.item("b.wav", outcome="failed", error="clipped")
            with stage.level("song", "s1", "First song", total=3) as song:
                song.increment()
        op.update(message="Mixing")
        late = progress.operation("report", "Late report", id="reach-late", total=4, deadline=0.001).start()
        progress.operation("mail", "Lost digest", id="reach-failed").start().fail(OSError("no route"))
        crawl = progress.operation("crawl", "Reach crawl", id="reach-crawl", unit="page").start()
        crawl.increment(5)
        yield site
        late.complete()
        crawl.complete()


def test_page_with_keyboard_reaches_every_control(work: str, tab: Tab) -> None:
    """Arrow keys open rows of the tree, Enter opens the details, Escape closes them."""
    page = tab.page
    page.goto(f"{work}#/operations?q=Reachable&show=active")
    tree = page.get_by_role("tree", name="Operations")
    expect(tree.get_by_role("treeitem")).to_have_count(1)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search operations")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(tree).to_be_focused()
    operation = tree.get_by_role("treeitem", name="Reachable setlist")
    expect(operation).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowRight")
    expect(operation).to_have_attribute("aria-expanded", "true")
    load = tree.get_by_role("treeitem", name=re.compile("^load, stage, Completed"))
    expect(load).to_have_attribute("aria-level", "2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    song = tree.get_by_role("treeitem", name=re.compile("^First song, song"))
    expect(song).to_have_attribute("aria-level", "3")
    page.keyboard.press("End")
    assert get_active_name(tab).startswith("mix, stage, Pending")
    tab.shoot("tree-open")
    page.keyboard.press("Home")
    assert get_active_name(tab).startswith("Reachable setlist, Running")
    page.keyboard.press("ArrowLeft")
    expect(load).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Reachable setlist")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_be_hidden()
    expect(tree).to_be_focused()


def get_active_name(tab: Tab) -> str:
    """Return the accessible name of the row with the keyboard focus."""
    name: str = tab.page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaLabel"
    )
    return name


def test_accessibility_tree_with_running_work_has_roles_names_and_values(work: str, tab: Tab) -> None:
    """A screen reader gets landmarks, the state of the tree and the value of the bar."""
    page = tab.page
    page.goto(f"{work}#/operations/reach")
    expect(page.get_by_role("region", name="Stages")).to_be_visible()
    expect(page.locator("body")).to_match_aria_snapshot(
        """
        - banner:
          - heading "otel-progress" [level=1]
          - navigation "Views":
            - link "Operations"
            - link "Batches"
            - link "History"
          - status: Live
        - main:
          - region "Operations":
            - group "Show only":
              - button /All/ [pressed]
            - searchbox "Search operations"
            - combobox "Type"
            - combobox "Order"
            - tree "Operations"
          - complementary "Reachable setlist":
            - button "Close details"
            - heading "Reachable setlist" [level=2]
            - region "Progress":
              - progressbar "Progress of the operation"
            - region "Stages":
              - list:
                - listitem:
                  - progressbar "load"
                  - list:
                    - listitem: /Failed. b.wav.*clipped/
                    - listitem: /Completed. a.wav/
            - region "Levels":
              - tree "Levels":
                - treeitem /load, stage, Completed/
            - region "About"
        """
    )
    assert (
        page.evaluate(
            "[...document.querySelectorAll('button, a, input, select, [role=progressbar]')]"
            ".filter(n => n.checkVisibility())"
            ".filter(n => !(n.ariaLabel || n.textContent.trim() || n.labels?.length)).length"
        )
        == 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_each_scheme_has_sufficient_contrast(
    work: str, open_tab: Callable[..., Tab], scheme: str
) -> None:
    """Every visible text, including each condition, has a contrast of at least 4.5."""
    tab = open_tab(color_scheme=scheme)
    grounds = set()
    for view in ("reach", "reach-failed", "reach-late"):
        tab.page.goto(f"{work}#/operations/{view}")
        expect(tab.page.get_by_role("region", name="About")).to_be_visible()
        expect(
            tab.page.get_by_role("treeitem", name="Reachable setlist, Running")
        ).to_be_visible()  # the list comes by itself
        tab.shoot(f"{scheme}-{view}")
        found = tab.page.evaluate(CONTRASTS)
        assert len(found) > 30
        assert [one for one in found if one[0] < 4.5] == []
        grounds.add(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 1


def test_page_with_dark_setting_uses_dark_colours(site: str, open_tab: Callable[..., Tab]) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = open_tab(color_scheme=scheme).page
        page.goto(site)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_page_at_phone_width_fits_the_screen(work: str, open_tab: Callable[..., Tab]) -> None:
    """No element exceeds the screen in any view, and the details replace the list."""
    tab = open_tab(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = tab.page
    for view in ("operations", "operations/reach", "batches", "history"):
        page.goto(f"{work}#/{view}")
        expect(
            page.locator(f"header nav a[aria-current=page][href='#/{view.partition('/')[0]}']")
        ).to_be_visible()
        expect(page.locator("main > :visible").first).to_be_visible()
        beyond = """() => [...document.querySelectorAll('main *, header *')]
          .filter((node) => node.checkVisibility() && !node.closest('.counts, .lines, pre'))
          .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
          .map((node) => node.outerHTML.slice(0, 99))"""
        assert page.evaluate(beyond) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tab.shoot(f"phone-{view.replace('/', '-')}")
    page.goto(f"{work}#/operations/reach")
    expect(page.get_by_role("tree", name="Operations")).to_be_hidden()
    page.get_by_role("button", name="Close details").tap()
    expect(page.get_by_role("tree", name="Operations")).to_be_visible()


def test_bar_with_reduced_motion_is_static(work: str, open_tab: Callable[..., Tab]) -> None:
    for motion, moves in (("no-preference", True), ("reduce", False)):
        page = open_tab(reduced_motion=motion).page
        page.goto(f"{work}#/operations/reach-crawl")
        bar = page.locator(".hero .bar[data-unknown] .fill")
        assert (bar.evaluate("node => getComputedStyle(node).animationName") != "none") is moves


def test_filters_are_stored_in_the_address(work: str, tab: Tab) -> None:
    """A search and a filter narrow the list at once.

    Their address opens the same view.
    """
    page = tab.page
    page.goto(work)
    page.get_by_role("searchbox", name="Search operations").fill("reach")
    page.get_by_role("button", name="Overdue").click()
    rows = page.locator(".row.operation:visible .name")
    expect(rows).to_have_text(["Late report"])
    address = page.url
    page.goto(f"{work}#/history")
    page.goto(address)
    expect(page.get_by_role("button", name="Overdue")).to_have_attribute("aria-pressed", "true")
    expect(rows).to_have_text(["Late report"])
    page.get_by_role("button", name="Overdue").click()
    page.get_by_role("button", name="Active").click()
    page.get_by_role("combobox", name="Type").select_option("crawl")
    expect(rows).to_have_text(["Reach crawl"])
