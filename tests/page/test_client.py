"""progress-client.js and use-progress.js as others use them: from any page, with nothing of the live page around."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.servers import poll

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.support.browser import Tab

pytestmark = pytest.mark.browser

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it drives the browser"
)

START = """async ({id, options}) => {
  const {createProgressClient} = await import('/static/progress-client.js');
  window.seen = {snapshots: [], complete: [], errors: [], items: [], states: []};
  window.client = createProgressClient({baseUrl: location.origin, pollInterval: 100, ...options});
  client.onState(({state}) => seen.states.push(state));
  const told = (operation) => seen.snapshots.push([operation.current, operation.status, operation.levels?.length ?? null]);
  window.end = client.subscribe(id, told, {
    levels: true,
    onComplete: (operation) => seen.complete.push(operation.status),
    onError: (error) => seen.errors.push([error.name, error.status, error.message]),
    onItem: (item) => seen.items.push(item.name),
  });
}"""
HOOK = """async (id) => {
  const {createUseProgress} = await import('/static/use-progress.js');
  const slots = [];
  const effects = [];
  let place = 0;
  const hooks = {
    useState(initial) {
      const at = place++;
      if (!(at in slots)) slots[at] = initial;
      return [slots[at], (next) => { if (!Object.is(slots[at], next)) { slots[at] = next; queueMicrotask(render); } }];
    },
    useRef(initial) { const at = place++; return (slots[at] ??= {current: initial}); },
    useEffect(effect, dependencies) {
      const at = place++;
      if (slots[at] && slots[at].dependencies.every((one, i) => Object.is(one, dependencies[i]))) return;
      slots[at]?.end?.();
      slots[at] = {dependencies};
      effects.push(() => { slots[at].end = effect(); });
    },
  };
  const useProgress = createUseProgress(hooks, {baseUrl: location.origin});
  window.done = [];
  function render() {
    place = 0;
    window.result = useProgress(id, {pollInterval: 200, onComplete: (operation) => done.push(operation.status)});
    effects.splice(0).forEach((run) => run());
  }
  render();
}"""
"""React's three hooks in their essence: state that renders again, a reference, and an effect that runs when its dependencies change."""


def bare(tab: Tab, site: str) -> Page:
    """Return a page of the server that has no script of its own."""
    tab.page.goto(f"{site}healthz")
    return tab.page


def until(page: Page, true: str) -> None:
    """Wait until an expression is true; asked from outside, as the page's policy forbids evaluating inside."""
    poll(lambda: page.evaluate(true), timeout=10.0, what=true)


def test_a_subscription_sees_a_run_to_its_end(site: str, tab: Tab) -> None:
    """The current state at once, then what changes, its items, and the end once."""
    page = bare(tab, site)
    with progress.operation("job", id="client-run", total=3) as op:
        op.increment()
        page.evaluate(START, {"id": "client-run", "options": {}})
        until(page, "seen.snapshots.length && client.state.state === 'live'")
        op.item("second.wav")
        until(page, "seen.items.includes('second.wav') && seen.snapshots.at(-1)[0] === 2")
        op.increment()
    until(page, "seen.complete.length")
    errors = page.evaluate("seen.errors")
    assert [
        one for one in errors if one[1] != 404
    ] == []  # that it was not in the journal yet is no fault of the client
    assert page.evaluate("[seen.complete, seen.snapshots.at(-1)]") == [["completed"], [3, "completed", 0]]


def test_without_streams_it_polls(site: str, tab: Tab) -> None:
    """Behind something that lets no stream through the same subscription is answered by polling, and says so."""
    page = bare(tab, site)
    page.route("**/api/v1/stream*", lambda route: route.fulfill(status=501, body="no streams here"))
    with progress.operation("job", id="client-poll", total=3) as op:
        page.evaluate(START, {"id": "client-poll", "options": {}})
        until(page, "seen.states.includes('polling') && seen.snapshots.length")
        op.increment()
        until(page, "seen.snapshots.at(-1)[0] === 1")
    until(page, "seen.complete.length")
    assert page.evaluate("seen.complete") == ["completed"]
    tab.troubles[:] = [
        trouble for trouble in tab.troubles if "501" not in trouble
    ]  # the browser's own word for the refusal above


def test_polling_everything_tells_how_things_ended(site: str, tab: Tab) -> None:
    """A list that is polled has only what runs: what is no longer in it is asked for, so that no end is missed."""
    page = bare(tab, site)
    op = progress.operation("job", id="client-list", total=3).start()
    page.evaluate(
        START.replace("operation.current", "operation.operation_id"),
        {"id": "*", "options": {"stream": False}},
    )
    until(page, "seen.snapshots.some(([id, status]) => id === 'client-list' && status === 'running')")
    op.fail(RuntimeError("no paper"))
    until(page, "seen.snapshots.some(([id, status]) => id === 'client-list' && status === 'failed')")
    assert page.evaluate("seen.errors.at(-1)") == ["ProgressError", 0, "no paper"]


def test_failures_and_absences_are_errors(site: str, tab: Tab) -> None:
    """The callback onError hears of a failed operation, and once of an id that does not exist, which may begin later all the same."""
    page = bare(tab, site)
    page.evaluate(START, {"id": "client-later", "options": {}})
    until(page, "seen.errors.length")
    assert page.evaluate("seen.errors.map(([name, status]) => [name, status])") == [["ProgressError", 404]]
    with progress.operation("job", id="client-later") as op:
        op.increment()
        until(page, "seen.snapshots.length")
        op.fail(ValueError("no such file"))
    until(page, "seen.errors.length === 2")
    assert page.evaluate("seen.errors[1]") == ["ProgressError", 0, "no such file"]


def test_closing_ends_every_connection(site: str, tab: Tab) -> None:
    """After the last subscription has ended nothing is asked any more."""
    page = bare(tab, site)
    with progress.operation("job", id="client-close") as op:
        page.evaluate(START, {"id": "client-close", "options": {}})
        until(page, "seen.snapshots.length")
        assert page.evaluate("end(), client.close(), client.state.state") == "closed"
        number = page.evaluate("seen.snapshots.length")
        op.increment()
        page.evaluate(
            "() => import('/static/progress-client.js').then(({createProgressClient}) => new Promise((done) => {"
            "createProgressClient({baseUrl: location.origin}).subscribe('client-close', (seen) => seen.current === 1 && done()) }))"
        )
        assert page.evaluate("seen.snapshots.length") == number


def test_lists_and_single_requests(site: str, tab: Tab) -> None:
    """list() filters and pages, get() brings the levels, and a refusal says what the server said."""
    page = bare(tab, site)
    for n in range(3):
        with progress.operation("listed", id=f"client-listed-{n}"):
            pass
    page.evaluate(START, {"id": "client-listed-0", "options": {}})
    query = "client.list({type: 'listed', status: ['completed'], limit: 2}).then(({operations, next}) => [operations.length, typeof next])"
    until(page, f"{query}.then((found) => found[0] === 2)")
    assert page.evaluate(query) == [2, "string"]
    assert page.evaluate(
        "client.get('client-listed-1').then(({operation_id, levels}) => [operation_id, levels])"
    ) == [
        "client-listed-1",
        [],
    ]
    refused = page.evaluate(
        "client.list({limit: 0}).catch(({status, message, problem}) => [status, message === problem.detail])"
    )
    assert refused == [422, True]
    tab.troubles[:] = [trouble for trouble in tab.troubles if "422" not in trouble]


def test_the_hook_follows_an_operation(site: str, tab: Tab) -> None:
    """The hook useProgress renders each new state, and calls onComplete once."""
    page = bare(tab, site)
    with progress.operation("job", id="client-hook", total=4) as op:
        page.evaluate(HOOK, "client-hook")
        until(page, "result.operation && result.connection === 'live'")
        assert page.evaluate("[result.percentage, result.ended, result.error]") == [0, False, None]
        op.increment(2)
        until(page, "result.percentage === 50")
    until(page, "result.ended && done.length")
    assert page.evaluate("[result.status, done]") == ["completed", ["completed"]]
