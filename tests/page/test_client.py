"""progress-client.js and use-progress.js on a page without any other script."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import otel_progress as progress
from tests.support.servers import poll

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

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
  const record = (operation) => {
    seen.snapshots.push([operation.current, operation.status, operation.levels?.length ?? null]);
  };
  window.end = client.subscribe(id, record, {
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
      const set = (next) => {
        if (Object.is(slots[at], next)) return;
        slots[at] = next;
        queueMicrotask(render);
      };
      return [slots[at], set];
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
    const onComplete = (operation) => done.push(operation.status);
    window.result = useProgress(id, {pollInterval: 200, onComplete});
    effects.splice(0).forEach((run) => run());
  }
  render();
}"""
"""Minimal versions of React's three hooks: state, ref, and effect with dependencies."""


def open_bare_page(tab: Tab, site: str) -> Page:
    """Return a page of the server without any script."""
    tab.page.goto(f"{site}healthz")
    return tab.page


def wait_until(page: Page, true: str) -> None:
    """Wait until an expression is true.

    It is polled from outside because the page's policy forbids eval.
    """
    poll(lambda: page.evaluate(true), what=true)


def test_subscription_receives_run_until_end(site: str, tab: Tab) -> None:
    """The callback receives the current state, every change, and the end once."""
    page = open_bare_page(tab, site)
    with progress.operation("job", id="client-run", total=3) as op:
        op.increment()
        page.evaluate(START, {"id": "client-run", "options": {}})
        wait_until(page, "seen.snapshots.length && client.state.state === 'live'")
        op.item("second.wav")
        wait_until(page, "seen.items.includes('second.wav') && seen.snapshots.at(-1)[0] === 2")
        op.increment()
    wait_until(page, "seen.complete.length")
    errors = page.evaluate("seen.errors")
    assert [one for one in errors if one[1] != 404] == []
    assert page.evaluate("[seen.complete, seen.snapshots.at(-1)]") == [["completed"], [3, "completed", 0]]


def test_interrupted_poll_does_not_delay_the_stream(site: str, tab: Tab) -> None:
    """A page that is shown during the poll of a hidden page opens a stream at once."""
    page = open_bare_page(tab, site)
    polls: list[Route] = []

    def answer_first(route: Route) -> None:
        polls.append(route)
        if len(polls) == 1:
            route.continue_()

    with progress.operation("job", id="client-shown", total=3) as op:
        page.evaluate(START, {"id": "client-shown", "options": {}})
        wait_until(page, "client.state.state === 'live'")
        page.route("**/api/v1/operations/*", answer_first)
        page.evaluate("client.setQuiet(200)")
        poll(lambda: page.evaluate("client.state.state") == "polling" and len(polls) == 2, what="a poll")
        page.evaluate("seen.states.length = 0; client.setQuiet(0)")
        op.increment()
        wait_until(page, "seen.snapshots.at(-1)[0] === 1 && client.state.state === 'live'")
        assert len(polls) == 2


def test_page_hidden_and_shown_quickly_ends_with_a_stream(site: str, tab: Tab) -> None:
    """The end is the same for an interrupted connect, stream, poll or pause."""
    page = open_bare_page(tab, site)
    with progress.operation("job", id="client-flips", total=3) as op:
        page.evaluate(START, {"id": "client-flips", "options": {}})
        page.evaluate("""async () => {
          for (let number = 0; number < 80; number++) {
            client.setQuiet(number % 2 ? 0 : 20);
            if (number % 7 === 0) client.reconnect();
            await new Promise((resolve) => setTimeout(resolve, 120 * Math.random() ** 2));
          }
          client.setQuiet(0);
        }""")
        page.route("**/api/v1/operations/*", lambda _: None)  # a poll would end nothing
        op.increment()
        wait_until(page, "seen.snapshots.at(-1)[0] === 1 && client.state.state === 'live'")


def test_failed_request_of_one_operation_does_not_delay_the_others(site: str, tab: Tab) -> None:
    """The stream is ready without an operation that could not be requested."""
    page = open_bare_page(tab, site)
    page.route("**/api/v1/operations/client-absent*", lambda route: route.fulfill(status=503, body="busy"))
    with progress.operation("job", id="client-there", total=3):
        page.evaluate(START, {"id": ["client-there", "client-absent"], "options": {}})
        page.evaluate("""() => {
          window.kinds = [];
          client.subscribe("client-there", () => {}, {onMessage: (kind) => kinds.push(kind)});
        }""")
        wait_until(page, "kinds.includes('ready')")
    tab.troubles[:] = [trouble for trouble in tab.troubles if "503" not in trouble]


@pytest.mark.parametrize("change_s", [3_600, -3_600])
def test_changed_clock_of_the_browser_does_not_change_ages(site: str, tab: Tab, change_s: int) -> None:
    """A document ages by the server's clock, before and after the next connection."""
    page = open_bare_page(tab, site)
    with progress.operation("job", id="client-clock", total=3) as op:
        page.evaluate(START, {"id": "client-clock", "options": {}})
        page.evaluate("""() => {
          window.ages = [];
          client.subscribe("client-clock", (operation) => ages.push(client.ageOf(operation)));
        }""")
        wait_until(page, "client.state.state === 'live' && seen.snapshots.length")
        page.evaluate(
            """(change) => {
              const now = Date.now;
              Date.now = () => now.call(Date) + change;
              ages.length = 0;
            }""",
            1000 * change_s,
        )
        for count in (1, 2):
            op.increment()
            wait_until(page, f"seen.snapshots.at(-1)[0] === {count}")
        ages = page.evaluate("ages")
        assert ages
        assert max(ages) < 600
        # The server runs on this machine.
        age = page.evaluate("(read_at) => client.ageOf({read_at})", time.time() - 600)
        assert age == pytest.approx(600, abs=60)


def test_client_without_streams_polls(site: str, tab: Tab) -> None:
    """Behind a proxy that blocks streams, the client polls and reports this."""
    page = open_bare_page(tab, site)
    page.route("**/api/v1/stream*", lambda route: route.fulfill(status=501, body="no streams here"))
    with progress.operation("job", id="client-poll", total=3) as op:
        page.evaluate(START, {"id": "client-poll", "options": {}})
        wait_until(page, "seen.states.includes('polling') && seen.snapshots.length")
        op.increment()
        wait_until(page, "seen.snapshots.at(-1)[0] === 1")
    wait_until(page, "seen.complete.length")
    assert page.evaluate("seen.complete") == ["completed"]
    # The browser itself reports the refused stream.
    tab.troubles[:] = [trouble for trouble in tab.troubles if "501" not in trouble]


def test_polling_all_operations_reports_their_ends(site: str, tab: Tab) -> None:
    """The client requests operations that disappeared from the list of running ones."""
    page = open_bare_page(tab, site)
    op = progress.operation("job", id="client-list", total=3).start()
    page.evaluate(
        START.replace("operation.current", "operation.operation_id"),
        {"id": "*", "options": {"stream": False}},
    )
    wait_until(page, "seen.snapshots.some(([id, status]) => id === 'client-list' && status === 'running')")
    op.fail(RuntimeError("no paper"))
    wait_until(page, "seen.snapshots.some(([id, status]) => id === 'client-list' && status === 'failed')")
    assert page.evaluate("seen.errors.at(-1)") == ["ProgressError", 0, "no paper"]


def test_failed_and_missing_operations_call_on_error(site: str, tab: Tab) -> None:
    """A failed operation is reported, and once an unknown id, which may start later."""
    page = open_bare_page(tab, site)
    page.evaluate(START, {"id": "client-later", "options": {}})
    wait_until(page, "seen.errors.length")
    assert page.evaluate("seen.errors.map(([name, status]) => [name, status])") == [["ProgressError", 404]]
    with progress.operation("job", id="client-later") as op:
        op.increment()
        wait_until(page, "seen.snapshots.length")
        op.fail(ValueError("no such file"))
    wait_until(page, "seen.errors.length === 2")
    assert page.evaluate("seen.errors[1]") == ["ProgressError", 0, "no such file"]


def test_client_without_subscriptions_sends_no_requests(site: str, tab: Tab) -> None:
    page = open_bare_page(tab, site)
    with progress.operation("job", id="client-close") as op:
        page.evaluate(START, {"id": "client-close", "options": {}})
        wait_until(page, "seen.snapshots.length")
        assert page.evaluate("end(), client.close(), client.state.state") == "closed"
        number = page.evaluate("seen.snapshots.length")
        op.increment()
        page.evaluate(
            "() => import('/static/progress-client.js')"
            ".then(({createProgressClient}) => new Promise((done) => {"
            "const client = createProgressClient({baseUrl: location.origin});"
            "client.subscribe('client-close', (seen) => seen.current === 1 && done()) }))"
        )
        assert page.evaluate("seen.snapshots.length") == number


def test_list_and_get_return_documents_or_errors(site: str, tab: Tab) -> None:
    """Lists are filtered and paged, and an error contains the server's message."""
    page = open_bare_page(tab, site)
    for n in range(3):
        with progress.operation("listed", id=f"client-listed-{n}"):
            pass
    page.evaluate(START, {"id": "client-listed-0", "options": {}})
    query = (
        "client.list({type: 'listed', status: ['completed'], limit: 2})"
        ".then(({operations, next}) => [operations.length, typeof next])"
    )
    wait_until(page, f"{query}.then((found) => found[0] === 2)")
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


def test_use_progress_renders_each_state_and_the_end(site: str, tab: Tab) -> None:
    """useProgress renders each new state and calls onComplete once."""
    page = open_bare_page(tab, site)
    with progress.operation("job", id="client-hook", total=4) as op:
        page.evaluate(HOOK, "client-hook")
        wait_until(page, "result.operation && result.connection === 'live'")
        assert page.evaluate("[result.percentage, result.ended, result.error]") == [0, False, None]
        op.increment(2)
        wait_until(page, "result.percentage === 50")
    wait_until(page, "result.ended && done.length")
    assert page.evaluate("[result.status, done]") == ["completed", ["completed"]]
