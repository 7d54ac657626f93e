/** List of operations: counts that filter, a search, and the tree. */

import { clean, h, keyed, setAttribute, setText, show } from "./dom.js";
import { select, SORTS } from "./selection.js";
import { bindSign, KINDS, makeSign } from "./states.js";
import { MOST_ACTIVE } from "./store.js";
import { levelRows, Tree } from "./tree.js";

const batchAddress = (id) => `#/batches/${encodeURIComponent(id)}`;
const COMPACT_BELOW = 720;
const NARROW_BELOW = 1000;
// Rem.
const HEIGHTS = { wide: { operation: 4.25, level: 2.25 }, compact: { operation: 7.75, level: 3.5 } };
const KEEP = ["running", "failed"]; // counted even at zero

export class OperationsView {
  #context;
  #tree;
  #counts = h("div", { class: "counts", role: "group", "aria-label": "Show only" });
  #search = h("input", {
    type: "search",
    placeholder: "Search (press /)",
    "aria-label": "Search operations",
    title: "Searches names, ids, types and messages",
    maxlength: "200",
  });
  #type = h("select", { "aria-label": "Type" });
  #sort = h(
    "select",
    { "aria-label": "Order" },
    ...Object.entries(SORTS).map(([value, { label }]) => h("option", { value }, label)),
  );
  #runway = h("div", { class: "runway", role: "none" });
  #list = h("div", { class: "tree", role: "tree", tabindex: "0", "aria-label": "Operations" }, this.#runway);
  #empty = h("div", { class: "nothing", role: "status" }, h("p", { class: "big" }), h("p"));
  #open = new Set(); // keys of the open rows
  #opened = new Map(); // run → operation id of open operations, in opening order
  element;

  constructor(context) {
    this.#context = context;
    const bar = h(
      "div",
      { class: "filters" },
      this.#counts,
      h("div", { class: "fields" }, this.#search, this.#type, this.#sort),
    );
    this.element = h(
      "section",
      { class: "operations", "aria-label": "Operations" },
      bar,
      this.#empty,
      this.#list,
    );
    this.#tree = new Tree(this.#list, this.#runway, {
      onToggle: (row, open) => this.#toggle(row, open),
      onOpen: (row) =>
        row.batch ? context.go(batchAddress(row.batch.doc.id)) : context.open(row.entry.doc.operation_id),
      onClose: () => context.close(),
    });
    for (const field of [this.#search, this.#type, this.#sort])
      field.addEventListener("input", () => this.#filter());
  }

  /** Ids of the operations that are open in the list. */
  get openIds() {
    return [...this.#opened.values()];
  }

  focusTree() {
    this.#list.focus();
  }

  focusSearch() {
    this.#search.focus();
  }

  /** Applies the filters of a URL: {text, kind, type, sort}. */
  setFilters({ text, kind, type, sort }) {
    if (this.#search.value.trim() !== (text ?? "").trim()) this.#search.value = text ?? "";
    this.#sort.value = Object.hasOwn(SORTS, sort ?? "") ? sort : "newest";
    const isKind = kind === "active" || Object.hasOwn(KINDS, kind ?? "");
    this.filters = {
      text: this.#search.value,
      kind: isKind ? kind : "",
      type: type ?? "",
      sort: this.#sort.value,
    };
  }

  filters = { text: "", kind: "", type: "", sort: "newest" };

  draw(now, selectedId) {
    const { store } = this.#context;
    for (const run of this.#opened.keys()) if (!store.get(run)) this.#forget(run);
    const found = select(store, this.filters, now);
    this.#drawCounts(found.counts);
    this.#drawTypes(found.types);
    const compact = this.#list.clientWidth < COMPACT_BELOW;
    setAttribute(this.#list, "data-compact", compact);
    setAttribute(this.#list, "data-narrow", this.#list.clientWidth < NARROW_BELOW);
    const rows = this.#rows(found.rows, now, selectedId, compact);
    this.#drawEmpty(found.rows.length, store);
    this.#tree.update(rows);
  }

  #rows(found, now, selectedId, compact) {
    const heights = HEIGHTS[compact ? "compact" : "wide"];
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const rows = [];
    found.forEach(({ entry, kind, batch }, place) => {
      const { run, operation_id: id } = entry.doc;
      if (batch) {
        const [key, height] = [`batch ${entry.doc.id}`, heights.operation * rem];
        rows.push({
          kind: "batch",
          key,
          batch: entry,
          now,
          height,
          open: null,
          depth: 0,
          place: place + 1,
          siblings: found.length,
        });
        return;
      }
      const open = this.#open.has(run);
      const selected = id === selectedId;
      const height = heights.operation * rem;
      rows.push({
        kind: "operation",
        key: run,
        entry,
        now,
        selected,
        height,
        open,
        depth: 0,
        place: place + 1,
        siblings: found.length,
      });
      if (open) rows.push(...this.#levels(entry, kind, heights.level * rem, now));
    });
    if (this.#context.store.full) {
      const text = `The newest ${MOST_ACTIVE.toLocaleString("en")} active operations are shown.`;
      rows.push({
        kind: "more",
        key: "more",
        text,
        height: 2.5 * rem,
        open: null,
        depth: 0,
        place: found.length + 1,
        siblings: found.length + 1,
      });
    }
    return rows;
  }

  #levels(entry, kind, height, now) {
    const { run } = entry.doc;
    const { following } = this.#context;
    const levels = following.levelsOf(entry.doc);
    const evicted = following.evictedOf(entry.doc);
    const isOpen = (key) => this.#open.has(key);
    const rows = levels ? levelRows({ entry, now, levels, evicted, height, parentKind: kind, isOpen }) : [];
    if (rows.length) return rows;
    const text = levels ? "No levels below this operation." : "Loading…";
    return [{ kind: "more", key: `${run} none`, text, height, open: null, depth: 1, place: 1, siblings: 1 }];
  }

  #toggle(row, open) {
    if (open) this.#open.add(row.key);
    else this.#open.delete(row.key);
    if (row.kind === "operation") {
      if (open) this.#opened.set(row.key, row.entry.doc.operation_id);
      else this.#forget(row.key);
      if (this.#opened.size > 15) this.#forget(this.#opened.keys().next().value);
    }
    this.#context.follow();
    this.#context.draw();
  }

  #forget(run) {
    this.#opened.delete(run);
    for (const key of this.#open) if (key === run || key.startsWith(`${run}\u0000`)) this.#open.delete(key);
  }

  #filter(kind = this.filters.kind) {
    this.filters = { text: this.#search.value, kind, type: this.#type.value, sort: this.#sort.value };
    this.#context.keepFilters(this.filters);
    this.#context.draw();
  }

  #drawCounts(counts) {
    const active = ["running", "pending", "stalled", "overdue", "abandoned", "silent", "cancelling", "paused"].reduce(
      (sum, kind) => sum + counts[kind],
      0,
    );
    const all = Object.values(counts).reduce((sum, one) => sum + one, 0);
    const kinds = Object.keys(KINDS).filter(
      (kind) => counts[kind] || KEEP.includes(kind) || this.filters.kind === kind,
    );
    const shown = [
      ["", "All", all],
      ["active", "Active", active],
      ...kinds.map((kind) => [kind, KINDS[kind].word, counts[kind]]),
    ];
    keyed(
      this.#counts,
      shown,
      ([kind]) => kind,
      ([kind]) => this.#createCount(kind),
      (node, [kind, word, number]) => {
        setAttribute(node, "aria-pressed", String(this.filters.kind === kind));
        setAttribute(node, "data-none", number === 0);
        setText(node.parts.word, word);
        setText(node.parts.number, number.toLocaleString("en"));
      },
    );
  }

  #createCount(kind) {
    const parts = { word: h("span"), number: h("span", { class: "number" }) };
    const sign = kind in KINDS ? makeSign() : null;
    if (sign) bindSign(sign, kind);
    const onclick = () => this.#filter(this.filters.kind === kind ? "" : kind);
    return Object.assign(
      h("button", { type: "button", "data-kind": kind || null, onclick }, sign, parts.word, parts.number),
      { parts },
    );
  }

  #drawTypes(types) {
    if (document.activeElement === this.#type) return; // an open menu must not change
    const shown =
      this.filters.type && !types.includes(this.filters.type) ? [this.filters.type, ...types] : types;
    keyed(
      this.#type,
      ["", ...shown],
      (type) => type,
      (type) => h("option", { value: type }),
      (node, type) => setText(node, type === "" ? "All types" : clean(type, 60)),
    );
    if (this.#type.value !== this.filters.type) this.#type.value = this.filters.type;
  }

  #drawEmpty(found, store) {
    const known = store.active.size + store.ended.size;
    show(this.#empty, found === 0);
    show(this.#list, found > 0);
    if (found) return;
    const [big, small] = this.#empty.children;
    const loading = !this.#context.ready;
    setText(big, loading ? "Connecting…" : known ? "No matches." : "No running operations.");
    setText(
      small,
      loading
        ? ""
        : known
          ? "Change the search or the filter to see other operations."
          : "Operations appear here as soon as a program starts one.",
    );
  }
}
