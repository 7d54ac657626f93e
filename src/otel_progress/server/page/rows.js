/** Rows of the tree: operations, their levels, and a line where no more can be shown. */

import { bindBar, makeBar } from "./bar.js";
import { clean, h, setAttribute, setText, svg } from "./dom.js";
import { calm, etaOf, heldFor, intervalText, leftText } from "./eta.js";
import { count, duration, moment, moments, passed, percent, quantity, rate, typeBeside } from "./format.js";
import { hasEnded } from "./progress-shared.js";
import { bindSign, endKindOf, KINDS, kindOf, makeSign, reasonOf } from "./states.js";
import { isPaused, speedOf } from "./store.js";

const twisty = () =>
  h(
    "span",
    { class: "twisty" },
    svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: "M6 4l4 4-4 4" })),
  );
const cell = (name, ...children) => h("span", { class: name }, ...children);

/** Creates the node of a row; `parts` on the node holds the elements that are updated later. */
export function createRow(kind) {
  if (kind === "operation" || kind === "batch") return createOperation();
  if (kind === "level") return createLevel();
  return h("div", { class: "row more", role: "treeitem" });
}

export function bindRow(node, row) {
  setAttribute(node, "aria-level", row.depth + 1);
  setAttribute(node, "aria-posinset", row.place);
  setAttribute(node, "aria-setsize", row.siblings);
  setAttribute(node, "aria-expanded", row.open === null ? null : String(row.open));
  node.dataset.key = row.key;
  if (row.kind === "operation") bindOperation(node, row);
  else if (row.kind === "batch") bindBatchRow(node, row);
  else if (row.kind === "level") bindLevel(node, row);
  else {
    node.style.setProperty("--depth", Math.min(row.depth, 12));
    setText(node, row.text);
  }
}

/**
 * Remaining time and time of the end, in words: `["2 min 10 s left", "ends 14:32 · for 10 s"]`.
 * Where the row has too little space, only the interval is shown.
 */
export function remainingOf(entry, kind, now) {
  const { doc, at } = entry;
  const said = (left, ends) => [left, ends, ends];
  if (hasEnded(doc.status))
    return said(`took ${duration(doc.duration_s ?? doc.elapsed_seconds)}`, `ended ${moment(doc.ended_at)}`);
  if (kind === "pending") return said("not started", "");
  const later = Math.max(0, now - at) / 1000;
  if (kind === "abandoned") return said("no end expected", `last heartbeat ${moment(doc.observed_at)}`);
  if (kind === "silent") return said("end unknown", `last report ${moment(doc.not_reporting_since)}`);
  const elapsed = passed(elapsedOf({ doc, at }, kind, now));
  const eta = etaOf(doc, doc, later);
  const left = eta && leftText({ ...eta, remaining_s: calm(entry, eta, now) });
  const end = left && kind !== "stalled" ? endText(eta, heldFor(doc, doc, later)) : "";
  const whole = end ? `${end} · for ${elapsed}` : `for ${elapsed}`;
  return [left ?? (isPaused(doc) ? "paused" : "end unknown"), whole, whole.length > ROOM && end ? end : whole];
}

const ROOM = 30; // characters of the second line
const MOST_HELD_S = 5;
const MOST_HELD_SHARE = 0.1;

/**
 * `ends 14:32`, or `ends 14:30 – 14:41` if the interval is wide enough to see: the times expected
 * when the estimate was made. They do not move with the clock. If the estimate has waited long for
 * an advance, none are shown.
 */
function endText({ remaining_s: left, low_s: low, high_s: high }, held) {
  if (left === null || left < 1 || held > Math.max(MOST_HELD_S, MOST_HELD_SHARE * left) || held > left)
    return "";
  const at = (seconds) => Date.now() / 1000 + Math.max(0, seconds - held);
  const known = low !== null && high !== null && moment(at(low)) !== moment(at(high));
  return `ends ${known ? moments(at(low), at(high)) : moment(at(left))}`;
}

/** Seconds since the start; an abandoned operation's clock does not advance. */
export function elapsedOf({ doc, at }, kind, now) {
  const runs = !hasEnded(doc.status) && doc.started_at !== null && kind !== "abandoned" && kind !== "pending";
  return doc.elapsed_seconds + (runs ? Math.max(0, now - at) / 1000 : 0);
}

function createOperation() {
  const parts = {
    sign: makeSign(),
    word: cell("word"),
    name: h("bdi", { class: "name", dir: "auto" }),
    note: h("span", { class: "note", dir: "auto" }),
    type: h("bdi", { class: "type", dir: "auto" }),
    bar: makeBar({ decorative: true }),
    percent: cell("percent"),
    count: makeCount(),
    rate: cell("rate"),
    left: cell("left"),
    ends: cell("ends"),
  };
  const node = h(
    "div",
    { class: "row operation", role: "treeitem" },
    twisty(),
    cell("chip", parts.sign, parts.word),
    cell("title", cell("line", parts.name, parts.type), parts.note),
    cell("meter", cell("line", parts.bar, parts.percent), cell("line figures", parts.count, parts.rate)),
    cell("time", parts.left, parts.ends),
  );
  return Object.assign(node, { parts });
}

function bindOperation(node, { entry, now, selected }) {
  const { parts } = node;
  const { doc } = entry;
  const kind = kindOf(entry, now);
  const reason = reasonOf(entry, kind, now);
  const [left, , ends] = remainingOf(entry, kind, now);
  const amount = amountOf(doc);
  setAttribute(node, "data-kind", kind);
  setAttribute(node, "aria-selected", String(selected));
  bindSign(parts.sign, kind);
  setText(parts.word, KINDS[kind].word);
  setText(parts.name, clean(doc.name || doc.operation_id, 200));
  setText(parts.type, clean(typeBeside(doc.name, doc.operation_type), 60));
  setText(
    parts.note,
    clean(kind === "paused" ? `${reason} ${doc.message ?? ""}` : reason || doc.message || "", 300),
  );
  setAttribute(parts.note, "data-reason", reason !== "");
  bindBar(parts.bar, doc.percentage, kind, { estimated: doc.estimated });
  setText(parts.percent, percent(doc.percentage, doc.estimated));
  bindCount(parts.count, doc);
  setText(parts.rate, rate(speedOf(entry), doc.unit, doc.unit_plural));
  setText(parts.left, left);
  setText(parts.ends, ends);
  const done = doc.percentage === null ? "unknown total" : percent(doc.percentage, doc.estimated);
  setAttribute(
    node,
    "aria-label",
    [clean(doc.name, 120), KINDS[kind].word, done, amount, left, clean(reason, 120)]
      .filter(Boolean)
      .join(", "),
  );
}

/** A batch as one row: counts of its operations by kind in place of a message. */
function bindBatchRow(node, { batch: { doc, at }, now }) {
  const { parts } = node;
  const ended = hasEnded(doc.status);
  const later = ended ? 0 : Math.max(0, now - at) / 1000;
  const amount = count(doc.finished, doc.total, "operation", "operations");
  const tally = ["running", "failed", "cancelled", "skipped"]
    .filter((status) => doc.counts[status])
    .map((status) => `${doc.counts[status]} ${status}`)
    .join(" · ");
  const took = passed(doc.elapsed_seconds + later);
  const left = ended
    ? `took ${took}`
    : doc.remaining_seconds === null
      ? "end unknown"
      : `${passed(Math.max(0, doc.remaining_seconds - later))} left`;
  setAttribute(node, "data-kind", doc.status);
  setAttribute(node, "aria-selected", "false");
  bindSign(parts.sign, doc.status);
  setText(parts.word, KINDS[doc.status].word);
  setText(parts.name, clean(doc.name || doc.id, 200));
  setText(parts.type, doc.type === "batch" ? "batch" : `batch · ${clean(doc.type, 60)}`);
  setText(parts.note, tally);
  setAttribute(parts.note, "data-reason", false);
  bindBar(parts.bar, doc.percentage, doc.status);
  setText(parts.percent, percent(doc.percentage));
  setText(parts.count.parts.amount, amount);
  setText(parts.count.parts.failures, "");
  setText(parts.rate, ended ? "" : rate(doc.throughput, "operation", "operations"));
  setText(parts.left, left);
  setText(
    parts.ends,
    ended ? `ended ${moment(doc.ended_at ?? doc.started_at + doc.elapsed_seconds)}` : `for ${took}`,
  );
  setAttribute(
    node,
    "aria-label",
    [`Batch ${clean(doc.name, 120)}`, KINDS[doc.status].word, amount, tally, left].filter(Boolean).join(", "),
  );
}

function createLevel() {
  const parts = {
    sign: makeSign(),
    name: h("bdi", { class: "name", dir: "auto" }),
    type: h("bdi", { class: "type", dir: "auto" }),
    note: h("span", { class: "note", dir: "auto" }),
    bar: makeBar({ decorative: true }),
    percent: cell("percent"),
    count: makeCount(),
    time: cell("left"),
  };
  const node = h(
    "div",
    { class: "row level", role: "treeitem" },
    twisty(),
    parts.sign,
    cell("title line", parts.name, parts.type, parts.note),
    cell("meter line", parts.bar, parts.percent),
    parts.count,
    parts.time,
  );
  return Object.assign(node, { parts });
}

function bindLevel(node, { level, depth, kind: _, parentKind, entry, now }) {
  const { parts } = node;
  const kind = level.status === "running" && parentKind === "abandoned" ? "abandoned" : endKindOf(level);
  const text = level.error ? `${level.error.type}: ${level.error.message}` : level.message;
  const amount = amountOf(level);
  node.style.setProperty("--depth", Math.min(depth, 12));
  setAttribute(node, "data-kind", kind);
  bindSign(parts.sign, kind);
  setText(parts.name, clean(level.name || level.id, 160));
  const type = clean(typeBeside(level.name, level.type), 40);
  setText(parts.type, type);
  setText(parts.note, clean(text ?? "", 200));
  const waits = level.status === "pending";
  bindBar(parts.bar, waits ? 0 : level.percentage, kind, { estimated: level.estimated });
  setText(parts.percent, waits ? "" : percent(level.percentage, level.estimated));
  bindCount(parts.count, level);
  const eta = etaOf(entry.doc, level, Math.max(0, now - entry.at) / 1000);
  const left = leftText(eta);
  setText(parts.time, left ?? (level.started_at === null ? "" : passed(level.elapsed_seconds)));
  setAttribute(
    parts.time,
    "title",
    left === null
      ? null
      : [left, intervalText(eta), `for ${passed(level.elapsed_seconds)}`].filter(Boolean).join(" · "),
  );
  const done = waits
    ? ""
    : level.percentage === null
      ? "unknown total"
      : percent(level.percentage, level.estimated);
  const words = [
    clean(level.name, 120),
    type,
    KINDS[kind].word,
    done,
    amount,
    left,
    clean(text ?? "", 120),
  ];
  setAttribute(node, "aria-label", words.filter(Boolean).join(", "));
}

/** `100 of 500 files, 3 failed`; empty if nothing was counted and no total is known. */
export const amountOf = (level) => `${doneOf(level)}${failuresOf(level)}`;

const doneOf = ({ current, total, unit, unit_plural: plural }) =>
  total === null && current === 0 ? "" : count(current, total, unit, plural);

function failuresOf(level) {
  if (!level.failed) return "";
  return `${doneOf(level) ? ", " : ""}${quantity(level.failed)} failed`;
}

/** Creates the cell of the amount. Its failed count is never cut. */
export function makeCount() {
  const parts = { amount: cell("amount"), failures: cell("failures") };
  return Object.assign(cell("count", parts.amount, parts.failures), { parts });
}

export function bindCount({ parts }, level) {
  setText(parts.amount, doneOf(level));
  setText(parts.failures, failuresOf(level));
}
