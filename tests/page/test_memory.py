"""Memory of a tab that stays open: bounded for any number of operations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.browser import Serving
from tests.support.servers import poll

if TYPE_CHECKING:
    from tests.support.browser import Tab

pytestmark = [pytest.mark.browser, pytest.mark.slow]

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

ACTIVE = 1_000
SHORT = 2_000
UPDATES = 10
"""Updates of each short operation, so that there are 20,000 in all."""
MEASURE = """() => {
  gc();
  return {heap: performance.memory.usedJSHeapSize, nodes: document.querySelectorAll('*').length};
}"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Serving]:
    """A separate server, because these tests leave thousands of operations behind."""
    store = f"sqlite:///{tmp_path}/journal.db"
    serving = Serving(store, tmp_path / "serve.log")
    try:
        serving.start()
        with progress.configure(store=store, console=False, resources=False, tick=0.05):
            yield serving
    finally:
        serving.stop()


def test_list_of_thousand_operations_has_nodes_only_for_visible_rows(busy: Serving, tab: Tab) -> None:
    """All rows can be scrolled to and are counted. Nodes are reused."""
    handles = [
        progress.operation("import", f"Import {n:04}", id=f"import-{n:04}", total=100).start()
        for n in range(ACTIVE)
    ]
    page = tab.page
    page.goto(f"{busy.url}#/operations?sort=name")
    expect(page.get_by_role("button", name="Running")).to_have_text("Running1,000")
    first = page.get_by_role("treeitem", name="Import 0000, Running")
    expect(first).to_have_attribute("aria-setsize", "1000")
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert page.locator(".row").count() < 60
    frames = page.evaluate("""async () => {
      const tree = document.querySelector('.tree');
      const bottom = tree.scrollHeight - tree.clientHeight;
      let empty = 0;
      for (let step = 1; step <= 60; step += 1) {
        tree.scrollTop = bottom * step / 60;
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
        const {left, top, height} = tree.getBoundingClientRect();
        for (const part of [0.1, 0.5, 0.9]) {
          const element = document.elementFromPoint(left + 200, top + height * part);
          if (!element?.closest('.row')) empty += 1;
        }
      }
      return empty;
    }""")
    assert frames == 0
    expect(page.get_by_role("treeitem", name="Import 0999, Running")).to_be_visible()
    assert page.evaluate("document.querySelectorAll('*').length") < nodes + 400
    handles[-1].increment(50)
    expect(page.get_by_role("treeitem", name="Import 0999, Running, 50")).to_be_visible()
    page.get_by_role("tree", name="Operations").focus()
    page.keyboard.press("Home")
    expect(first).to_be_visible()
    tab.shoot("thousand")
    for handle in handles:
        handle.complete()


def test_short_operations_do_not_grow_memory(busy: Serving, tab: Tab) -> None:
    """After 20,000 updates the page has no more nodes and little more memory."""
    page = tab.page
    page.goto(busy.url)

    def run(first: int, number: int) -> None:
        for n in range(first, first + number):
            with progress.operation("job", f"Job {n}", id=f"job-{n}", total=UPDATES) as op:
                for _ in range(UPDATES):
                    op.increment(message=f"step of {n}")
        expect(page.get_by_role("treeitem", name=f"Job {first + number - 1}, Completed")).to_have_count(
            1, timeout=30_000
        )
        expect(page.get_by_role("button", name="Completed")).to_have_text("Completed200")

    run(0, SHORT // 10)  # until the lists are full
    before = page.evaluate(MEASURE)
    run(SHORT // 10, SHORT - SHORT // 10)
    after = poll(lambda: measure_settled_memory(page, before["heap"] * 1.5), what="heap as small as before")
    assert (
        after["nodes"] <= before["nodes"] + 400
    )  # a dozen rows: how many are in view differs; each operation would add 20 nodes


def measure_settled_memory(page: object, most: float) -> dict[str, float] | None:
    """Return the measurement once the heap is below ``most`` after collection."""
    found: dict[str, float] = page.evaluate(MEASURE)  # type: ignore[attr-defined]
    return found if found["heap"] <= most else None
