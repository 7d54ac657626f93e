/**
 * Stream host: one stream for all tabs of a browser. It runs in a SharedWorker, or in the tab that
 * leads the others. It sends each tab what the tab has subscribed to, and the known state to a tab
 * that joins later.
 */

import { buildUrl } from "./addresses.js";
import { Channel } from "./progress-channel.js";
import { hasEnded, ProgressError, ServerClock } from "./progress-shared.js";
import { Store } from "./store.js";

const RELEASE_AFTER_MS = 5000; // the stream closes when all tabs are hidden for this time
const QUIET_EVERY_MS = 10_000; // then the host polls
const PING_EVERY_MS = 15_000;
const GONE_AFTER_MS = 50_000; // a tab without an answer to pings is frozen or closed
const RECEIVED_EVERY_MS = 1000;
const MAX_IDS = 100;
const MAX_ID_BYTES = 5000; // encoded, because the server limits the length of a URL
const CHANGE_MS = 20; // changes within this time share one reconnect

export class StreamHost {
  #base;
  #fetch;
  #tabs = new Map(); // port → {all, ids, levels, visible, interval, answeredAt}
  #store = new Store();
  #trees = new Map(); // id → newest document of an operation subscribed by id
  #missing = new Map(); // id → error
  #channel = null;
  #ready = false; // the full set was received
  #includesAll = false; // the stream sends all operations
  #quiet = false;
  #timer;
  #change = 0;
  #release = 0;
  #receivedAt = 0;
  #clock = new ServerClock();

  constructor(base, fetch = (url, init) => globalThis.fetch(url, init)) {
    this.#base = base;
    this.#fetch = fetch;
    this.#timer = setInterval(() => this.#ping(), PING_EVERY_MS);
  }

  /** Handles a message of a tab. `port` has `postMessage`. */
  receive(port, message) {
    if (message.type === "bye") this.#remove(port);
    else if (message.type === "want") this.#want(port, message);
    else if (message.type === "restart") this.#channel?.restart();
    const tab = this.#tabs.get(port);
    if (tab) tab.answeredAt = Date.now();
    else if (message.type !== "bye" && message.type !== "want") post(port, { type: "unknown" });
  }

  /** Closes the stream. The tabs subscribe to the next host. */
  close() {
    for (const timer of [this.#timer, this.#change, this.#release]) clearTimeout(timer);
    this.#tabs.clear();
    this.#channel?.close();
    this.#channel = null;
  }

  #want(port, { all, ids, levels, visible, interval }) {
    const before = this.#tabs.get(port);
    const tab = { all, ids: new Set(ids), levels, visible, interval, answeredAt: Date.now() };
    this.#tabs.delete(port); // the newest tab comes last
    this.#tabs.set(port, tab);
    if (this.#channel?.state.state === "unauthorized" && !before) this.#channel.restart();
    this.#update();
    const idle = { state: "idle", since: Date.now(), detail: null };
    post(port, { type: "state", ...(this.#channel?.state ?? idle) });
    if (!before && this.#receivedAt) this.#postContact(port);
    if (all && !before?.all) this.#replay(port);
    for (const id of tab.ids) if (!before?.ids.has(id) || before.levels !== levels) this.#replayOne(port, id);
  }

  #remove(port) {
    if (this.#tabs.delete(port)) this.#update();
  }

  /** Sends the known state to a tab that joins. */
  #replay(port) {
    this.#send(port, "all", "reset", { reason: "A new page starts with the full set." });
    for (const entries of [this.#store.ended, this.#store.active])
      for (const { doc } of entries.values()) this.#send(port, "all", "snapshot", doc);
    for (const { doc } of this.#store.batches.values()) this.#send(port, "all", "batch", doc);
    if (!this.#ready) return;
    this.#send(port, "all", "ready", { complete: true });
  }

  #replayOne(port, id) {
    if (this.#trees.has(id)) this.#send(port, "named", "snapshot", this.#trees.get(id));
    else if (this.#missing.has(id)) this.#send(port, "named", "missing", this.#missing.get(id));
  }

  /** Opens, changes or closes the stream after a change of the tabs. */
  #update() {
    clearTimeout(this.#change);
    if (!this.#channel) this.#apply();
    else this.#change = setTimeout(() => this.#apply(), CHANGE_MS);
  }

  #apply() {
    this.#setVisible([...this.#tabs.values()].some((tab) => tab.visible));
    const wanted = this.#wanted();
    const includesAll = wanted !== null && (wanted.all || !wanted.ids);
    if (includesAll !== this.#includesAll) {
      this.#includesAll = includesAll;
      this.#ready = false;
      this.#store = new Store();
    }
    for (const kept of [this.#trees, this.#missing])
      for (const id of kept.keys()) if (!wanted?.ids?.includes(id)) kept.delete(id);
    if (wanted && this.#channel) this.#channel.change(wanted);
    else if (wanted) {
      this.#channel = new Channel(this.#transport(), wanted, "shared");
      this.#channel.start();
    } else {
      this.#channel?.close();
      this.#channel = null;
    }
  }

  /** The subscriptions of all tabs, the newest first up to a limit; null without any. */
  #wanted() {
    const tabs = [...this.#tabs.values()].reverse();
    const ids = new Set();
    let bytes = 0;
    for (const id of tabs.flatMap((tab) => [...tab.ids].reverse())) {
      bytes += ids.has(id) ? 0 : encodeURIComponent(id).length + "&operation=".length;
      if (ids.size >= MAX_IDS || bytes > MAX_ID_BYTES) break;
      ids.add(id);
    }
    const all = tabs.some((tab) => tab.all);
    if (!ids.size) return all ? { ids: null, levels: false, all: false } : null;
    return { ids: [...ids].sort(), levels: tabs.some((tab) => tab.ids.size && tab.levels), all };
  }

  /** Closes the stream while no tab is visible: a browser allows few connections per host. */
  #setVisible(visible) {
    if (visible) {
      clearTimeout(this.#release);
      this.#release = 0;
      if (this.#quiet) {
        this.#quiet = false;
        this.#channel?.restart();
      }
    } else if (!this.#quiet && !this.#release) {
      this.#release = setTimeout(() => {
        this.#release = 0;
        this.#quiet = true;
        this.#channel?.restart();
      }, RELEASE_AFTER_MS);
    }
  }

  #transport() {
    return {
      stream: (query, init) => this.#request("stream", query, init),
      request: async (path, { query = {}, signal } = {}) => {
        const init = { headers: { Accept: "application/json" }, signal, cache: "no-store" };
        return (await this.#request(path, query, init)).json();
      },
      allowed: () => !this.#quiet,
      interval: () => (this.#quiet ? QUIET_EVERY_MS : this.#interval()),
      message: (_, kind, data) => this.#dispatch(kind, data),
      announce: () => this.#announce(),
      received: () => this.#received(),
    };
  }

  #interval() {
    const intervals = [...this.#tabs.values()].map((tab) => tab.interval).filter(Boolean);
    return Math.max(100, Math.min(1000, ...intervals));
  }

  async #request(path, query, init) {
    const url = buildUrl(this.#base, path, query);
    let response;
    try {
      response = await this.#fetch(url, { credentials: "same-origin", ...init });
    } catch (error) {
      if (error?.name === "AbortError") throw error;
      throw new ProgressError(`The server at ${url.origin} cannot be reached.`);
    }
    this.#clock.compare(response.headers.get("date"));
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new ProgressError(problem?.detail ?? `The server answered with ${response.status}.`, {
      status: response.status,
      problem,
    });
  }

  #dispatch(kind, data) {
    this.#note(kind, data);
    const id = data.operation_id;
    for (const [port, tab] of this.#tabs) {
      const isNamed = tab.ids.has(id);
      if (kind === "snapshot") {
        if (tab.all && !data.levels) this.#send(port, "all", kind, data);
        if (isNamed && (data.levels || !tab.levels)) this.#send(port, "named", kind, data);
      } else if (kind === "reset" || kind === "ready") {
        if (tab.all) this.#send(port, "all", kind, data);
        if (tab.ids.size) this.#send(port, "named", kind, data);
      } else if (kind === "batch") {
        if (tab.all) this.#send(port, "all", kind, data);
      } else if (kind === "gone") {
        if (tab.all) this.#send(port, "all", kind, data);
        if (isNamed) this.#send(port, "named", kind, data);
      } else if (kind === "missing") {
        if (isNamed) this.#send(port, "named", kind, this.#missing.get(id));
      } else if (isNamed) this.#send(port, "named", kind, data);
    }
  }

  /** Stores the state for tabs that join later. */
  #note(kind, data) {
    const id = data.operation_id;
    const [wanted, at] = [[...this.#tabs.values()].some((tab) => tab.ids.has(id)), performance.now()];
    if (kind === "reset") {
      this.#ready = false;
      this.#store.begin();
    } else if (kind === "ready") {
      this.#store.sweep();
      this.#ready = this.#includesAll;
    } else if (kind === "snapshot") {
      if (!data.levels || hasEnded(data.status)) this.#store.fold(data, at);
      if (wanted) this.#trees.set(id, data.levels || !this.#trees.get(id)?.levels ? data : this.#trees.get(id));
      this.#missing.delete(id);
    } else if (kind === "missing") {
      const { message, status, problem } = data.error;
      if (wanted) this.#missing.set(id, { operation_id: id, error: { message, status, problem } });
    } else if (kind === "gone") {
      this.#store.remove(data.run);
      if (this.#trees.get(id)?.run === data.run) this.#trees.delete(id);
    } else if (kind === "batch") this.#store.foldBatch(data, at);
  }

  #send(port, name, kind, data) {
    post(port, { type: "message", name, kind, data, clock: this.#clock.now });
  }

  #announce() {
    if (this.#channel) this.#broadcast({ type: "state", ...this.#channel.state });
  }

  #received() {
    if (this.#clock.isDoubtful) this.#channel?.restart(); // the response has the server's time
    const now = Date.now();
    const isDue = now - this.#receivedAt >= RECEIVED_EVERY_MS;
    if (!isDue) return;
    this.#receivedAt = now;
    for (const port of this.#tabs.keys()) this.#postContact(port);
  }

  /** Sends the time of the last contact with the server. */
  #postContact(port) {
    post(port, { type: "received", at: this.#receivedAt, clock: this.#clock.now });
  }

  #broadcast(message) {
    for (const port of this.#tabs.keys()) post(port, message);
  }

  #ping() {
    const oldest = Date.now() - GONE_AFTER_MS;
    for (const [port, { answeredAt }] of this.#tabs) {
      if (answeredAt < oldest) this.#remove(port);
      else post(port, { type: "ping" });
    }
  }
}

function post(port, message) {
  try {
    port.postMessage(message);
  } catch {
    // The tab was closed. The pings detect it.
  }
}
