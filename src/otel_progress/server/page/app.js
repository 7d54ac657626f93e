/** The live page: creates its parts and shows the view named in the URL fragment. */

import { BatchesView } from "./batches.js";
import { PageClock } from "./clock.js";
import { ConnectionState } from "./connection.js";
import { Details } from "./details.js";
import { Frame, setAttribute, show } from "./dom.js";
import { Following } from "./following.js";
import { HistoryView } from "./history.js";
import { createLogOut } from "./log-out.js";
import { OperationsView } from "./operations.js";
import { createProgressClient } from "./progress-client.js";
import { hasEnded } from "./progress-shared.js";
import { contact } from "./states.js";
import { Store } from "./store.js";

const QUIET_AFTER_MS = 5000;
const QUIET_EVERY_MS = 10_000;
const RECENT = 200;
const RECENT_EVERY_MS = 5000;

class App {
  client = createProgressClient({ shared: true });
  store = new Store();
  ready = false;
  #frame = new Frame(() => this.#draw());
  #connection = new ConnectionState();
  #clock = new PageClock();
  #route = { view: "operations", id: null };
  #away = false;
  #quiet = 0;
  #recentAt = 0;

  constructor() {
    this.following = new Following(this.client, {
      onOperation: (operation) => this.#take(operation),
      onChange: () => this.draw(),
    });
    this.operations = new OperationsView(this);
    this.details = new Details(this);
    this.batches = new BatchesView(this);
    this.history = new HistoryView(this);
    this.main = document.querySelector("main");
    this.main.append(
      this.operations.element,
      this.details.element,
      this.batches.element,
      this.history.element,
    );
    document.querySelector("header .status").append(this.#connection.element);
    if (document.body.hasAttribute("data-login")) document.querySelector("header").append(createLogOut(this.client));
    this.main.before(this.#connection.banner);
  }

  start() {
    this.client.onState((state) => {
      if (state.state === "reconnecting") this.#away = true;
      this.#connection.set(state, this.#clock.update(state, this.client.receivedAt));
      this.draw();
    });
    this.client.subscribe("*", (operation) => this.#take(operation), {
      onBatch: (batch) => this.store.foldBatch(batch, performance.now() - 1000 * this.client.ageOf(batch)),
      onMessage: (kind, data) => this.#hear(kind, data),
    });
    addEventListener("hashchange", () => this.#navigate());
    addEventListener("resize", () => this.draw());
    document.addEventListener("visibilitychange", () => this.#look());
    document.addEventListener("keydown", (event) => this.#key(event));
    setInterval(() => this.#tick(), 1000); // the only timer of the page
    this.#navigate();
  }

  /** Schedules one frame, however often it is called. */
  draw() {
    this.#frame.request();
  }

  go(hash) {
    if (location.hash !== hash) location.hash = hash;
  }

  /** Opens the details of an operation. The list keeps its filters. */
  open(id) {
    this.go(this.#address(this.operations.filters, id));
  }

  /** Closes the details: shows the list again and moves the focus to it. */
  close() {
    this.go(this.#address(this.operations.filters));
    this.operations.focusTree();
  }

  /** Writes the filters to the URL so that it can be shared. */
  keepFilters(filters) {
    history.replaceState(null, "", this.#address(filters, this.#route.id));
    setAttribute(document.querySelector("header nav a"), "href", this.#address(filters));
  }

  /** Subscribes to the open operations and to the one shown in full. */
  follow() {
    const { view, id } = this.#route;
    this.following.set(
      view === "operations" && id !== null
        ? [...this.operations.openIds.filter((one) => one !== id), id]
        : this.operations.openIds,
    );
  }

  #take(operation) {
    this.store.fold(operation, performance.now() - 1000 * this.client.ageOf(operation));
    this.draw();
  }

  #hear(kind, data) {
    if (kind === "reset") this.store.begin();
    else if (kind === "gone") this.store.remove(data.run);
    else if (kind === "ready") {
      this.store.sweep();
      if (this.#away && data.complete) this.#connection.restarted();
      this.#away = false;
      this.ready = true;
      if (data.complete) this.#loadRecent();
    }
    this.draw();
  }

  /**
   * Requests operations that started and ended before the full set or during a disconnect, so that
   * none is missing.
   */
  async #loadRecent() {
    const now = Date.now();
    if (this.client.state.state === "polling" && now - this.#recentAt < RECENT_EVERY_MS) return;
    this.#recentAt = now;
    try {
      const { operations } = await this.client.request("history", { query: { limit: RECENT } });
      for (const operation of operations.reverse()) this.#take(operation);
    } catch {
      // The connection status reports the error; later ends arrive through the stream.
    }
  }

  #navigate() {
    const [path, query = ""] = location.hash.slice(1).split("?");
    const [, view = "operations", id] = path.split("/");
    const known = ["operations", "batches", "history"].includes(view) ? view : "operations";
    const before = this.#route;
    this.#route = { view: known, id: id ? decode(id) : null };
    const wanted = new URLSearchParams(query);
    if (known === "operations") this.operations.setFilters(named(wanted));
    this.details.set(known === "operations" ? this.#route.id : null);
    this.batches.set(known === "batches" ? this.#route.id : undefined);
    this.history.set(known === "history", wanted.get("type") ?? "");
    show(this.operations.element, known === "operations");
    setAttribute(this.main, "data-details", known === "operations" && this.#route.id !== null);
    setAttribute(document.querySelector("header nav a"), "href", this.#address(this.operations.filters));
    for (const link of document.querySelectorAll("header nav a"))
      setAttribute(link, "aria-current", link.hash.startsWith(`#/${known}`) ? "page" : null);
    this.follow();
    this.#draw();
    if (this.#route.id !== null && known === "operations" && before.id !== this.#route.id)
      this.details.focus();
  }

  #address({ text, kind, type, sort }, id = null) {
    const query = new URLSearchParams(
      Object.entries({ q: text, show: kind, type, sort: sort === "newest" ? "" : sort }).filter(
        ([, value]) => value,
      ),
    );
    return `#/operations${id === null ? "" : `/${encodeURIComponent(id)}`}${query.size ? `?${query}` : ""}`;
  }

  #draw() {
    const { state, receivedAt } = this.client;
    this.#clock.update(state, receivedAt);
    contact.at = this.#clock.contactAt;
    const { now } = this.#clock;
    setAttribute(this.main, "data-disconnected", !this.#clock.runs);
    if (this.#route.view === "operations") {
      this.operations.draw(now, this.#route.id);
      this.details.draw(now);
    } else if (this.#route.view === "batches") this.batches.draw(now);
    this.#title();
  }

  #title() {
    const running = [...this.store.active.values()].filter(({ doc }) => !hasEnded(doc.status));
    const one =
      running.length === 1 && running[0].doc.percentage !== null
        ? `${Math.floor(running[0].doc.percentage)} % · `
        : running.length
          ? `${running.length} running · `
          : "";
    const title = `${one}otel-progress`;
    if (document.title !== title) document.title = title;
  }

  #tick() {
    this.#connection.set(this.client.state, this.#clock.update(this.client.state, this.client.receivedAt));
    if (!document.hidden) this.draw();
    else this.#title();
  }

  /**
   * Closes the streams of a hidden page after a while: a browser allows few connections per host.
   */
  #look() {
    clearTimeout(this.#quiet);
    this.#quiet = 0;
    if (document.hidden) this.#quiet = setTimeout(() => this.client.setQuiet(QUIET_EVERY_MS), QUIET_AFTER_MS);
    else {
      this.client.setQuiet(0);
      this.draw();
    }
  }

  #key(event) {
    if (
      event.key !== "/" ||
      event.ctrlKey ||
      event.metaKey ||
      event.target.closest("input, select, textarea, dialog")
    )
      return;
    event.preventDefault();
    this.operations.focusSearch();
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const named = (query) =>
  Object.fromEntries(
    [
      ["text", "q"],
      ["kind", "show"],
      ["type", "type"],
      ["sort", "sort"],
    ]
      .filter(([, name]) => query.has(name))
      .map(([field, name]) => [field, query.get(name)]),
  );

new App().start();
