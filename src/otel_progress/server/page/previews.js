/** Pictures and other results on their way: shown where an operation says how many it has. */

import { h, keyed, setAttribute, show } from "./dom.js";

const MOST = 12;

export class Previews {
  #list = h("ul", { class: "thumbnails" });
  element = h("section", { class: "previews", "aria-label": "Previews", hidden: true }, h("h3", {}, "Previews"), this.#list);

  /** Shows the newest previews of an operation (`previews` in its document is their number); null for none. */
  show(doc) {
    const number = Number.isInteger(doc?.previews) ? doc.previews : 0;
    show(this.element, number > 0);
    const first = Math.max(0, number - MOST);
    const shown = Array.from({ length: number - first }, (_, i) => ({ doc, n: number - 1 - i }));
    keyed(this.#list, shown, ({ doc: { run }, n }) => `${run} ${n}`, createPreview, bindPreview);
  }
}

function createPreview() {
  const image = h("img", { loading: "lazy", decoding: "async" });
  const node = h("li", {}, h("a", { target: "_blank", rel: "noopener" }, image));
  image.addEventListener("error", () => (node.hidden = true)); // no picture, or no longer kept
  return node;
}

function bindPreview(node, { doc, n }) {
  const address = `api/v1/operations/${encodeURIComponent(doc.operation_id)}/previews/${n}`;
  setAttribute(node.firstChild, "href", address);
  setAttribute(node.firstChild.firstChild, "src", address);
  setAttribute(node.firstChild.firstChild, "alt", `Preview ${n + 1}`);
}
