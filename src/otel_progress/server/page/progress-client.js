/**
 * progress-client: subscribes to operations of an otel-progress server and reports connection
 * problems. It uses one connection for all operations ("*") and one for operations by id. With the
 * option `shared`, all tabs of the browser use one connection for both. Connections
 * read server-sent events with fetch(). Unlike EventSource, this shows heartbeats (so silence is
 * noticed), allows an Authorization header and shows why a request was refused. A broken connection
 * is restored within two seconds and resumes at its last event. Where streams are blocked, the
 * client polls instead.
 */

import { buildUrl } from "./addresses.js";
import { Channel } from "./progress-channel.js";
import { hasEnded, ProgressError, safely, ServerClock } from "./progress-shared.js";
import { createLink } from "./shared-link.js";

export { readEvents } from "./event-stream.js";
export { hasEnded, ProgressError };

/** Creates a client. progress-client.d.ts documents the options. */
export const createProgressClient = (options = {}) => new ProgressClient(options);

export class ProgressClient {
  #options;
  #channels = { all: null, named: null };
  #link = null; // to the stream that all tabs share, in place of own channels
  #subscriptions = new Set();
  #listeners = new Set();
  #closed = false;
  #regroup = false;
  #quiet = 0;
  #clock = new ServerClock();
  /** performance.now() when the server last sent anything, -Infinity before. */
  receivedAt = -Infinity;

  constructor({
    baseUrl = "",
    token = null,
    pollInterval = 1000,
    stream = true,
    shared = false,
    fetch = null,
  } = {}) {
    const base = new URL(baseUrl || ".", globalThis.document?.baseURI ?? globalThis.location?.href);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.#options = { base, token, pollInterval, stream, fetch: fetch ?? globalThis.fetch.bind(globalThis) };
    if (shared && stream && !token && !fetch) this.#link = createLink(base, this.#linkHandlers());
  }

  /**
   * Calls `callback(operation)` with each new state of one operation, of several (a list of ids),
   * or of all ("*"). Returns a function that ends the subscription.
   */
  subscribe(target, callback, options = {}) {
    if (this.#closed) throw new ProgressError("The client is closed. Create a new one.");
    const subscription = new Subscription(target, callback, options);
    this.#subscriptions.add(subscription);
    this.#regroupSoon();
    return () => this.#subscriptions.delete(subscription) && this.#regroupSoon();
  }

  /**
   * Calls `callback(operation)` once, when the operation ends in any way but failure. Returns an
   * unsubscribe function.
   */
  onComplete(id, callback) {
    return this.subscribe(id, () => {}, { onComplete: callback });
  }

  /** Calls `callback(error)` when the operation fails, does not exist, or may not be read. */
  onError(id, callback) {
    return this.subscribe(id, () => {}, { onError: callback });
  }

  /**
   * Calls `callback({state, since, detail})` now and on every change of the connection. Returns an
   * unsubscribe function.
   */
  onState(callback) {
    this.#listeners.add(callback);
    callback(this.state);
    return () => this.#listeners.delete(callback);
  }

  /** State of the worst connection: {state, since, detail}. */
  get state() {
    if (this.#link && !this.#closed) return this.#link.state;
    const order = ["unauthorized", "stale", "reconnecting", "connecting", "polling", "live"];
    const states = [this.#channels.all, this.#channels.named].filter(Boolean).map((channel) => channel.state);
    const worst = order.find((name) => states.some((one) => one.state === name));
    return (
      states.find((one) => one.state === worst) ?? {
        state: this.#closed ? "closed" : "idle",
        since: Date.now(),
        detail: null,
      }
    );
  }

  /**
   * Age of an operation's document in seconds: `read_at` uses the server's clock, which may differ
   * from ours.
   */
  ageOf({ read_at: readAt }) {
    return Math.max(0, this.#clock.now / 1000 - readAt);
  }

  /** Requests a page of operations: `list({status: "running", type: ["a", "b"], limit: 50})`. */
  list(query = {}) {
    return this.request("operations", { query });
  }

  /** Requests one operation. Rejects with a ProgressError of status 404 if it does not exist. */
  get(id, { levels = true } = {}) {
    return this.request(`operations/${encodeURIComponent(id)}`, { query: { levels } });
  }

  /** Sends any request below /api/v1/ and returns its document. */
  async request(path, { query = {}, method = "GET", body, signal } = {}) {
    const headers = this.#headers({ Accept: "application/json" });
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const init = {
      method,
      headers,
      signal,
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    };
    const response = await this.#fetch(this.#url(path, query), init);
    return response.status === 204 ? null : response.json();
  }

  /** Connects again: after a login or a log-out. */
  reconnect() {
    this.#link?.restart();
    for (const channel of [this.#channels.all, this.#channels.named]) channel?.restart();
  }

  /**
   * While `quiet` (milliseconds) is above 0, polls only at that interval: for a hidden page. A
   * shared connection is closed while all pages are hidden.
   */
  setQuiet(milliseconds) {
    if (milliseconds === this.#quiet) return;
    this.#quiet = milliseconds;
    for (const channel of [this.#channels.all, this.#channels.named]) channel?.restart();
  }

  /** Closes all connections and subscriptions. */
  close() {
    this.#closed = true;
    this.#subscriptions.clear();
    this.#regroupNow();
    this.#link?.close();
    this.#link = null;
    this.#listeners.clear();
  }

  #regroupSoon() {
    if (this.#regroup) return;
    this.#regroup = true;
    // Subscriptions made in the same task share one connection.
    queueMicrotask(() => this.#regroupNow());
  }

  #regroupNow() {
    this.#regroup = false;
    const subscriptions = [...this.#subscriptions];
    const named = subscriptions.filter((one) => one.ids !== null);
    const ids = [...new Set(named.flatMap((one) => one.ids))].sort();
    const levels = named.some((one) => one.levels);
    if (this.#link) {
      const all = subscriptions.some((one) => one.ids === null);
      this.#link.want({ all, ids, levels, interval: this.#interval() });
      this.#replay(this.#link);
      this.#announce();
      return;
    }
    this.#open("all", subscriptions.some((one) => one.ids === null) ? { ids: null, levels: false } : null);
    this.#open("named", ids.length ? { ids, levels } : null);
    this.#announce();
  }

  #open(name, wanted) {
    const current = this.#channels[name];
    if (wanted && current?.wants(wanted)) {
      if (name === "named") this.#replay(current);
      return;
    }
    current?.close();
    this.#channels[name] = wanted && new Channel(this.#transport(), wanted, name);
    this.#channels[name]?.start();
  }

  /** Sends known documents to a new subscription at once. */
  #replay(channel) {
    for (const one of this.#subscriptions) {
      if (one.ids && !one.told) for (const operation of channel.known(one.ids)) this.#deliver(one, operation);
    }
  }

  #transport() {
    return {
      stream: (query, init) =>
        this.#fetch(this.#url("stream", query), { ...init, headers: this.#headers(init.headers) }),
      request: (path, options) => this.request(path, options),
      allowed: () => this.#options.stream && !this.#quiet,
      interval: () => this.#quiet || this.#interval(),
      message: (name, kind, data) => this.#dispatch(name, kind, data),
      announce: () => this.#announce(),
      received: () => {
        this.#received();
        if (this.#clock.isDoubtful) this.reconnect(); // the response has the server's time
      },
    };
  }

  #linkHandlers() {
    return {
      clock: (now) => this.#clock.set(now),
      message: (name, kind, data) => this.#dispatch(name, kind, data),
      announce: () => this.#announce(),
      received: (at) => this.#received(at),
    };
  }

  /** `at`: Unix milliseconds. A tab that joins learns of an earlier contact of the host. */
  #received(at = Date.now()) {
    this.receivedAt = performance.now() - Math.max(0, Date.now() - at);
  }

  #interval() {
    const asked = [...this.#subscriptions].map((one) => one.pollInterval).filter(Boolean);
    return Math.max(100, Math.min(this.#options.pollInterval, ...asked));
  }

  #dispatch(name, kind, data) {
    for (const one of [...this.#subscriptions]) {
      if ((one.ids === null) !== (name === "all")) continue;
      if (kind === "snapshot") this.#deliver(one, data);
      else if (kind === "missing" && one.ids?.includes(data.operation_id)) one.fail(data.error);
      else if (kind === "item" && (one.ids === null || one.ids.includes(data.operation_id)))
        safely(one.onItem, data);
      else if (kind === "preview" && (one.ids === null || one.ids.includes(data.operation_id)))
        safely(one.onPreview, data);
      else if (kind === "batch") safely(one.onBatch, data);
      safely(one.onMessage, kind, data);
    }
  }

  #deliver(subscription, operation) {
    if (subscription.ids !== null && !subscription.ids.includes(operation.operation_id)) return;
    subscription.deliver(operation);
  }

  #announce() {
    const state = this.state;
    for (const listener of this.#listeners) safely(listener, state);
  }

  #headers(more) {
    const { token } = this.#options;
    return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
  }

  #url(path, query) {
    return buildUrl(this.#options.base, path, query);
  }

  async #fetch(url, init) {
    let response;
    try {
      response = await this.#options.fetch(url, { credentials: "same-origin", ...init });
    } catch (error) {
      if (error?.name === "AbortError") throw error;
      throw new ProgressError(`The server at ${url.origin} cannot be reached.`);
    }
    // With a link the clock is that of the host, which is set with each message.
    if (!this.#link) this.#clock.compare(response.headers.get("date"));
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new ProgressError(problem?.detail ?? `The server answered with ${response.status}.`, {
      status: response.status,
      problem,
    });
  }
}

class Subscription {
  #runs = new Map(); // run → true once its end was reported; bounded, see deliver

  constructor(
    target,
    callback,
    { levels = false, pollInterval, onComplete, onError, onItem, onPreview, onBatch, onMessage } = {},
  ) {
    this.ids = target === "*" ? null : [...new Set([target].flat().map(String))];
    Object.assign(this, {
      callback,
      levels,
      pollInterval,
      onComplete,
      onError,
      onItem,
      onPreview,
      onBatch,
      onMessage,
      told: false,
    });
  }

  deliver(operation) {
    this.told = true;
    safely(this.callback, operation);
    if (!this.onComplete && !this.onError) return;
    if (!hasEnded(operation.status) || this.#runs.has(operation.run)) return;
    this.#runs.set(operation.run, true);
    if (this.#runs.size > 1000) this.#runs.delete(this.#runs.keys().next().value);
    if (operation.status !== "failed") safely(this.onComplete, operation);
    else
      safely(
        this.onError,
        new ProgressError(operation.error?.message ?? "The operation failed.", { operation }),
      );
  }

  fail(error) {
    safely(this.onError, error);
  }
}
