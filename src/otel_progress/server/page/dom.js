/** The few ways this page makes and changes nodes. Text is only ever set as text; nothing is parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";
const LONGEST = 400;
// Control characters, and those that turn the direction of what follows around.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/g;
const STACKED = /(\p{M}{3})\p{M}+/gu; // marks on one letter that pile up over the neighbouring lines

/** Makes an element: `h("p", {class: "note", role: "status"}, "text", child)`; `onclick` and the like are listeners. */
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

/** Makes an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Text of callers, in one line that cannot leave its place: bounded, controls made visible, no turned direction. */
export function clean(text, longest = LONGEST) {
  const all = String(text ?? "");
  const short = all.length > longest ? `${all.slice(0, longest)}…` : all;
  return short.replace(STACKED, "$1").replace(UNSEEN, (sign) => (sign === "\n" || sign === "\t" ? " " : "\ufffd"));
}

/** Text of callers that keeps its lines, such as a traceback. */
export function cleanLines(text, longest = 100_000) {
  const all = String(text ?? "");
  const short = all.length > longest ? `${all.slice(0, longest)}\n… (${all.length - longest} more characters)` : all;
  return short.replace(/\r\n/g, "\n").replace(STACKED, "$1").replace(UNSEEN, (sign) => (sign === "\n" || sign === "\t" ? sign : "\ufffd"));
}

/** Sets the text of an element when it differs: a write that changes nothing still costs layout. */
export function setText(element, text) {
  if (element.firstChild?.nodeValue !== text || element.childNodes.length > 1) element.textContent = text;
}

/** Sets an attribute when it differs; null, undefined and false take it away. */
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
  if (element.hasAttribute("hidden") === visible) element.toggleAttribute("hidden", !visible); // SVG has no property for it
}

/** Makes the children of an element match `items`, in order, with one node a key: kept nodes are bound again and moved at most. */
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

/** One frame for any number of changes, at most ten a second. */
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
