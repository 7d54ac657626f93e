/**
 * State of an operation: one kind with a colour (in page.css), a word, an icon and, where needed, a
 * reason.
 */

import { hasEnded } from "./progress-shared.js";
import { moment, passed } from "./format.js";
import { setAttribute, svg } from "./dom.js";
import { workedOf } from "./store.js";

/** In order of urgency. Icons are SVG paths in a box of 16 by 16. */
export const KINDS = {
  failed: { word: "Failed", sign: "M4 4l8 8M12 4l-8 8" },
  abandoned: { word: "Abandoned", sign: "M3 8h3M10 8h3M7 4L6 6M10 10l-1 2M5 12l1.5-2M9.5 6L11 4" },
  overdue: { word: "Overdue", sign: "M8 2.5a5.5 5.5 0 1 0 .01 0M8 5v3.2l2.2 1.6" },
  silent: { word: "Not reporting", sign: "M8 11.5v.01M4.5 9a5 5 0 0 1 7 0M2 6.3a8.5 8.5 0 0 1 12 0M3 13L13 3" },
  stalled: { word: "Stalled", sign: "M4 12.5h8M4 3.5h8M5 3.5l6 9M11 3.5l-6 9" },
  cancelling: { word: "Cancelling", sign: "M8 2.5a5.5 5.5 0 1 0 5.5 5.5M6 6h4v4H6z" },
  paused: { word: "Paused", sign: "M5.5 4v8M10.5 4v8" },
  running: { word: "Running", sign: "M5 3.2l7.5 4.8L5 12.8z" },
  pending: { word: "Pending", sign: "M8 3a5 5 0 1 0 .01 0" },
  early: { word: "Ended early", sign: "M3 8.5l3.3 3.3L13 5" },
  completed: { word: "Completed", sign: "M3 8.5l3.3 3.3L13 5" },
  superseded: { word: "Superseded", sign: "M3 8h9M8.5 4.5L12 8l-3.5 3.5" },
  cancelled: { word: "Cancelled", sign: "M8 2.5a5.5 5.5 0 1 0 .01 0M4.3 4.3l7.4 7.4" },
  skipped: { word: "Skipped", sign: "M3.5 4l4 4-4 4M8.5 4l4 4-4 4" },
};
const FILLED = new Set(["running"]);

/**
 * Time of the last data from the server, as performance.now(). Conditions are not derived beyond
 * it, because an operation may have advanced since.
 */
export const contact = { at: Infinity };

/**
 * The condition of an active operation now, also without a new message: the rule of
 * OperationSnapshot.condition in Python.
 */
export function conditionOf({ doc, at }, now) {
  if (doc.superseded_by) return "superseded";
  if (doc.status !== "running") return "ok";
  if (!doc.alive) return "abandoned";
  if (doc.not_reporting_since) return "not_reporting";
  const later = Math.max(0, Math.min(now, contact.at) - at) / 1000;
  const clock = doc.clock + later;
  const elapsed = doc.elapsed_seconds + later;
  if (doc.deadline_at !== null && doc.started_at !== null && elapsed > doc.deadline_at - doc.started_at)
    return "overdue";
  if (doc.overdue_after_s !== null && workedOf(doc, later) > doc.overdue_after_s) return "overdue";
  if (doc.paused_clock !== null) return "paused";
  const since = doc.advanced_clock ?? doc.started_clock;
  return since !== null && clock - since > doc.stall_after_s ? "stalled" : "ok";
}

/**
 * The kind to show: an end takes precedence over a condition, a condition over a cancel request.
 * A run that another one has continued is only superseded.
 */
export function kindOf(entry, now) {
  const { doc } = entry;
  if (doc.superseded_by) return "superseded";
  if (hasEnded(doc.status) || doc.status === "pending") return endKindOf(doc);
  const condition = conditionOf(entry, now);
  if (condition === "abandoned" || condition === "overdue") return condition;
  if (condition === "not_reporting") return "silent";
  if (doc.cancel_requested_at) return "cancelling";
  return condition === "stalled" || condition === "paused" ? condition : "running";
}

/**
 * The kind of an ended operation or level: its status, `early` if it completed below its total, or
 * `superseded` if another run has continued it.
 */
export const endKindOf = ({ status, ended_early: early, superseded_by: successor }) =>
  successor ? "superseded" : early === true ? "early" : status;

/** The reason for the kind in one sentence; empty if the kind is clear. */
export function reasonOf(entry, kind, now) {
  const { doc } = entry;
  const later = Math.max(0, now - entry.at) / 1000;
  if (kind === "failed")
    return doc.error
      ? [doc.error.type, doc.error.message].filter(Boolean).join(": ")
      : "Failed without a reason.";
  if (kind === "superseded") return "A later session has continued it.";
  if (kind === "abandoned") return "Its process no longer sends heartbeats. The work has stopped.";
  if (kind === "silent")
    return `Not reporting since ${moment(doc.not_reporting_since)}. The program sends no heartbeats, so it may still run.`;
  if (kind === "overdue") {
    const late =
      doc.deadline_at === null ? NaN : doc.elapsed_seconds + later - (doc.deadline_at - doc.started_at);
    return late > 0
      ? `${passed(late)} past its deadline.`
      : "Later than the upper bound of the first estimate.";
  }
  if (kind === "stalled") {
    const idle = doc.clock + later - (doc.advanced_clock ?? doc.started_clock ?? doc.clock);
    return `No progress for ${passed(idle)}. Its process is alive.`;
  }
  // Its message gives the reason.
  if (kind === "paused") return `Paused for ${passed(doc.clock + later - doc.paused_clock)}.`;
  if (kind === "cancelling")
    return `Cancel requested ${passed(Date.now() / 1000 - doc.cancel_requested_at)} ago. Waiting for the process.`;
  return "";
}

/** Creates the icon of a kind; `bindSign` sets which. */
export const makeSign = () =>
  svg("svg", { class: "sign", viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path"));

export function bindSign(sign, kind) {
  setAttribute(sign.firstChild, "d", KINDS[kind].sign);
  setAttribute(sign, "data-filled", FILLED.has(kind));
}
