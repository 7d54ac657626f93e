/** Sparkline in SVG: small, without axes; the figures are next to it in words. */

import { setAttribute, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [300, 40];
const MOST = 300;

export function makeSparkline(label) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "stroke", "vector-effect": "non-scaling-stroke" });
  const attributes = {
    class: "sparkline",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  return Object.assign(svg("svg", attributes, area, line), { parts: { area, line } });
}

/** Draws `points` of [time, value] from 0 to `top` or the largest value. */
export function bindSparkline(node, points, { top = 0, label } = {}) {
  const shown =
    points.length > MOST ? points.filter((_, i) => i % Math.ceil(points.length / MOST) === 0) : points;
  const most = Math.max(top, ...shown.map(([, value]) => value)) || 1;
  const [from, to] = [shown[0]?.[0] ?? 0, shown.at(-1)?.[0] ?? 1];
  const x = (at) => (((at - from) / (to - from || 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 2 - (value / most) * (HEIGHT - 6)).toFixed(1);
  const path = shown.map(([at, value], i) => `${i ? "L" : "M"}${x(at)} ${y(value)}`).join("");
  setAttribute(node.parts.line, "d", path);
  setAttribute(node.parts.area, "d", path && `${path}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z`);
  if (label) setAttribute(node, "aria-label", label);
}
