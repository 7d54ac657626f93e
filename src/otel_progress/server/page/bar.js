/**
 * Progress bar with the same content for screen readers; with an unknown total it shows no value.
 */

import { h, setAttribute } from "./dom.js";

/** Creates a bar. Inside rows it is decorative, because the row's label contains the figures. */
export function makeBar({ decorative = false } = {}) {
  const roles = decorative
    ? { "aria-hidden": "true" }
    : { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" };
  return h("div", { class: "bar", ...roles }, h("div", { class: "fill" }));
}

/**
 * Sets the percentage (null if unknown), the kind that colours the bar, and whether the value is
 * `estimated`.
 */
export function bindBar(bar, percentage, kind, { label = null, estimated = false } = {}) {
  const known = percentage !== null && percentage !== undefined;
  setAttribute(bar, "data-kind", kind);
  setAttribute(bar, "data-unknown", !known);
  setAttribute(bar, "data-estimated", known && estimated === true);
  if (label !== null) setAttribute(bar, "aria-label", label);
  if (bar.hasAttribute("role")) {
    // Without aria-valuenow a progressbar is indeterminate.
    setAttribute(bar, "aria-valuenow", known ? Math.floor(percentage) : null);
    setAttribute(
      bar,
      "aria-valuetext",
      known ? (estimated ? `about ${Math.floor(percentage)} %, estimated` : null) : "unknown total",
    );
  }
  const width = known ? `${Math.min(100, Math.max(0, percentage)).toFixed(2)}%` : "100%";
  const fill = bar.firstChild;
  if (fill.style.width !== width) fill.style.width = width;
}
