/** Batches: one card per batch, and one batch in full with its failed operations. */

import { ask, askReason } from "./ask.js";
import { bindBar, makeBar } from "./bar.js";
import { clean, h, keyed, setAttribute, setText, show } from "./dom.js";
import { count, moment, passed, percent, rate } from "./format.js";
import { hasEnded } from "./progress-shared.js";
import { bindSign, KINDS, makeSign } from "./states.js";

const PARTS = ["completed", "running", "pending", "failed", "abandoned", "cancelled", "skipped"];
const EVERY_MS = 1500;

export class BatchesView {
  #context;
  #id = null;
  #whole = null; // the document of the batch shown in full
  #why = "";
  #timer = 0;
  #cards = h("ul", { class: "batch-cards" });
  #empty = h(
    "div",
    { class: "nothing" },
    h("p", { class: "big" }, "No batches."),
    h("p", {}, "A batch groups operations that belong together, in one process or many."),
  );
  #one = createBatch({ whole: true });
  #cancel = h("button", { type: "button" }, "Cancel…");
  #close = h("button", { type: "button" }, "Close");
  #remove = h("button", { type: "button" }, "Delete…");
  #answer = h("p", { class: "answer", role: "status" });
  #actions = h("div", { class: "actions", hidden: true }, this.#cancel, this.#close, this.#remove);
  #failed = h("ul", { class: "links" });
  #active = h("ul", { class: "links" });
  #back = h("p", {}, h("a", { href: "#/batches" }, "← All batches"));
  #lists = [section("Failed", this.#failed), section("Running", this.#active)];
  element = h(
    "section",
    { class: "batches page", "aria-label": "Batches", hidden: true },
    this.#back,
    this.#empty,
    this.#cards,
    this.#one,
    this.#actions,
    this.#answer,
    ...this.#lists,
  );

  constructor(context) {
    this.#context = context;
    this.#cancel.addEventListener("click", () => this.#askCancel());
    this.#close.addEventListener("click", () => this.#send("POST", "/close", undefined, "Closed."));
    this.#remove.addEventListener("click", () => this.#askDelete());
  }

  /** Shows all batches, or one in full. */
  set(id) {
    const visible = id !== undefined;
    show(this.element, visible);
    clearTimeout(this.#timer);
    if (id !== this.#id) {
      [this.#id, this.#whole, this.#why] = [id ?? null, null, ""];
      setText(this.#answer, "");
    }
    if (visible) this.#load();
  }

  async #load() {
    const id = this.#id;
    try {
      if (id === null) {
        const { batches } = await this.#context.client.request("batches", { query: { limit: 100 } });
        const { store } = this.#context;
        for (const batch of batches.toReversed()) store.foldBatch(batch, performance.now());
        if (batches.length < 100) store.keepBatches(new Set(batches.map((batch) => batch.id)));
      } else {
        const whole = await this.#context.client.request(`batches/${encodeURIComponent(id)}`);
        if (id === this.#id) this.#whole = { doc: whole, at: performance.now() };
      }
      this.#why = "";
    } catch (error) {
      this.#why = error.status === 404 ? "No batch has this id, or the batch has expired." : error.message;
    }
    this.#context.draw();
    const over = this.#whole && hasEnded(this.#whole.doc.status);
    if (id === this.#id && !this.element.hidden && !over) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(), document.hidden ? 10 * EVERY_MS : EVERY_MS);
    }
  }

  draw(now) {
    if (this.element.hidden) return;
    const one = this.#id !== null;
    const all = one ? [] : [...this.#context.store.batches.values()].sort(order);
    keyed(
      this.#cards,
      all,
      ({ doc }) => doc.id,
      () => h("li", {}, createBatch({})),
      (node, batch) => bindBatch(node.firstChild, batch, now),
    );
    show(this.#back, one);
    show(this.#cards, !one);
    show(this.#one, one && this.#whole !== null);
    show(this.#empty, one ? this.#whole === null : all.length === 0);
    setText(this.#empty.firstChild, one ? this.#why || "Loading…" : "No batches.");
    show(this.#empty.lastChild, !one);
    if (this.#whole) bindBatch(this.#one, this.#whole, now);
    show(this.#actions, one && this.#whole !== null);
    if (this.#whole) this.#drawActions(this.#whole.doc);
    this.#bindLinks(0, this.#failed, this.#whole?.doc.failed ?? []);
    this.#bindLinks(1, this.#active, this.#whole?.doc.active ?? []);
  }

  /** A batch without an active operation cannot be cancelled, and a finished one is closed. */
  #drawActions(doc) {
    const active = doc.counts.running + doc.counts.pending - doc.abandoned;
    show(this.#cancel, active > 0);
    show(this.#close, !hasEnded(doc.status));
    show(this.#remove, active <= 0);
  }

  async #askCancel() {
    const text = "Its operations are asked to stop and do so at their next safe point.";
    const options = { title: "Cancel all operations of this batch?", text, yes: "Request cancel", danger: true };
    const reason = await askReason(options);
    if (reason === null) return;
    await this.#send("POST", "/cancel", { reason: reason || "Cancelled on the live page." }, "Cancel requested.");
  }

  async #askDelete() {
    const id = this.#id;
    const text = "Deletes the batch and its operations with their events and logs. This cannot be undone.";
    if (!(await ask({ title: "Delete this batch?", text, yes: "Delete", danger: true }))) return;
    if (!(await this.#send("DELETE", "", undefined, "Deleted."))) return;
    this.#context.store.batches.delete(id);
    if (this.#id === id) this.#context.go("#/batches");
  }

  /** Sends a request about the batch. Shows the answer unless another one is open. */
  async #send(method, action, body, done) {
    const id = this.#id;
    const say = (text) => this.#id === id && setText(this.#answer, text);
    say("");
    try {
      await this.#context.client.request(`batches/${encodeURIComponent(id)}${action}`, { method, body });
      say(done);
      if (method !== "DELETE" && this.#id === id) this.#load();
      return true;
    } catch (error) {
      const isRefused = error.status === 401;
      say(isRefused ? "Not allowed: the session has ended. Reload the page to log in." : clean(error.message));
      return false;
    }
  }

  #bindLinks(place, list, operations) {
    show(this.#lists[place], operations.length > 0);
    keyed(list, operations, ({ run }) => run, createLink, bindLink);
  }
}

const section = (title, list) =>
  h("section", { "aria-label": title, hidden: true }, h("h3", {}, title), list);
const order = (a, b) =>
  Number(hasEnded(a.doc.status)) - Number(hasEnded(b.doc.status)) || b.doc.started_at - a.doc.started_at;

function createBatch({ whole = false }) {
  const name = h("bdi", { dir: "auto" });
  const parts = {
    sign: makeSign(),
    word: h("span", { class: "word" }),
    name,
    link: whole ? h("h2", {}, name) : h("a", { class: "name" }, name),
    percent: h("span", { class: "percent" }),
    stack: h(
      "div",
      { class: "stack", role: "img" },
      ...PARTS.map((status) => h("span", { "data-kind": status })),
    ),
    bar: makeBar(),
    count: h("span", { class: "count" }),
    rate: h("span", { class: "rate" }),
    time: h("span", { class: "time" }),
    legend: h("ul", { class: "legend" }),
  };
  const head = h(
    "div",
    { class: "head" },
    h("span", { class: "chip" }, parts.sign, parts.word),
    parts.link,
    parts.percent,
  );
  const under = h("div", { class: "under" }, parts.count, parts.rate, parts.time);
  return Object.assign(h("article", { class: "batch" }, head, parts.bar, parts.stack, under, parts.legend), {
    parts,
  });
}

function bindBatch(node, { doc, at }, now) {
  const { parts } = node;
  const ended = hasEnded(doc.status);
  const later = ended ? 0 : Math.max(0, now - at) / 1000;
  const whole = Math.max(
    doc.total ?? 0,
    Object.values(doc.counts).reduce((sum, one) => sum + one, 0),
  );
  setAttribute(node, "data-kind", doc.status);
  bindSign(parts.sign, doc.status);
  setText(parts.word, KINDS[doc.status].word);
  setText(parts.name, clean(doc.name || doc.id, 200));
  if (parts.link.tagName === "A") setAttribute(parts.link, "href", `#/batches/${encodeURIComponent(doc.id)}`);
  setText(parts.percent, doc.percentage === null ? "Total unknown" : percent(doc.percentage));
  bindBar(parts.bar, doc.percentage, doc.status, { label: "Progress of the batch" });
  show(parts.bar, doc.percentage === null);
  show(parts.stack, doc.percentage !== null);
  const numbers = { ...doc.counts, abandoned: doc.abandoned };
  numbers.running = Math.max(0, doc.counts.running - doc.abandoned);
  const shares = PARTS.map((status) => [status, numbers[status] ?? 0]);
  [...parts.stack.children].forEach((share, i) => {
    const width = `${whole ? (100 * shares[i][1]) / whole : 0}%`;
    if (share.style.width !== width) share.style.width = width;
  });
  const present = shares.filter(([, number]) => number > 0);
  setAttribute(
    parts.stack,
    "aria-label",
    present.map(([status, number]) => `${number} ${KINDS[status].word.toLowerCase()}`).join(", "),
  );
  setText(parts.count, count(doc.finished, doc.total, "operation", "operations"));
  setText(parts.rate, ended ? "" : rate(doc.throughput, "operation", "operations"));
  const left =
    doc.remaining_seconds === null || ended
      ? ""
      : `${passed(Math.max(0, doc.remaining_seconds - later))} left`;
  setText(
    parts.time,
    ended
      ? `took ${passed(doc.elapsed_seconds)} · started ${moment(doc.started_at)}`
      : [left, `for ${passed(doc.elapsed_seconds + later)}`].filter(Boolean).join(" · "),
  );
  keyed(
    parts.legend,
    present,
    ([status]) => status,
    createLegend,
    (item, [, number]) => setText(item.lastChild, number.toLocaleString("en")),
  );
}

function createLegend([status]) {
  const sign = makeSign();
  bindSign(sign, status);
  return h("li", { "data-kind": status }, sign, h("span", {}, KINDS[status].word), h("b", {}));
}

function createLink() {
  const parts = {
    sign: makeSign(),
    link: h("a", { dir: "auto" }),
    why: h("span", { class: "note", dir: "auto" }),
  };
  return Object.assign(h("li", { class: "item" }, parts.sign, parts.link, parts.why), { parts });
}

function bindLink(node, doc) {
  const { parts } = node;
  setAttribute(node, "data-kind", doc.status);
  bindSign(parts.sign, doc.status);
  setText(parts.link, clean(doc.name || doc.operation_id, 160));
  setAttribute(parts.link, "href", `#/operations/${encodeURIComponent(doc.operation_id)}`);
  setText(parts.why, clean(doc.error ? `${doc.error.type}: ${doc.error.message}` : (doc.message ?? ""), 300));
}
