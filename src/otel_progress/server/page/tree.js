/** Tree of operations whose levels open in place, with arrow-key navigation. */

import { setAttribute } from "./dom.js";
import { moreLevels } from "./format.js";
import { VirtualList } from "./list.js";
import { bindRow, createRow } from "./rows.js";

const MOST_LEVELS = 2000;

/** Groups levels by the path of their parent, in order. */
export function childrenOf(levels) {
  const groups = new Map();
  for (const level of levels) {
    const parent = level.path.slice(0, Math.max(0, level.path.lastIndexOf("/")));
    if (!groups.has(parent)) groups.set(parent, []);
    groups.get(parent).push(level);
  }
  for (const group of groups.values()) group.sort((a, b) => a.order - b.order);
  return groups;
}

/**
 * Rows of the levels of an operation, including those below open levels. `evicted` are the numbers
 * by status of the levels directly below the operation that are not stored any more.
 */
export function levelRows({ entry, now, levels, evicted, isOpen, height, depth = 1, parentKind = null }) {
  const { run } = entry.doc;
  const groups = childrenOf(levels);
  const rows = [];
  const walk = (parent, below, missing) => {
    const group = groups.get(parent) ?? [];
    const text = moreLevels(missing);
    const siblings = group.length + (text ? 1 : 0);
    group.forEach((level, place) => {
      if (rows.length >= MOST_LEVELS) return;
      const key = `${run}\u0000${level.path}`;
      const hasBelow = groups.has(level.path) || moreLevels(level.evicted_levels) !== "";
      const open = hasBelow ? isOpen(key) : null;
      rows.push({
        kind: "level",
        key,
        level,
        depth: below,
        height,
        open,
        place: place + 1,
        siblings,
        parentKind,
        entry,
        now,
      });
      if (open) walk(level.path, below + 1, level.evicted_levels);
    });
    const key = `${run}\u0000${parent}\u0000more`;
    if (text) rows.push({ kind: "more", key, text, depth: below, height, open: null, place: siblings, siblings });
  };
  walk("", depth, evicted);
  return rows;
}

/** An element with role="tree": it keeps the focus, and aria-activedescendant names the row. */
export class Tree {
  #element;
  #list;
  #active = null;
  #place = 0;
  #onToggle;
  #onOpen;

  constructor(element, runway, { onToggle, onOpen, onClose = () => {} }) {
    this.#element = element;
    this.#onToggle = onToggle;
    this.#onOpen = onOpen;
    this.#list = new VirtualList(element, runway, {
      create: createRow,
      bind: bindRow,
      onDraw: () => this.#mark(),
    });
    element.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Escape") onClose();
      else if (!this.#key(event.key)) return;
      event.preventDefault();
    });
    element.addEventListener("click", (event) => this.#click(event));
    element.addEventListener("focus", () => this.#mark());
  }

  get activeKey() {
    return this.#active;
  }

  update(rows) {
    this.#list.update(rows);
    const place = this.#list.indexOf(this.#active);
    if (place >= 0) this.#place = place;
    // The row was removed: select the one at its position.
    else this.#go(Math.min(this.#place, rows.length - 1), false);
  }

  /** Selects a row, scrolls to it and takes the focus. */
  focus(key) {
    this.#go(this.#list.indexOf(key), true);
    this.#element.focus({ preventScroll: true });
  }

  #click(event) {
    const node = event.target.closest("[role=treeitem]");
    const row = node && this.#list.rows[this.#list.indexOf(node.dataset.key)];
    if (!row) return;
    this.#go(this.#list.indexOf(row.key), false);
    if (event.target.closest(".twisty") || row.kind === "level") this.#toggle(row);
    else if (row.kind !== "more") this.#onOpen(row);
  }

  #toggle(row) {
    if (row.open !== null && row.open !== undefined) this.#onToggle(row, !row.open);
  }

  #key(key) {
    const { rows } = this.#list;
    const row = rows[this.#place];
    const page = Math.max(1, Math.floor(this.#element.clientHeight / (row?.height ?? 40)) - 1);
    const moves = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -Infinity,
      End: Infinity,
    };
    if (key in moves) this.#go(Math.min(rows.length - 1, Math.max(0, this.#place + moves[key])), true);
    else if (!row) return false;
    else if (key === "ArrowRight") this.#right(row);
    else if (key === "ArrowLeft") this.#left(row);
    else if (key === "Enter" || key === " ")
      row.kind === "operation" || row.kind === "batch" ? this.#onOpen(row) : this.#toggle(row);
    else return false;
    return true;
  }

  #right(row) {
    const below = this.#list.rows[this.#place + 1];
    if (row.open === false) this.#onToggle(row, true);
    else if (row.open && below?.depth > row.depth) this.#go(this.#place + 1, true);
  }

  #left(row) {
    if (row.open) return this.#onToggle(row, false);
    for (let place = this.#place - 1; place >= 0; place -= 1) {
      if (this.#list.rows[place].depth < row.depth) return this.#go(place, true);
    }
    return undefined;
  }

  #go(place, reveal) {
    const row = this.#list.rows[place];
    this.#active = row?.key ?? null;
    this.#place = Math.max(0, place);
    if (row && reveal) this.#list.reveal(row.key);
    this.#mark();
  }

  #mark() {
    const node = this.#list.nodeOf(this.#active);
    setAttribute(this.#element, "aria-activedescendant", node?.id ?? null);
    for (const other of this.#element.querySelectorAll("[data-active]"))
      if (other !== node) other.removeAttribute("data-active");
    if (node) setAttribute(node, "data-active", true);
  }
}
