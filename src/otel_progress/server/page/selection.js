/** Filters and sorts operations. Pure functions. */

import { hasEnded } from "./progress-shared.js";
import { KINDS, kindOf } from "./states.js";

const ATTENTION = Object.fromEntries(Object.keys(KINDS).map((kind, place) => [kind, place]));
// Failed operations are listed with their batch.
const TROUBLES = new Set(["stalled", "overdue", "abandoned", "silent", "cancelling"]);
const last = (value) => (value === null || value === undefined ? Infinity : value);
const endOf = ({ doc }) => doc.ended_at ?? doc.started_at + doc.elapsed_seconds;
const startOf = ({ doc }) => doc.started_at ?? doc.observed_at;

/** Sort orders by their label in the menu. Unknown values come last. */
export const SORTS = {
  newest: { label: "Newest first", by: (a, b) => startOf(b.entry) - startOf(a.entry) },
  attention: {
    label: "Problems first",
    by: (a, b) => ATTENTION[a.kind] - ATTENTION[b.kind] || startOf(b.entry) - startOf(a.entry),
  },
  remaining: {
    label: "Ending soonest",
    by: (a, b) => last(a.entry.doc.remaining_seconds) - last(b.entry.doc.remaining_seconds),
  },
  progress: { label: "Most done", by: (a, b) => (b.entry.doc.ratio ?? -1) - (a.entry.doc.ratio ?? -1) },
  name: { label: "Name", by: (a, b) => a.entry.doc.name.localeCompare(b.entry.doc.name) },
};

/**
 * Returns {rows: [{entry, kind}], counts: by kind, types}, filtered by {text, kind, type} and
 * sorted, active first. Without a filter, the healthy operations of a batch are one row: [{batch}].
 */
export function select(store, { text = "", kind = "", type = "", sort = "newest" }, now) {
  const needle = text.trim().toLowerCase();
  const counts = Object.fromEntries(Object.keys(KINDS).map((name) => [name, 0]));
  const types = new Set();
  const groups = [[], []];
  const folds = !needle && !type && (!kind || kind === "active");
  [store.active, store.ended].forEach((entries, group) => {
    for (const entry of entries.values()) {
      const found = kindOf(entry, now);
      counts[found] += 1;
      if (types.size < 200) types.add(entry.doc.operation_type);
      if (kind && (kind === "active" ? hasEnded(entry.doc.status) : found !== kind)) continue;
      if (type && entry.doc.operation_type !== type) continue;
      if (folds && store.batches.has(entry.doc.batch) && !TROUBLES.has(found)) continue;
      if (needle && !mentions(entry.doc, needle)) continue;
      groups[group].push({ entry, kind: found });
    }
  });
  if (folds) for (const batch of store.batches.values()) addBatch(batch, kind, groups);
  const { by } = SORTS[sort] ?? SORTS.newest;
  groups[0].sort(by);
  groups[1].sort(sort === "name" || sort === "attention" ? by : (a, b) => endOf(b.entry) - endOf(a.entry));
  const rows = sort === "attention" ? groups.flat().sort(by) : groups.flat();
  return { rows, counts, types: [...types].sort() };
}

/** A batch in place of its operations, with an entry that sorts like one. */
function addBatch(batch, kind, groups) {
  const ended = hasEnded(batch.doc.status);
  if (!(ended && kind === "active"))
    groups[ended ? 1 : 0].push({ entry: batch, kind: batch.doc.status, batch: true });
}

const mentions = ({ operation_id: id, name, operation_type: type, message }, needle) =>
  [id, name, type, message].some(
    (part) => typeof part === "string" && part.slice(0, 2000).toLowerCase().includes(needle),
  );
