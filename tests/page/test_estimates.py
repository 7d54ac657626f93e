"""Estimates and conditions on the page equal those of the Python package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

import otel_progress as progress
from otel_progress.codec import encode_operation
from otel_progress.model import Status
from tests.support.estimate_cases import CASES, CONDITIONS, WAITS
from tests.support.factories import CLOCK, operation, snapshot

if TYPE_CHECKING:
    from tests.support.browser import Serving, Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)
expect = sync_api.expect

Ask = Callable[[str, object], Any]


@pytest.fixture(scope="module")
def run_in_page(browser: Any, shared: Serving) -> Any:
    """Run a function body in the page with its modules and return the result."""
    context = browser.new_context(locale="en-GB", timezone_id="UTC")
    page = context.new_page()
    page.goto(f"{shared.url}static/icon.svg")  # the modules alone: nothing else runs

    def run(body: str, given: object) -> Any:
        modules = (
            "Promise.all(['eta', 'states', 'rows', 'store'].map((name) => import(`/static/${name}.js`)))"
        )
        code = f"async (given) => {{ const [eta, states, rows, store] = await {modules}; {body} }}"
        return page.evaluate(code, json.loads(json.dumps(given)))

    yield run
    context.close()


def test_estimate_after_time_equals_package(run_in_page: Ask) -> None:
    """Each case of the table gives the same estimate, field by field."""
    given = [[asdict(case.eta), CLOCK + case.seconds] for case in CASES]
    found = run_in_page("return given.map(([made, clock]) => eta.etaAt(made, clock));", given)
    assert found == [asdict(case.expected) for case in CASES]


def test_estimate_without_news_equals_new_reading(run_in_page: Ask) -> None:
    """One minute after the last message, in each state of an operation."""
    root = snapshot(eta=WAITS)
    paused = replace(root, paused_clock=CLOCK + 20.0)
    over = replace(root, status=Status.COMPLETED, duration_s=1.0)
    read = [
        operation(root),
        operation(paused),
        operation(root, alive=False),
        operation(over),
        operation(snapshot()),
    ]
    found = run_in_page(
        "return given.map((doc) => eta.etaOf(doc, doc, 60));", [encode_operation(one) for one in read]
    )
    expected = [replace(one, clock=one.clock + 60.0).eta for one in read]
    assert found == [None if one is None else asdict(one) for one in expected]
    assert [one is None for one in found] == [False, True, True, True, True]


def test_condition_without_news_equals_package(run_in_page: Ask) -> None:
    """Each case of the table: read one minute after the start, then some seconds pass."""
    given = [[encode_operation(case.read()), 1000.0 * case.seconds] for case in CONDITIONS]
    found = run_in_page("return given.map(([doc, now]) => states.conditionOf({ doc, at: 0 }, now));", given)
    assert found == [case.condition.value for case in CONDITIONS]


def test_rate_with_pause_excludes_paused_time(run_in_page: Ask) -> None:
    """Active seconds equal those of the package. There is no rate during a pause."""
    root = snapshot(current=120, advanced_clock=CLOCK)
    paused = replace(root, paused_clock=CLOCK + 60.0, paused_s=20.0)
    over = replace(paused, status=Status.COMPLETED, duration_s=100.0)
    read = [
        operation(one, clock=CLOCK + 80.0) for one in (root, paused, replace(paused, paused_clock=None), over)
    ]
    later = [[encode_operation(one), seconds] for one in read for seconds in (0.0, 500.0)]
    found = run_in_page("return given.map(([doc, later]) => store.workedOf(doc, later));", later)
    assert found == [
        replace(one, clock=one.clock + seconds).active_seconds_of(one.root)
        for one in read
        for seconds in (0.0, 500.0)
    ]
    assert found == [80.0, 580.0, 40.0, 40.0, 60.0, 560.0, 80.0, 80.0]
    found = run_in_page("return given.map(([doc]) => store.speedOf({ doc, points: [] }));", later[::2])
    assert found == [1.5, None, 2.0, 1.5]


def test_rate_of_resumed_run_excludes_earlier_work(run_in_page: Ask) -> None:
    root = snapshot(current=120, total=200, resumed_from=100, advanced_clock=CLOCK)
    over = replace(root, status=Status.COMPLETED, duration_s=10.0)
    docs = [encode_operation(operation(one, clock=CLOCK + 10.0)) for one in (root, over)]
    assert run_in_page("return given.map((doc) => store.speedOf({ doc, points: [] }));", docs) == [2.0, 2.0]


def test_recent_rate_uses_active_time(run_in_page: Ask) -> None:
    """Two units per second before and after a pause, and no rate in it."""
    steps = [(10.0 + n, 2 * n, None, 0.0) for n in range(10)]
    steps += [(19.0 + n, 18, CLOCK + 19.0, 0.0) for n in (0, 30, 3_600)]
    steps += [(3_619.0 + n, 18 + 2 * n, None, 3_600.0) for n in range(1, 10)]
    docs = [
        encode_operation(
            operation(
                snapshot(sequence=number, current=done, paused_clock=since, paused_s=earlier),
                clock=CLOCK + second,
            )
        )
        for number, (second, done, since, earlier) in enumerate(steps)
    ]
    found = run_in_page(
        "const known = new store.Store(); return given.map((doc) => store.speedOf(known.fold(doc, 0)));",
        docs,
    )
    assert found[10:13] == [None] * 3
    assert found[3:10] + found[13:] == pytest.approx([2.0] * (len(steps) - 6))


def test_remaining_text_shows_estimate_bound_or_nothing(run_in_page: Ask) -> None:
    """A countdown while running, a lower bound when stalled, nothing if unknown."""
    found = run_in_page(
        "return given.map((one) => eta.leftText(one));", [asdict(case.expected) for case in CASES]
    )
    assert dict(zip((case.name for case in CASES), found, strict=True)) == {
        "new": "5 min 00 s left",
        "from the future": "5 min 00 s left",
        "counts down": "4 min 40 s left",
        "last second": "4 min 30 s left",
        "holds": "4 min 30 s left",
        "stalls": "at least 3 min 30 s left",
        "stays stalled": "at least 3 min 30 s left",
        "stalls without an interval": "at least 4 min 30 s left",
        "runs out": "any moment",
        "may take longer": "any moment",
        "one bound": "40 s left",
        "unknown": None,
        "told stalled": "at least 30 s left",
        "no least": None,
    }


def test_end_time_is_constant_while_the_clock_advances(run_in_page: Ask) -> None:
    """The end is the one of the estimate.

    After a long wait, stalled or paused, none is shown.
    """
    root = snapshot(eta=WAITS, stall_after_s=1e6)
    docs = [
        encode_operation(one)
        for one in (operation(root, clock=CLOCK), operation(replace(root, paused_clock=CLOCK), clock=CLOCK))
    ]
    found = run_in_page(
        """const now = Date.now;
        return given.map(([doc, second]) => {
          Date.now = () => 1.8e12 + 1000 * second;
          const entry = { doc, at: 0, points: [] };
          const kind = states.kindOf(entry, 1000 * second);
          return [kind, ...rows.remainingOf(entry, kind, 1000 * second).slice(0, 2)];
        }).concat((Date.now = now) && []);""",
        [[docs[0], second] for second in (0, 30, 50, 80, 600)] + [[docs[1], 600]],
    )
    kinds, left, ends = zip(*found, strict=True)
    assert kinds == ("running",) * 5 + ("paused",)
    assert left == (
        *("5 min 00 s left", "4 min 30 s left", "4 min 30 s left", "4 min 30 s left"),
        *("at least 3 min 30 s left", "paused"),
    )
    moments = [text.partition(" · ")[0] for text in ends]
    assert moments[0].startswith("ends ")
    assert moments[:3] == [moments[0]] * 3
    assert not any(text.startswith("ends") for text in moments[3:])


def test_row_with_interval_shows_it_completely(run_in_page: Ask) -> None:
    """If both do not fit, the interval has priority over the running time."""
    wide = replace(WAITS, low_s=60.0, high_s=3_000.0, counts_down_s=None, stalls_after_s=None)
    docs = [
        encode_operation(operation(snapshot(eta=eta, stall_after_s=1e6), clock=CLOCK + 80.0))
        for eta in (wide, None)
    ]
    (_, whole, brief), (_, one, same) = run_in_page(
        """return given.map((doc) => rows.remainingOf({ doc, at: 0, points: [] }, "running", 0));""", docs
    )
    assert " · for " in whole
    assert brief == whole.partition(" · ")[0]
    assert any(character.isdigit() for character in brief.partition("–")[2]), brief
    assert one == same == "for 1 min 20 s"


def test_displayed_end_with_jitter_is_smoothed(run_in_page: Ask) -> None:
    """A jitter of 5 % is damped, and a large change is shown at once."""
    made = asdict(replace(WAITS, counts_down_s=None, stalls_after_s=None))
    shown, jumped, kept = run_in_page(
        """const entry = {};
        const at = (second, left) => eta.calm(entry, { ...given, remaining_s: left }, 1000 * second);
        const ends = [];
        for (let second = 0; second < 60; second += 0.25) {
          ends.push(second + at(second, 300 - second + (second % 0.5 ? 7.5 : -7.5)));
        }
        return [ends, at(60, 500), given];""",
        made,
    )
    steps = [abs(later - earlier) for earlier, later in pairwise(shown[20:])]
    assert max(steps) < 2.0  # of the 15 s by which it jitters
    assert abs(sum(shown[20:]) / len(shown[20:]) - 300.0) < 7.5
    assert jumped == 500.0
    assert kept == made


def test_displayed_end_of_waiting_estimate_is_constant(run_in_page: Ask) -> None:
    made = asdict(
        replace(WAITS, remaining_s=8.0, low_s=None, high_s=None, counts_down_s=1.0, stalls_after_s=None)
    )
    shown = run_in_page(
        """const entry = {};
        const at = (n) => eta.etaAt(given, given.clock + n / 4);
        return [...Array(40).keys()].map((n) => eta.calm(entry, at(n), 250 * n));""",
        made,
    )
    assert shown[:5] == pytest.approx([8.0, 7.75, 7.5, 7.25, 7.0])
    assert shown[5:] == pytest.approx([7.0] * 35)


def test_paused_and_opaque_work_are_marked(site: str, tab: Tab) -> None:
    """A pause shows its word and reason but no end.

    An opaque step is marked as an estimate everywhere.
    """
    page = tab.page
    tape = progress.operation("archive", "Tape 9", id="eta-tape", total=4).start()
    film = progress.operation("film", "Lecture 7", id="eta-film", stages={"fetch": 1, "encode": 3}).start()
    film.stage("fetch").complete()
    with tape.paused("Waiting for a robot arm"), film.stage("encode").opaque(expected=100_000.0):
        page.goto(site)
        row = page.locator(".row.operation", has_text="Tape 9")
        expect(row.locator(".chip")).to_have_text("Paused")
        expect(row.locator(".note")).to_have_text(re.compile(r"^Paused for \d+ s\. Waiting for a robot arm$"))
        expect(row.locator(".ends")).not_to_contain_text("ends")
        row = page.locator(".row.operation", has_text="Lecture 7")
        expect(row.locator(".percent")).to_have_text("~25\u00a0%")
        expect(row.locator(".bar")).to_have_attribute("data-estimated", "")
        expect(page.get_by_role("treeitem", name="Lecture 7, Running, ~25")).to_be_visible()
        page.goto(f"{site}#/operations/eta-film")
        card = page.locator(".card", has_text="encode")
        expect(card.locator(".percent")).to_have_text("~0\u00a0%")
        expect(card.get_by_role("progressbar")).to_have_attribute("aria-valuetext", "about 0 %, estimated")
        expect(page.get_by_role("progressbar", name="Progress of the operation")).to_have_attribute(
            "aria-valuetext", "about 25 %, estimated"
        )
        tab.shoot("opaque")
    expect(page.locator(".row.operation", has_text="Tape 9").locator(".chip")).to_have_text("Running")
    for level in (tape, film):
        level.cancel()
