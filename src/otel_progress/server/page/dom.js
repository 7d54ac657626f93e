/** DOM helpers. Text is always set as text; nothing is parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";
const LONGEST = 400;
// Control characters and characters that change the text direction.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/g;
// More than three combining marks on one letter would cover neighbouring lines.
const STACKED = /(\p{M}{3})\p{M}+/gu;

/**
 * Creates an element: `h("p", {class: "note", role: "status"}, "text", child)`. `onclick` etc. add
 * listeners.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Creates an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * Cleans untrusted text for one line: bounded length, visible control characters, no direction
 * changes.
 */
export function clean(text, longest = LONGEST) {
  const all = String(text ?? "");
  const short = all.length > longest ? `${all.slice(0, longest)}…` : all;
  return short
    .replace(STACKED, "$1")
    .replace(UNSEEN, (sign) => (sign === "\n" || sign === "\t" ? " " : "\ufffd"));
}

/** Cleans untrusted text and keeps its line breaks, such as a traceback. */
export function cleanLines(text, longest = 100_000) {
  const all = String(text ?? "");
  const short =
    all.length > longest ? `${all.slice(0, longest)}\n… (${all.length - longest} more characters)` : all;
  return short
    .replace(/\r\n/g, "\n")
    .replace(STACKED, "$1")
    .replace(UNSEEN, (sign) => (sign === "\n" || sign === "\t" ? sign : "\ufffd"));
}

/**
 * Sets the text of an element only if it differs, because an unchanged write still costs layout.
 */
export function setText(element, text) {
  if (element.firstChild?.nodeValue !== text || element.childNodes.length > 1) element.textContent = text;
}

/** Sets an attribute only if it differs; null, undefined and false remove it. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Shows or hides an element. */
export function show(element, visible) {
  if (element.hasAttribute("hidden") === visible) element.toggleAttribute("hidden", !visible); // SVG elements have no `hidden` property
}

/**
 * Updates the children of an element to match `items`, one node per key: existing nodes are reused
 * and moved.
 */
export function keyed(container, items, keyOf, create, bind) {
  const nodes = (container.nodesByKey ??= new Map());
  const wanted = new Set();
  let place = container.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (wanted.has(key)) continue;
    wanted.add(key);
    let node = nodes.get(key);
    if (!node) nodes.set(key, (node = create(item)));
    bind(node, item);
    if (node === place) place = place.nextElementSibling;
    else container.insertBefore(node, place);
  }
  for (const [key, node] of nodes) {
    if (wanted.has(key)) continue;
    node.remove();
    nodes.delete(key);
  }
}

/** Batches any number of changes into one frame, at most ten frames per second. */
export class Frame {
  #run;
  #pending = false;
  #last = 0;

  constructor(run) {
    this.#run = run;
  }

  request() {
    if (this.#pending) return;
    this.#pending = true;
    const wait = Math.max(0, this.#last + 100 - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.#draw()), wait);
  }

  #draw() {
    this.#pending = false;
    this.#last = performance.now();
    this.#run();
  }
}
