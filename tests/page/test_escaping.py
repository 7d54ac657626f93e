"""Text from user programs is shown as text and cannot leave its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

import otel_progress as progress
from otel_progress import Level

if TYPE_CHECKING:
    from tests.support.browser import Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

MARKUP = "<img src=x onerror=alert(1)><script>window.hit=1</script>"
HOSTILE = {
    "markup": MARKUP,
    "attribute": '"\' onmouseover=alert(1) style=position:fixed x="',
    "right-to-left": "\u202egnp.exe\u2066 hidden",
    "controls": "a\x00b\x1b[31mred\x07\r\nSet-Cookie: x",
    "long": "endless" * 1500,
    "wide": "字" * 3000,
    "combining": "Z" + "\u0335\u0489" * 2000,
    "url": "javascript:alert(document.cookie)",
    "template": "{{constructor.constructor('alert(1)')()}} ${alert(1)} %s",
    "proto": "__proto__",
}


def start_hostile_operation(key: str, text: str) -> Level:
    """Start an operation with ``text`` in every text field, also of items and levels."""
    metadata: dict[str, Any] = {"note": text, text: text}
    op = progress.operation(text, text, id=f"{key} {text}"[:200], unit=text, **metadata).start()
    with op.level(text, text, text, total=3, unit=text) as level:
        level.item(text, outcome="failed", error=ValueError(text))
    op.update(message=text)
    return op


def test_hostile_names_are_shown_as_text(site: str, tab: Tab) -> None:
    """No script runs, no element is created, and rows keep their size."""
    begun = [start_hostile_operation(key, text) for key, text in HOSTILE.items()]
    page = tab.page
    page.goto(site)
    for op in begun:
        page.goto(f"{site}#/operations/{quote_fragment(op.operation_id)}")
        expect(page.get_by_role("region", name="Levels")).to_be_visible()
        expect(page.locator(".recent .item")).to_have_count(1)
        assert (
            page.evaluate(
                "document.querySelector('.details').scrollWidth"
                " - document.querySelector('.details').clientWidth"
            )
            == 0
        )
    rows = page.locator(".row.operation:visible")
    assert len(set(rows.evaluate_all("nodes => nodes.map(node => node.offsetHeight)"))) == 1
    assert rows.evaluate_all(
        "nodes => nodes.map(node => node.querySelector('.name').getBoundingClientRect())"
        ".every(({right}) => right <= innerWidth)"
    )
    control_characters = r"/[\x00-\x08\x1b\u202a-\u202e\u2066-\u2069]/"
    turned = (
        f"[...document.querySelector('main').innerText].filter((sign) => {control_characters}.test(sign))"
    )
    assert page.evaluate(turned) == []
    tab.shoot("hostile")
    begun[0].fail(RuntimeError(MARKUP))
    page.goto(f"{site}#/operations/{quote_fragment(begun[0].operation_id)}")
    expect(page.locator(".error-text")).to_have_text(MARKUP)
    page.goto(f"{site}#/history")
    expect(page.get_by_role("link", name="onerror")).to_be_visible()
    assert page.evaluate(
        "[window.hit, document.querySelectorAll("
        "'main script, main img[src=x], [onerror], [onmouseover]').length]"
    ) == [None, 0]
    for op in begun[1:]:
        op.complete()


def test_direction_override_in_name_is_made_visible(site: str, tab: Tab) -> None:
    """A right-to-left override cannot make a name look like another one."""
    with progress.operation("export", "photo\u202egnp.exe", id="rlo"):
        tab.page.goto(f"{site}#/operations/rlo")
        expect(tab.page.get_by_role("heading", level=2)).to_have_text("photo\ufffdgnp.exe")


def test_hostile_address_is_shown_as_text(site: str, tab: Tab) -> None:
    """The URL fragment is decoded, shown as text, and requested as an id."""
    page = tab.page
    page.goto(
        f"{site}#/operations/{quote_fragment(MARKUP)}?q={quote_fragment(MARKUP)}&show=__proto__&sort=constructor"
    )
    expect(page.get_by_role("heading", level=2)).to_have_text(MARKUP)
    expect(page.get_by_role("complementary")).to_contain_text("No operation has this id")
    page.goto(f"{site}#/batches/%E0%A4%A")
    expect(page.get_by_role("region", name="Batches")).to_contain_text("No batch has this id")


def quote_fragment(text: str) -> str:
    """Encode a text for a URL, like the page does."""
    return quote(text, safe="")
