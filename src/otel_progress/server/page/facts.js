/** Facts of an operation and the caller's metadata as definition lists. */

import { clean, h, keyed, setText } from "./dom.js";
import { becauseOf, etaOf, intervalText, leftText } from "./eta.js";
import { duration, moment, rate } from "./format.js";
import { hasEnded } from "./progress-shared.js";
import { elapsedOf } from "./rows.js";
import { speedOf } from "./store.js";

/** Terms and texts of an operation; entries without a text are omitted. */
export function factsOf(entry, kind, now) {
  const { doc } = entry;
  const ended = hasEnded(doc.status);
  const { worker } = doc;
  return [
    ["Speed", rate(speedOf(entry), doc.unit, doc.unit_plural)],
    [ended ? "Took" : "Elapsed", doc.started_at === null ? "" : duration(elapsedOf(entry, kind, now))],
    ["Started", doc.started_at === null ? "" : moment(doc.started_at, { exact: true })],
    ["Ended", ended ? moment(doc.ended_at, { exact: true }) : ""],
    ...estimated(entry, now),
    ["Deadline", doc.deadline_at === null ? "" : moment(doc.deadline_at)],
    ["Skipped", doc.skipped ? String(doc.skipped) : ""],
    ["Attempt", doc.attempt > 1 ? String(doc.attempt) : ""],
    [
      "Worker",
      worker
        ? `${clean(worker.service, 80)}, process ${worker.pid} on ${clean(worker.host.split("/")[0], 80)}`
        : "",
    ],
    ["Trace", doc.trace_id ?? ""],
    ["Run", clean(doc.run, 80)],
  ].filter(([, text]) => text);
}

/** Describes the estimate; the header shows its end. */
function estimated({ doc, at }, now) {
  const eta = etaOf(doc, doc, Math.max(0, now - at) / 1000);
  if (leftText(eta) === null) return [];
  const interval = intervalText(eta);
  return [["Estimate", [interval && `${interval} left`, becauseOf(eta)].filter(Boolean).join(", ")]];
}

/** Metadata as terms and texts. */
export const metadataOf = (metadata) =>
  Object.entries(metadata ?? {})
    .slice(0, 200)
    .map(([key, value]) => [
      clean(key, 120),
      clean(Array.isArray(value) ? value.join(", ") : String(value), 2000),
    ]);

/** Fills a <dl>. */
export function bindTerms(list, terms) {
  keyed(
    list,
    terms,
    ([term]) => term,
    createTerm,
    (node, [term, text]) => {
      setText(node.parts.term, term);
      setText(node.parts.text, text);
    },
  );
}

function createTerm() {
  const parts = { term: h("dt", { dir: "auto" }), text: h("dd", { dir: "auto" }) };
  return Object.assign(h("div", {}, parts.term, parts.text), { parts });
}
