/**
 * Stage cards: progress and failures of each announced stage, and its most recent items with their
 * outcome.
 */

import { bindBar, makeBar } from "./bar.js";
import { clean, h, keyed, setAttribute, setText, show } from "./dom.js";
import { count, percent } from "./format.js";
import { bindSign, endKindOf, KINDS, makeSign } from "./states.js";

const MOST_CARDS = 60;
const RECENT = 3;

/** The announced stages directly below an operation, in order. */
export const stagesOf = (levels) =>
  levels
    .filter((level) => level.declared && !level.path.includes("/"))
    .sort((a, b) => a.order - b.order)
    .slice(0, MOST_CARDS);

/** Fills the list of cards. `items` are item events, oldest first. */
export function bindStages(container, levels, items) {
  keyed(
    container,
    stagesOf(levels),
    (stage) => stage.path,
    createCard,
    (card, stage) => bindCard(card, stage, recentOf(stage, items)),
  );
}

function recentOf(stage, items) {
  const found = [];
  for (let i = items.length - 1; i >= 0 && found.length < RECENT; i -= 1) {
    const { path } = items[i];
    if (path === stage.path || path.startsWith(`${stage.path}/`)) found.push(items[i]);
  }
  return found;
}

function createCard() {
  const parts = {
    sign: makeSign(),
    name: h("bdi", { class: "name", dir: "auto" }),
    word: h("span", { class: "word" }),
    percent: h("span", { class: "percent" }),
    bar: makeBar(),
    count: h("p", { class: "count" }),
    failed: h("p", { class: "failures" }),
    items: h("ul", { class: "items" }),
  };
  const { sign, name, word, bar, items } = parts;
  const head = h("p", { class: "head" }, sign, name, parts.percent);
  return Object.assign(
    h(
      "li",
      { class: "card" },
      head,
      bar,
      h("div", { class: "sums" }, parts.count, word, parts.failed),
      items,
    ),
    { parts },
  );
}

function bindCard(card, stage, items) {
  const { parts } = card;
  const name = clean(stage.name || stage.id, 120);
  const kind = endKindOf(stage);
  setAttribute(card, "data-kind", kind);
  bindSign(parts.sign, kind);
  setText(parts.name, name);
  setText(parts.word, KINDS[kind].word);
  setText(parts.percent, stage.status === "pending" ? "" : percent(stage.percentage, stage.estimated));
  bindBar(parts.bar, stage.status === "pending" ? 0 : stage.percentage, kind, {
    label: name,
    estimated: stage.estimated,
  });
  const counted = stage.current > 0 || stage.total !== null;
  setText(parts.count, counted ? count(stage.current, stage.total, stage.unit, stage.unit_plural) : "");
  show(parts.failed, stage.failed > 0);
  setText(parts.failed, `${stage.failed} failed`);
  show(parts.items, items.length > 0);
  keyed(parts.items, items, (item) => item.number, createItem, bindItem);
}

/** One item in a line: outcome as icon and word, name, and reason of a failure. */
export function createItem() {
  const parts = {
    sign: makeSign(),
    word: h("span", { class: "hidden-word" }),
    name: h("bdi", { class: "name", dir: "auto" }),
    why: h("span", { class: "note", dir: "auto" }),
  };
  return Object.assign(h("li", { class: "item" }, parts.sign, parts.word, parts.name, parts.why), { parts });
}

export function bindItem(node, item) {
  const { parts } = node;
  const kind = item.outcome ?? "completed";
  setAttribute(node, "data-kind", kind);
  bindSign(parts.sign, kind);
  setText(parts.word, `${KINDS[kind].word}: `);
  setText(parts.name, clean(item.name ?? item.path, 160));
  setText(parts.why, item.error ? clean(`${item.error.type}: ${item.error.message}`, 300) : "");
}
