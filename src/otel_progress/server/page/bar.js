/** A bar of progress that says the same to eyes and to screen readers; of an unknown total it claims nothing. */

import { h, setAttribute } from "./dom.js";

/** Makes a bar; inside of rows it is decoration, as the row's own label has the figures. */
export function makeBar({ decorative = false } = {}) {
  const roles = decorative ? { "aria-hidden": "true" } : { role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" };
  return h("div", { class: "bar", ...roles }, h("div", { class: "fill" }));
}

/** Binds a bar to a percentage (null while unknown) and the kind that colours it; `estimated` marks one that rests on an estimate. */
export function bindBar(bar, percentage, kind, { label = null, estimated = false } = {}) {
  const known = percentage !== null && percentage !== undefined;
  setAttribute(bar, "data-kind", kind);
  setAttribute(bar, "data-unknown", !known);
  setAttribute(bar, "data-estimated", known && estimated === true);
  if (label !== null) setAttribute(bar, "aria-label", label);
  if (bar.hasAttribute("role")) {
    setAttribute(bar, "aria-valuenow", known ? Math.floor(percentage) : null); // without it a bar is indeterminate
    setAttribute(bar, "aria-valuetext", known ? (estimated ? `about ${Math.floor(percentage)} %, estimated` : null) : "unknown total");
  }
  const width = known ? `${Math.min(100, Math.max(0, percentage)).toFixed(2)}%` : "100%";
  const fill = bar.firstChild;
  if (fill.style.width !== width) fill.style.width = width;
}
