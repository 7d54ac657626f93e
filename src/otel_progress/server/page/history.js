/** History: finished operations, newest first, each duration compared with others of its type. */

import { clean, h, keyed, setAttribute, setText, show } from "./dom.js";
import { duration, moment, typeBeside } from "./format.js";
import { amountOf } from "./rows.js";
import { bindSign, endKindOf, KINDS, makeSign } from "./states.js";

const PAGE = 50;
const MOST = 1000;

export class HistoryView {
  #context;
  #type = "";
  #operations = [];
  #next = null;
  #loading = false;
  #field = h("input", {
    type: "search",
    placeholder: "All types",
    "aria-label": "Only this type",
    list: "history-types",
    maxlength: "200",
  });
  #types = h("datalist", { id: "history-types" });
  #summary = h("p", { class: "summary", role: "status" });
  #body = h("tbody");
  #table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ...["Status", "Operation", "Ended", "Duration", "Done"].map((title) =>
          h("th", { scope: "col" }, title),
        ),
      ),
    ),
    this.#body,
  );
  #more = h("button", { type: "button", class: "primary", onclick: () => this.#load() }, "Show older");
  #empty = h("div", { class: "nothing" }, h("p", { class: "big" }, "No finished operations yet."));
  element = h(
    "section",
    { class: "history page", "aria-label": "History", hidden: true },
    h("div", { class: "filters" }, this.#field, this.#types, this.#summary),
    this.#empty,
    this.#table,
    this.#more,
  );

  constructor(context) {
    this.#context = context;
    this.#field.addEventListener("change", () => this.set(true, this.#field.value.trim()));
  }

  /** Reloads the history of one type or of all. */
  set(visible, type = this.#type) {
    show(this.element, visible);
    if (!visible) {
      this.#operations = [];
      this.#body.replaceChildren();
      this.#body.nodesByKey?.clear();
      return;
    }
    [this.#type, this.#operations, this.#next] = [type, [], null];
    if (this.#field.value !== type) this.#field.value = type;
    this.#load();
  }

  async #load() {
    if (this.#loading) return;
    this.#loading = true;
    const type = this.#type;
    try {
      const page = await this.#context.client.request("history", {
        query: { type: type || null, limit: PAGE, cursor: this.#next },
      });
      if (type !== this.#type || this.element.hidden) return;
      this.#operations = [...this.#operations, ...page.operations].slice(0, MOST);
      this.#next = this.#operations.length < MOST ? page.next : null;
    } catch (error) {
      setText(this.#summary, clean(error.message));
      return;
    } finally {
      this.#loading = false;
      if (type !== this.#type && !this.element.hidden) this.#load();
    }
    this.#draw();
  }

  #draw() {
    const found = this.#operations;
    const longest = new Map();
    for (const { operation_type: type, duration_s: took } of found)
      longest.set(type, Math.max(longest.get(type) ?? 0, took ?? 0));
    keyed(
      this.#types,
      [...longest.keys()],
      (type) => type,
      (type) => h("option", { value: type }),
      () => {},
    );
    keyed(
      this.#body,
      found,
      ({ run }) => run,
      createLine,
      (node, doc) => bindLine(node, doc, longest.get(doc.operation_type)),
    );
    show(this.#empty, found.length === 0);
    show(this.#table, found.length > 0);
    show(this.#more, this.#next !== null);
    setText(this.#summary, summary(found));
  }
}

function summary(found) {
  const took = found
    .filter(({ status, duration_s }) => status === "completed" && duration_s !== null)
    .map(({ duration_s }) => duration_s);
  if (!found.length) return "";
  const failed = found.filter((doc) => doc.status === "failed" && !doc.superseded_by).length;
  const middle = took.sort((a, b) => a - b)[Math.floor(took.length / 2)];
  return [
    `${found.length} shown`,
    failed ? `${failed} failed` : "none failed",
    took.length ? `half took less than ${duration(middle)}` : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

function createLine() {
  const parts = {
    sign: makeSign(),
    word: h("span", { class: "word" }),
    link: h("a", { dir: "auto" }),
    type: h("span", { class: "type", dir: "auto" }),
    why: h("span", { class: "note", dir: "auto" }),
    ended: h("td", { class: "ended" }),
    took: h("span"),
    length: h("span", { class: "length", "aria-hidden": "true" }),
    done: h("td", { class: "done" }),
  };
  const chip = h("span", { class: "chip" }, parts.sign, parts.word);
  const name = h("td", { class: "what" }, parts.link, parts.type, parts.why);
  const took = h("td", { class: "took" }, parts.took, parts.length);
  return Object.assign(h("tr", {}, h("td", {}, chip), name, parts.ended, took, parts.done), { parts });
}

function bindLine(node, doc, longest) {
  const { parts } = node;
  const kind = endKindOf(doc);
  setAttribute(node, "data-kind", kind);
  bindSign(parts.sign, kind);
  setText(parts.word, KINDS[kind].word);
  setText(parts.link, clean(doc.name || doc.operation_id, 160));
  setAttribute(parts.link, "href", `#/operations/${encodeURIComponent(doc.operation_id)}`);
  setText(parts.type, clean(typeBeside(doc.name, doc.operation_type), 80));
  setText(parts.why, doc.error ? clean(`${doc.error.type}: ${doc.error.message}`, 200) : "");
  setText(parts.ended, moment(doc.ended_at));
  setText(parts.took, duration(doc.duration_s));
  parts.length.style.width = `${longest ? Math.max(2, (100 * (doc.duration_s ?? 0)) / longest) : 0}%`;
  setText(parts.done, amountOf(doc));
}
