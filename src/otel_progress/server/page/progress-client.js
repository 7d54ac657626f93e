/**
 * progress-client: follows operations of an otel-progress server, and says so when it cannot.
 *
 * One connection for everything ("*") and one for operations by id, each read with fetch() as server-sent events: unlike
 * EventSource that shows heartbeats (so silence is noticed), takes an Authorization header and sees why a request was
 * refused. A connection that breaks is made again within two seconds and resumes where it left off. Where streams do not get
 * through, the same subscriptions are answered by polling.
 */

import { Channel } from "./progress-channel.js";
import { hasEnded, ProgressError, safely } from "./progress-shared.js";

export { readEvents } from "./event-stream.js";
export { hasEnded, ProgressError };

/** Makes a client. See progress-client.d.ts for the options. */
export const createProgressClient = (options = {}) => new ProgressClient(options);

export class ProgressClient {
  #options;
  #channels = { all: null, named: null };
  #subscriptions = new Set();
  #listeners = new Set();
  #closed = false;
  #regroup = false;
  #quiet = 0;
  #skew = 0;

  constructor({ baseUrl = "", token = null, pollInterval = 1000, stream = true, fetch = null } = {}) {
    const base = new URL(baseUrl || ".", globalThis.document?.baseURI ?? globalThis.location?.href);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.#options = { base, token, pollInterval, stream, fetch: fetch ?? globalThis.fetch.bind(globalThis) };
  }

  /**
   * Calls `callback(operation)` with each new state of an operation, of several (a list of ids), or of all ("*").
   * Returns a function that ends the subscription.
   */
  subscribe(target, callback, options = {}) {
    if (this.#closed) throw new ProgressError("The client is closed: make a new one.");
    const subscription = new Subscription(target, callback, options);
    this.#subscriptions.add(subscription);
    this.#regroupSoon();
    return () => this.#subscriptions.delete(subscription) && this.#regroupSoon();
  }

  /** Calls `callback(operation)` once, when the operation has ended in any way but failure. Returns a function that ends it. */
  onComplete(id, callback) {
    return this.subscribe(id, () => {}, { onComplete: callback });
  }

  /** Calls `callback(error)` when the operation has failed, is not there, or may not be asked for. */
  onError(id, callback) {
    return this.subscribe(id, () => {}, { onError: callback });
  }

  /** Calls `callback({state, since, detail})` now and whenever the connection changes. Returns a function that ends it. */
  onState(callback) {
    this.#listeners.add(callback);
    callback(this.state);
    return () => this.#listeners.delete(callback);
  }

  /** How the worst of the connections is: {state, since, detail}. */
  get state() {
    const order = ["unauthorized", "stale", "reconnecting", "connecting", "polling", "live"];
    const states = [this.#channels.all, this.#channels.named].filter(Boolean).map((channel) => channel.state);
    const worst = order.find((name) => states.some((one) => one.state === name));
    return states.find((one) => one.state === worst) ?? { state: this.#closed ? "closed" : "idle", since: Date.now(), detail: null };
  }

  /** Seconds an operation's document is old now: it was read at `read_at` by the server's clock, which may differ from ours. */
  ageOf({ read_at: readAt }) {
    return Math.max(0, (Date.now() + this.#skew) / 1000 - readAt);
  }

  /** Asks for a page of operations: `list({status: "running", type: ["a", "b"], limit: 50})`. */
  list(query = {}) {
    return this.request("operations", { query });
  }

  /** Asks for one operation. Rejects with a ProgressError of status 404 when there is none. */
  get(id, { levels = true } = {}) {
    return this.request(`operations/${encodeURIComponent(id)}`, { query: { levels } });
  }

  /** Sends any request below /api/v1/ and returns its document. */
  async request(path, { query = {}, method = "GET", body, signal } = {}) {
    const headers = this.#headers({ Accept: "application/json" });
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const init = { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) };
    const response = await this.#fetch(this.#url(path, query), init);
    return response.status === 204 ? null : response.json();
  }

  /** While quiet (milliseconds above 0) it only polls that often: for a page nobody looks at. */
  setQuiet(milliseconds) {
    if (milliseconds === this.#quiet) return;
    this.#quiet = milliseconds;
    for (const channel of [this.#channels.all, this.#channels.named]) channel?.restart();
  }

  /** Ends every connection and subscription. */
  close() {
    this.#closed = true;
    this.#subscriptions.clear();
    this.#regroupNow();
    this.#listeners.clear();
  }

  #regroupSoon() {
    if (this.#regroup) return;
    this.#regroup = true;
    queueMicrotask(() => this.#regroupNow()); // several subscriptions made at once are one connection
  }

  #regroupNow() {
    this.#regroup = false;
    const subscriptions = [...this.#subscriptions];
    const named = subscriptions.filter((one) => one.ids !== null);
    const ids = [...new Set(named.flatMap((one) => one.ids))].sort();
    const levels = named.some((one) => one.levels);
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

  /** A new subscription to what is followed already starts with what is known. */
  #replay(channel) {
    for (const one of this.#subscriptions) {
      if (one.ids && !one.told) for (const operation of channel.known(one.ids)) this.#deliver(one, operation);
    }
  }

  #transport() {
    return {
      stream: (query, init) => this.#fetch(this.#url("stream", query), { ...init, headers: this.#headers(init.headers) }),
      request: (path, options) => this.request(path, options),
      allowed: () => this.#options.stream && !this.#quiet,
      interval: () => this.#quiet || this.#interval(),
      message: (name, kind, data) => this.#dispatch(name, kind, data),
      announce: () => this.#announce(),
    };
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
      else if (kind === "item" && (one.ids === null || one.ids.includes(data.operation_id))) safely(one.onItem, data);
      else if (kind === "preview" && (one.ids === null || one.ids.includes(data.operation_id))) safely(one.onPreview, data);
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
    const url = new URL(`api/v1/${path}`, this.#options.base);
    for (const [key, value] of Object.entries(query)) {
      for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null) url.searchParams.append(key, one);
    }
    return url;
  }

  async #fetch(url, init) {
    let response;
    try {
      response = await this.#options.fetch(url, { credentials: "same-origin", ...init });
    } catch (error) {
      if (error?.name === "AbortError") throw error;
      throw new ProgressError(`The server at ${url.origin} was not reached.`);
    }
    this.#compare(response.headers.get("date"));
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new ProgressError(problem?.detail ?? `The server answered with ${response.status}.`, { status: response.status, problem });
  }

  /** The header has whole seconds: a difference of less than two is none. */
  #compare(date) {
    const skew = Date.parse(date ?? "") + 500 - Date.now();
    if (Number.isFinite(skew)) this.#skew = Math.abs(skew) < 2000 ? 0 : skew;
  }
}

class Subscription {
  #runs = new Map(); // run → true once its end was told; bounded, see deliver

  constructor(target, callback, { levels = false, pollInterval, onComplete, onError, onItem, onBatch, onMessage } = {}) {
    this.ids = target === "*" ? null : [...new Set([target].flat().map(String))];
    Object.assign(this, { callback, levels, pollInterval, onComplete, onError, onItem, onBatch, onMessage, told: false });
  }

  deliver(operation) {
    this.told = true;
    safely(this.callback, operation);
    if (!this.onComplete && !this.onError) return;
    if (!hasEnded(operation.status) || this.#runs.has(operation.run)) return;
    this.#runs.set(operation.run, true);
    if (this.#runs.size > 1000) this.#runs.delete(this.#runs.keys().next().value);
    if (operation.status !== "failed") safely(this.onComplete, operation);
    else safely(this.onError, new ProgressError(operation.error?.message ?? "The operation failed.", { operation }));
  }

  fail(error) {
    safely(this.onError, error);
  }
}
