/**
 * Connection of a tab to the stream host. The host runs in a SharedWorker. Where that does not
 * exist, one visible tab leads: it holds a Web Lock and reaches the others by a BroadcastChannel.
 * Where neither exists, each tab has its own host.
 */

import { ProgressError } from "./progress-shared.js";
import { StreamHost } from "./stream-host.js";

const VERSION = 1; // of the messages: tabs of another version use another host
const CHECK_EVERY_MS = 5000;
// A browser reports a worker that cannot start. This is for hosts that are silent without an error.
const FIRST_ANSWER_MS = 15_000;
const SILENT_AFTER_MS = 45_000; // the host sends a ping every 15 s

/**
 * Returns a link to the host of `base`; null outside of a page of the server. If the host of all
 * tabs fails, the link uses its own.
 */
export function createLink(base, handlers) {
  if (globalThis.document === undefined || base.origin !== globalThis.location.origin) return null;
  return new SharedLink(base, handlers);
}

function openCarrier(base) {
  const name = `otel-progress ${VERSION} ${base.pathname}`;
  return openWorker(base, name) ?? openLeader(base, name) ?? new OwnCarrier(base);
}

class SharedLink {
  #base;
  #carrier;
  #handlers;
  #wanted = null;
  #known = new Map(); // id → newest document of an operation subscribed by id
  #messageAt = Date.now();
  #hasAnswer = false;
  #checkedAt = Date.now();
  #timer;
  #end = new AbortController();
  state = { state: "connecting", since: Date.now(), detail: null };

  /** `handlers`: message(name, kind, data), announce(), received(time), clock(server's time). */
  constructor(base, handlers) {
    this.#base = base;
    this.#handlers = handlers;
    this.#use(openCarrier(base));
    const { signal } = this.#end;
    document.addEventListener("visibilitychange", () => this.#look(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#look(), { signal });
    addEventListener("pagehide", () => this.#carrier.post({ type: "bye" }), { signal });
    this.#timer = setInterval(() => this.#check(), CHECK_EVERY_MS);
  }

  #use(carrier) {
    this.#carrier = carrier;
    carrier.onMessage = (message) => this.#receive(message);
    carrier.onReady = () => this.#post();
    carrier.onFailure = () => this.#fail();
    carrier.setVisible(!document.hidden);
  }

  /** Subscribes to exactly these operations: {all, ids, levels, interval}. */
  want(wanted) {
    if (JSON.stringify(wanted) === JSON.stringify(this.#wanted)) return;
    this.#wanted = wanted;
    for (const id of this.#known.keys()) if (!wanted.ids.includes(id)) this.#known.delete(id);
    this.#post();
  }

  known(ids) {
    return ids.map((id) => this.#known.get(id)).filter(Boolean);
  }

  restart() {
    this.#carrier.post({ type: "restart" });
  }

  close() {
    this.#carrier.post({ type: "bye" });
    clearInterval(this.#timer);
    this.#end.abort();
    this.#carrier.close();
  }

  #post() {
    if (!this.#wanted) return;
    this.#carrier.post({ type: "want", ...this.#wanted, visible: !document.hidden });
  }

  #look() {
    this.#carrier.setVisible(!document.hidden);
    this.#post();
  }

  #receive(message) {
    this.#messageAt = Date.now();
    this.#hasAnswer = true;
    if (message.clock !== undefined) this.#handlers.clock(message.clock);
    if (message.type === "ping") this.#carrier.post({ type: "pong" });
    else if (message.type === "unknown") this.#post();
    else if (message.type === "received") this.#handlers.received(message.at);
    else if (message.type === "state") {
      const { state, since, detail } = message;
      this.state = { state, since, detail };
      this.#handlers.announce();
    } else if (message.type === "message") this.#deliver(message);
  }

  #deliver({ name, kind, data }) {
    if (kind === "snapshot" && name === "named") this.#known.set(data.operation_id, data);
    const { error } = data;
    const isMissing = kind === "missing";
    this.#handlers.message(
      name,
      kind,
      isMissing ? { ...data, error: new ProgressError(error.message, error) } : data,
    );
  }

  /** Detects a host that does not answer. After a suspended time, the host is asked first. */
  #check() {
    const now = Date.now();
    const wasSuspended = now - this.#checkedAt > 3 * CHECK_EVERY_MS;
    this.#checkedAt = now;
    if (document.hidden || wasSuspended || !this.#wanted) this.#messageAt = now;
    if (wasSuspended) this.#post();
    else if (now - this.#messageAt > (this.#hasAnswer ? SILENT_AFTER_MS : FIRST_ANSWER_MS)) this.#fail();
  }

  #fail() {
    const failed = this.#carrier;
    if (failed instanceof OwnCarrier) return;
    failed.onMessage = failed.onReady = failed.onFailure = () => {};
    failed.post({ type: "bye" });
    failed.close();
    this.#use(new OwnCarrier(this.#base));
    this.#post();
  }
}

function openWorker(base, name) {
  if (!globalThis.SharedWorker) return null;
  try {
    return new WorkerCarrier(new SharedWorker(new URL("static/progress-worker.js", base), { type: "module", name }));
  } catch {
    return null; // the browser has no module workers, or a policy forbids them
  }
}

class WorkerCarrier {
  #port;
  onMessage = () => {};
  onFailure = () => {};

  constructor(worker) {
    this.#port = worker.port;
    this.#port.onmessage = ({ data }) => this.onMessage(data);
    worker.onerror = () => this.onFailure();
  }

  post(message) {
    this.#port.postMessage(message);
  }

  /** The host receives the visibility with each message. */
  setVisible() {}

  close() {
    this.#port.close();
  }
}

function openLeader(base, name) {
  if (!globalThis.BroadcastChannel || !globalThis.navigator.locks || !globalThis.crypto?.randomUUID) return null;
  return new LeaderCarrier(base, name);
}

class LeaderCarrier {
  #base;
  #name;
  #id = crypto.randomUUID();
  #channel;
  #host = null; // while this tab leads
  #ports = new Map(); // id of a tab → port of the host
  #lead = null; // ends the request for the lock, or the lead
  onMessage = () => {};
  onReady = () => {};
  onFailure = () => {};

  constructor(base, name) {
    this.#base = base;
    this.#name = name;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#route(data);
  }

  post(message) {
    const envelope = { to: "host", from: this.#id, message };
    if (this.#host) this.#route(envelope);
    else this.#channel.postMessage(envelope);
  }

  /** Only visible tabs lead, because the timers of hidden tabs are slow. */
  setVisible(visible) {
    if (!visible) {
      this.#lead?.abort();
      this.#lead = null;
    } else if (!this.#lead) {
      const lead = (this.#lead = new AbortController());
      const run = () => this.#run(lead.signal);
      navigator.locks.request(this.#name, { signal: lead.signal }, run).catch(() => {});
    }
  }

  close() {
    this.setVisible(false);
    this.#channel.close();
  }

  /** Leads until the signal aborts. */
  async #run(signal) {
    if (signal.aborted) return;
    this.#host = new StreamHost(this.#base);
    this.#channel.postMessage({ to: "all" });
    this.onReady();
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    this.#host.close();
    this.#host = null;
    this.#ports.clear();
  }

  #route({ to, from, message }) {
    if (to === "all") this.onReady();
    else if (to === this.#id) this.onMessage(message);
    else if (to === "host" && this.#host) this.#host.receive(this.#portOf(from), message);
    if (to === "host" && message.type === "bye") this.#ports.delete(from);
  }

  #portOf(id) {
    if (!this.#ports.has(id)) {
      const isOwn = id === this.#id;
      const send = (message) => {
        if (isOwn) queueMicrotask(() => this.onMessage(message));
        else this.#channel.postMessage({ to: id, message });
      };
      this.#ports.set(id, { postMessage: send });
    }
    return this.#ports.get(id);
  }
}

/** Host of this tab only. */
class OwnCarrier {
  #host;
  onMessage = () => {};
  #port = { postMessage: (message) => queueMicrotask(() => this.onMessage(message)) };

  constructor(base) {
    this.#host = new StreamHost(base);
  }

  post(message) {
    this.#host.receive(this.#port, message);
  }

  setVisible() {}

  close() {
    this.#host.close();
  }
}
