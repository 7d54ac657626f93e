/**
 * One connection of the client, open while it has subscriptions: a stream, or polling where streams
 * are blocked. `wanted` is {ids, levels, all}: without `ids` all operations, with `all` the
 * operations by id and all others.
 */

import { readEvents, Silence } from "./event-stream.js";
import { hasEnded, ProgressError } from "./progress-shared.js";

const RETRY_MS = [200, 500, 1000, 1500]; // never more than 2 s, including jitter
const CONNECT_TIMEOUT_MS = 5000;
const STALE_MS = 12_500; // the server sends a heartbeat every 10 s
const DEAD_MS = 22_000;
const STREAM_AGAIN_MS = 30_000;
const PAGE = 200;
const MOST_ACTIVE = 1000;
const MOST_ASKED = 200;
const REFUSED = new Set([404, 405, 406, 422, 501]);

export class Channel {
  #transport;
  #wanted;
  #name;
  #turn = null; // AbortController of one stream or poll; only change, restart and close abort it
  #closed = false;
  #lastId = "";
  #failures = 0;
  #streamAt = 0; // earliest time of the next attempt to stream
  #blocked = false; // a stream was refused, or failed right after polling had worked
  #known = new Map(); // id → newest document of operations subscribed by id
  #missing = new Set();
  // Run → id of running operations, to request their end if a new full set omits them.
  #active = new Map();
  #seen = null; // runs of the full set being received
  state = { state: "connecting", since: Date.now(), detail: null };

  constructor(transport, wanted, name) {
    this.#transport = transport;
    this.#wanted = wanted;
    this.#name = name;
  }

  wants({ ids, levels, all = false }) {
    const { ids: known, levels: has, all: includes = false } = this.#wanted;
    return has === levels && includes === all && JSON.stringify(known) === JSON.stringify(ids);
  }

  /** Requests other operations. A stream continues after its last event. */
  change(wanted) {
    if (this.wants(wanted)) return;
    // Only a stream of all operations before and after can continue.
    const continues = [this.#wanted, wanted].every(({ ids, all }) => !ids || all);
    if (!continues) this.#lastId = "";
    this.#wanted = wanted;
    for (const kept of [this.#known.keys(), this.#missing])
      for (const id of [...kept]) if (!wanted.ids?.includes(id)) this.#unfollow(id);
    this.#turn?.abort();
  }

  #unfollow(id) {
    this.#known.delete(id);
    this.#missing.delete(id);
  }

  known(ids) {
    return ids.map((id) => this.#known.get(id)).filter(Boolean);
  }

  async start() {
    while (!this.#closed) {
      this.#turn = new AbortController();
      const { signal } = this.#turn;
      try {
        if (this.#transport.allowed() && Date.now() >= this.#streamAt) await this.#stream(signal);
        else await this.#poll(signal);
      } catch (error) {
        // A turn that this client ended is no failure: it must not delay the next one.
        if (!signal.aborted) await this.#recover(error, signal);
      }
    }
  }

  /** Retries now, with a stream if streams are allowed. */
  restart() {
    this.#streamAt = this.#failures = 0;
    this.#blocked = false;
    this.#turn?.abort();
  }

  close() {
    this.#closed = true;
    this.#turn?.abort();
  }

  async #stream(signal) {
    const abort = new AbortController(); // of the request: also aborted by timeouts
    signal.addEventListener("abort", () => abort.abort(), { once: true });
    const response = await this.#connect(abort);
    const silence = new Silence(
      [STALE_MS, () => this.#say("stale", "No heartbeat from the server.")],
      [DEAD_MS, () => abort.abort()],
    );
    let trouble = null;
    const onEvent = (event) => {
      const document = JSON.parse(event.data);
      if (event.event === "stale")
        trouble = document.stale ? (document.detail ?? "The journal cannot be read.") : null;
      else this.#take(event, document, signal);
      this.#say(trouble ? "stale" : "live", trouble);
    };
    const onBytes = () => {
      silence.heard();
      if (!trouble) this.#transport.received?.();
      this.#say(trouble ? "stale" : "live", trouble);
    };
    try {
      if (!this.#lastId) this.#tell("reset", { reason: "A new connection starts with the full set." });
      await readEvents(response.body, onEvent, onBytes);
    } finally {
      silence.end();
      abort.abort();
    }
    throw new ProgressError("The server closed the connection.");
  }

  async #connect(abort) {
    const { ids, levels, all } = this.#wanted;
    const headers = { Accept: "text/event-stream", ...(this.#lastId && { "Last-Event-ID": this.#lastId }) };
    const patience = setTimeout(() => abort.abort(), CONNECT_TIMEOUT_MS);
    try {
      const init = { headers, signal: abort.signal, cache: "no-store" };
      const response = await this.#transport.stream(ids ? { operation: ids, levels, all: all || undefined } : {}, init);
      if (response.headers.get("content-type")?.startsWith("text/event-stream")) return response;
      throw new ProgressError("Invalid response: expected an event stream.", { status: 406 });
    } finally {
      clearTimeout(patience);
    }
  }

  #take({ event, id }, document, signal) {
    this.#failures = 0;
    this.#blocked = false;
    if (event === "ready")
      this.#finish(signal, true).catch(() => {}); // the turn was aborted
    else this.#tell(event, document);
    if (id) this.#lastId = id;
  }

  #tell(kind, data) {
    if (this.#closed) return;
    if (kind === "reset") this.#seen = new Set();
    if (kind === "snapshot") this.#note(data);
    if (kind === "gone") this.#forget(data);
    this.#transport.message(this.#name, kind, data);
  }

  #note(operation) {
    const { run, operation_id: id, status } = operation;
    const { ids, all, levels } = this.#wanted;
    if (ids?.includes(id)) {
      // With `all` the operation also arrives without its levels.
      if (!all || !levels || operation.levels) this.#known.set(id, operation);
      this.#missing.delete(id);
    }
    if (ids && !all) return;
    this.#seen?.add(run);
    if (hasEnded(status)) this.#active.delete(run);
    else if (this.#active.size < MOST_ACTIVE) this.#active.set(run, id);
  }

  #forget({ run, operation_id: id }) {
    this.#active.delete(run);
    this.#known.delete(id);
  }

  /**
   * After the full set: requests operations that ran before but are missing, and missing ids; then
   * emits "ready". With `isStream` a failed request does not prevent that: the next full set repeats it.
   */
  async #finish(signal, isStream = false) {
    const seen = this.#seen;
    const vanished = seen ? [...this.#active].filter(([run]) => !seen.has(run)) : [];
    const unknown = (this.#wanted.ids ?? []).filter((id) => !this.#known.has(id) && !this.#missing.has(id));
    for (const [run, id] of [...vanished, ...unknown.map((id) => [null, id])].slice(0, MOST_ASKED))
      try {
        await this.#ask(id, signal);
        this.#active.delete(run);
      } catch (error) {
        if (!isStream || signal.aborted) throw error;
      }
    // The end of an aborted turn or of an earlier full set is not that of the current set.
    if (signal.aborted || this.#seen !== seen) return;
    this.#seen = null;
    this.#tell("ready", { complete: seen !== null });
  }

  async #ask(id, signal) {
    const query = { levels: this.#wanted.levels };
    try {
      this.#tell(
        "snapshot",
        await this.#transport.request(`operations/${encodeURIComponent(id)}`, { query, signal }),
      );
    } catch (error) {
      if (error.status !== 404) throw error;
      this.#miss(id, error);
    }
  }

  #miss(id, error) {
    if (!this.#missing.has(id)) this.#tell("missing", { operation_id: id, error });
    if (this.#wanted.ids?.includes(id)) this.#missing.add(id);
  }

  async #poll(signal) {
    const { ids, all } = this.#wanted;
    this.#lastId = "";
    if (!ids || all) await this.#pollAll(signal);
    for (const id of ids ?? []) await this.#ask(id, signal);
    await this.#finish(signal);
    this.#failures = 0;
    this.#transport.received?.();
    this.#say("polling");
    // Polling that replaces no stream shows nothing about streams.
    if (!this.#blocked && this.#transport.allowed()) {
      // Until a stream delivers data: the server was unreachable, so a stream may work now.
      this.#blocked = true;
      this.#streamAt = 0;
      return;
    }
    await this.#pause(this.#transport.interval(), signal);
  }

  async #pollAll(signal) {
    const found = [];
    let cursor;
    do {
      const query = { status: ["running", "pending"], limit: PAGE, cursor };
      const page = await this.#transport.request("operations", { query, signal });
      found.push(...page.operations);
      cursor = page.next;
    } while (cursor && found.length < MOST_ACTIVE);
    this.#tell("reset", { reason: "Polling always returns the full set." });
    for (const operation of found) this.#tell("snapshot", operation);
  }

  async #recover(error, signal) {
    this.#failures += 1;
    const interrupted = error.name === "AbortError";
    // A damaged message: start again from the full set.
    if (error instanceof SyntaxError) this.#lastId = "";
    if (error.status === 401 || error.status === 403) {
      this.#say("unauthorized", error.message);
      for (const id of this.#wanted.ids ?? []) this.#miss(id, error);
    } else if (this.#failures > 1 || !interrupted) {
      this.#say("reconnecting", interrupted ? "The server does not answer." : error.message);
    }
    // Polling is tried after a refusal, after a stream that fails although polling works, and after
    // every fourth failure in a row. If polling fails too, streams are tried again.
    const polled = Date.now() < this.#streamAt;
    this.#blocked ||= REFUSED.has(error.status);
    if (polled) this.#streamAt = 0;
    else if (this.#blocked || this.#failures % 4 === 0) this.#streamAt = Date.now() + STREAM_AGAIN_MS;
    const wait = RETRY_MS[Math.min(this.#failures, RETRY_MS.length) - 1];
    await this.#pause(interrupted && this.#failures === 1 ? 0 : wait * (0.8 + 0.4 * Math.random()), signal);
  }

  /** Waits until the turn is aborted or the time is over. */
  async #pause(milliseconds, signal) {
    if (signal.aborted) return;
    await new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", finish);
        resolve();
      };
      const timer = setTimeout(finish, milliseconds);
      signal.addEventListener("abort", finish);
    });
  }

  #say(state, detail = null) {
    if (this.#closed || (this.state.state === state && this.state.detail === detail)) return;
    const since = this.state.state === state ? this.state.since : Date.now();
    this.state = { state, since, detail };
    this.#transport.announce();
  }
}
