/** One operation in full, next to the list; on a phone it replaces the list. */

import { buildUrl } from "./addresses.js";
import { ask, askReason } from "./ask.js";
import { bindBar, makeBar } from "./bar.js";
import { clean, cleanLines, h, keyed, setAttribute, setText, show } from "./dom.js";
import { bindTerms, factsOf, metadataOf } from "./facts.js";
import { percent, rate, typeBeside } from "./format.js";
import { Logs } from "./logs.js";
import { Previews } from "./previews.js";
import { hasEnded } from "./progress-shared.js";
import { Resources } from "./resources.js";
import { bindCount, makeCount, remainingOf } from "./rows.js";
import { bindItem, bindStages, createItem, stagesOf } from "./stages.js";
import { bindSign, KINDS, kindOf, makeSign, reasonOf } from "./states.js";
import { speedOf } from "./store.js";
import { levelRows, Tree } from "./tree.js";

const MOST_ITEMS = 40;
const p = (name) => h("p", { class: name, dir: "auto" });
const titled = (title, name, ...children) =>
  h("section", { class: name, "aria-label": title, hidden: true }, h("h3", {}, title), ...children);

export class Details {
  #context;
  #id = null;
  #open = new Set();
  #parts;
  #logs;
  #resources;
  #previews;
  #tree;
  element;

  constructor(context) {
    this.#context = context;
    this.#logs = new Logs(context.client);
    this.#resources = new Resources(context.client);
    this.#previews = new Previews(context.client);
    const runway = h("div", { class: "runway", role: "none" });
    const tree = h(
      "div",
      { class: "tree", role: "tree", tabindex: "0", "aria-label": "Levels", "data-compact": true },
      runway,
    );
    this.#parts = { ...this.#makeHead(), ...this.#makeSections(tree), tree };
    this.#tree = new Tree(tree, runway, {
      onToggle: (row, open) => this.#toggle(row, open),
      onOpen: () => {},
      onClose: () => this.#close(),
    });
    const { head, missing, body } = this.#parts;
    this.element = h(
      "aside",
      { class: "details", "aria-labelledby": "details-name", hidden: true },
      head,
      missing,
      body,
    );
    this.element.addEventListener(
      "keydown",
      (event) => event.key === "Escape" && !event.defaultPrevented && this.#close(),
    );
  }

  #makeHead() {
    const close = h(
      "button",
      { type: "button", class: "close", "aria-label": "Close details", onclick: () => this.#close() },
      "✕",
    );
    const parts = {
      sign: makeSign(),
      word: h("span", { class: "word" }),
      name: h("h2", { id: "details-name", dir: "auto", tabindex: "-1" }),
      sub: p("sub"),
    };
    const chip = h("span", { class: "chip" }, parts.sign, parts.word);
    return {
      ...parts,
      close,
      missing: h("p", { class: "nothing", role: "status" }),
      head: h("header", {}, h("div", { class: "line" }, chip, close), parts.name, parts.sub),
    };
  }

  #makeSections(tree) {
    const parts = {
      percent: h("span", { class: "percent" }),
      left: h("span", { class: "left" }),
      ends: h("span", { class: "ends" }),
      bar: makeBar(),
      count: makeCount(),
      rate: h("span", { class: "rate" }),
      reason: p("reason"),
      message: p("message"),
      cancel: h("button", { type: "button", class: "danger", onclick: () => this.#cancel() }, "Cancel…"),
      fail: h(
        "button",
        { type: "button", class: "danger", onclick: () => this.#fail() },
        "Mark as failed…",
      ),
      remove: h("button", { type: "button", class: "danger", onclick: () => this.#delete() }, "Delete…"),
      json: h("a", { download: true }, "Export JSON"),
      csv: h("a", { download: true }, "Export CSV"),
      batch: h("a", {}, "Batch"),
      answer: h("p", { class: "answer", role: "status" }),
      errorType: h("strong", { dir: "auto" }),
      errorText: p("error-text"),
      trace: h("pre", { dir: "ltr", tabindex: "0" }),
      cards: h("ul", { class: "cards" }),
      list: h("ul", { class: "items" }),
      facts: h("dl", { class: "facts" }),
      extra: h("dl", { class: "facts" }),
    };
    parts.more = h("details", {}, h("summary", {}, "Details"), parts.trace);
    const figures = h(
      "div",
      { class: "figures" },
      parts.percent,
      h("span", { class: "time" }, parts.left, parts.ends),
    );
    const hero = h(
      "section",
      { class: "hero", "aria-label": "Progress" },
      figures,
      parts.bar,
      h("div", { class: "under" }, parts.count, parts.rate),
      parts.reason,
      parts.message,
    );
    const actions = h(
      "div",
      { class: "actions" },
      parts.cancel,
      parts.fail,
      parts.remove,
      parts.batch,
      parts.json,
      parts.csv,
    );
    Object.assign(parts, {
      error: titled("Error", "error", h("p", {}, parts.errorType), parts.errorText, parts.more),
      stages: titled("Stages", "stages", parts.cards),
      levels: titled("Levels", "levels", tree),
      items: titled("Recent items", "recent", parts.list),
      metadata: titled("Metadata", "metadata", parts.extra),
      about: titled("About", "about", parts.facts),
    });
    const sections = [
      parts.error,
      parts.stages,
      parts.levels,
      parts.items,
      this.#previews.element,
      this.#resources.element,
      parts.metadata,
      parts.about,
    ];
    return {
      ...parts,
      body: h("div", { class: "body" }, hero, actions, parts.answer, ...sections, this.#logs.element),
    };
  }

  /** Shows an operation by its id; null closes the details. */
  set(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.#open.clear();
    show(this.element, id !== null);
    setText(this.#parts.answer, "");
    if (id !== null) return;
    this.#logs.show(null, null, false);
    this.#resources.show(null);
    this.#previews.show(null);
  }

  focus() {
    this.#parts.name.focus();
  }

  draw(now) {
    if (this.#id === null) return;
    const entry = this.#context.store.find(this.#id) ?? null;
    const parts = this.#parts;
    show(parts.body, entry !== null);
    show(parts.missing, entry === null);
    setAttribute(this.element, "data-empty", entry === null);
    if (!entry) {
      const why = this.#context.following.missing.get(this.#id);
      setText(parts.name, clean(this.#id, 200));
      setText(parts.sub, "");
      setText(
        parts.missing,
        why ? "No operation has this id: it never started, or it has expired." : "Loading…",
      );
      return;
    }
    const kind = kindOf(entry, now);
    setAttribute(this.element, "data-kind", kind);
    this.#drawHead(entry, kind, now);
    this.#drawActions(entry.doc, kind);
    this.#drawError(entry.doc.error);
    this.#drawLevels(entry, kind, now);
    bindTerms(parts.facts, factsOf(entry, kind, now));
    show(parts.about, true);
    const metadata = metadataOf(entry.doc.metadata);
    show(parts.metadata, metadata.length > 0);
    bindTerms(parts.extra, metadata);
    this.#resources.show(entry.doc);
    this.#previews.show(entry.doc, this.#context.following.previewsOf(entry.doc));
    this.#logs.show(entry.doc.operation_id, entry.doc.run, !hasEnded(entry.doc.status));
  }

  #drawHead(entry, kind, now) {
    const { doc } = entry;
    const parts = this.#parts;
    const [left, ends] = remainingOf(entry, kind, now);
    const reason = kind === "failed" ? "" : reasonOf(entry, kind, now);
    bindSign(parts.sign, kind);
    setText(parts.word, KINDS[kind].word);
    setText(parts.name, clean(doc.name || doc.operation_id, 400));
    const type = clean(typeBeside(doc.name, doc.operation_type), 80);
    setText(parts.sub, `${type}${type ? " · " : ""}${clean(doc.operation_id, 160)}`);
    setText(
      parts.percent,
      doc.percentage === null ? "Total unknown" : percent(doc.percentage, doc.estimated),
    );
    setAttribute(parts.percent, "data-unknown", doc.percentage === null);
    bindBar(parts.bar, doc.percentage, kind, {
      label: "Progress of the operation",
      estimated: doc.estimated,
    });
    setText(parts.left, left);
    setText(parts.ends, ends);
    bindCount(parts.count, doc);
    setText(parts.rate, rate(speedOf(entry), doc.unit, doc.unit_plural));
    show(parts.reason, reason !== "");
    setText(parts.reason, clean(reason));
    show(parts.message, Boolean(doc.message));
    setText(parts.message, clean(doc.message ?? "", 2000));
  }

  #drawActions({ operation_id: id, status, batch, cancel_requested_at: asked }, kind) {
    const { cancel, fail, remove, json, csv, batch: link } = this.#parts;
    const path = `operations/${encodeURIComponent(id)}/export`;
    const exportAs = (format) => buildUrl(document.baseURI, path, { format }).href;
    show(cancel, !hasEnded(status));
    setAttribute(cancel, "disabled", Boolean(asked));
    setText(cancel, asked ? "Cancel requested" : "Cancel…");
    const silent = kind === "abandoned" || kind === "silent";
    show(fail, silent);
    show(remove, hasEnded(status) || silent);
    show(link, Boolean(batch));
    if (batch) setAttribute(link, "href", `#/batches/${encodeURIComponent(batch)}`);
    setAttribute(json, "href", exportAs("json"));
    setAttribute(csv, "href", exportAs("csv"));
  }

  #drawError(error) {
    const { error: section, errorType, errorText, more, trace } = this.#parts;
    show(section, Boolean(error));
    if (!error) return;
    setText(errorType, clean(error.type, 200));
    setText(errorText, clean(error.message, 4000));
    show(more, Boolean(error.details));
    setText(trace, cleanLines(error.details ?? ""));
  }

  #drawLevels(entry, kind, now) {
    const parts = this.#parts;
    const levels = this.#context.following.levelsOf(entry.doc) ?? [];
    const items = this.#context.following.itemsOf(entry.doc);
    show(parts.stages, stagesOf(levels).length > 0);
    bindStages(parts.cards, levels, items);
    show(parts.items, items.length > 0);
    keyed(parts.list, items.slice(-MOST_ITEMS).reverse(), (item) => item.number, createItem, bindItem);
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const isOpen = (key) => this.#open.has(key);
    const evicted = this.#context.following.evictedOf(entry.doc);
    const place = { height: 3.5 * rem, depth: 0, parentKind: kind };
    const rows = levelRows({ entry, now, levels, evicted, isOpen, ...place });
    show(parts.levels, rows.length > 0);
    const height = `${Math.min(rows.reduce((sum, row) => sum + row.height, 0) + 2, 26 * rem)}px`;
    if (parts.tree.style.height !== height) parts.tree.style.height = height;
    this.#tree.update(rows);
  }

  #toggle(row, open) {
    if (open) this.#open.add(row.key);
    else this.#open.delete(row.key);
    this.#context.draw();
  }

  #close() {
    this.#context.close();
  }

  async #cancel() {
    const id = this.#id;
    const text = "The process is asked to stop and does so at its next safe point. Completed work is kept.";
    const options = { title: "Cancel this operation?", text, yes: "Request cancel", danger: true };
    const reason = await askReason(options);
    if (reason === null) return;
    const body = { reason: reason || "Cancelled on the live page." };
    await this.#send(id, "POST", "/cancel", body, "Cancel requested.");
  }

  /** Ends an operation whose process has ended without reporting an end. */
  async #fail() {
    const id = this.#id;
    const text =
      "Its process no longer sends heartbeats. The operation ends as failed, with the reason as its error. " +
      "This cannot be undone.";
    const options = { title: "Mark this operation as failed?", text, yes: "Mark as failed", danger: true };
    const reason = await askReason(options);
    if (reason === null) return;
    const body = { reason: reason || "its process exited without an end" };
    // The button disappears, so the focus would be lost.
    if ((await this.#send(id, "POST", "/fail", body, "Marked as failed.")) && this.#id === id) this.focus();
  }

  async #delete() {
    const id = this.#id;
    const text =
      "Deletes all finished runs of this operation with their events and logs. This cannot be undone.";
    if (!(await ask({ title: "Delete this operation?", text, yes: "Delete", danger: true }))) return;
    const run = this.#context.store.find(id)?.doc.run;
    if (!(await this.#send(id, "DELETE", "", undefined, "Deleted."))) return;
    this.#context.store.remove(run);
    if (this.#id === id) this.#close();
  }

  /** Sends a request about an operation. Shows the answer unless the details of another are open. */
  async #send(id, method, action, body, done) {
    const say = (text) => this.#id === id && setText(this.#parts.answer, text);
    say("");
    try {
      await this.#context.client.request(`operations/${encodeURIComponent(id)}${action}`, { method, body });
      say(done);
      return true;
    } catch (error) {
      const isRefused = error.status === 401;
      say(isRefused ? "Not allowed: the session has ended. Reload the page to log in." : clean(error.message));
      return false;
    }
  }
}
