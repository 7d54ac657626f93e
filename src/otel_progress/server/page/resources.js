/**
 * Resource use of an operation's process: CPU and memory as lines over time, mean and peak in
 * words.
 */

import { h, setText, show } from "./dom.js";
import { quantity, ratio } from "./format.js";
import { bindSparkline, makeSparkline } from "./sparkline.js";

const MOST = 600;

export class Resources {
  #client;
  #run = null;
  #samples = [];
  #graphs = { cpu: graph("Processor"), memory: graph("Memory"), gpu: graph("GPU") };
  element = h(
    "section",
    { class: "resources", "aria-label": "Resource use", hidden: true },
    h("h3", {}, "Resource use"),
    ...Object.values(this.#graphs).map(({ element }) => element),
  );

  constructor(client) {
    this.#client = client;
  }

  /** Shows the resource use of an operation; null for none. */
  show(doc) {
    if (doc?.run !== this.#run) {
      this.#run = doc?.run ?? null;
      this.#samples = [];
      if (doc) this.#load(doc);
    }
    const last = doc?.resources?.last;
    if (last && last.at > (this.#samples.at(-1)?.at ?? 0)) this.#samples.push(last);
    if (this.#samples.length > MOST) this.#samples.splice(0, this.#samples.length - MOST);
    this.#draw(doc?.resources ?? null);
  }

  async #load({ operation_id: id, run }) {
    try {
      const { samples } = await this.#client.request(`operations/${encodeURIComponent(id)}/resources`, {
        query: { limit: MOST },
      });
      if (run !== this.#run) return;
      const newest = samples.at(-1)?.at ?? 0;
      this.#samples = [...samples, ...this.#samples.filter(({ at }) => at > newest)];
    } catch {
      // Without earlier samples the line starts now.
    }
  }

  #draw(use) {
    show(this.element, use !== null || this.#samples.length > 0);
    if (this.element.hidden) return;
    const last = this.#samples.at(-1);
    const { cpu, memory, gpu } = this.#graphs;
    this.#line(
      cpu,
      "cpu_ratio",
      1,
      `${ratio(last?.cpu_ratio)} of a core`,
      use && `mean ${ratio(use.cpu_mean)}, peak ${ratio(use.cpu_peak)}`,
    );
    const bytes = (value) => quantity(value, "byte");
    this.#line(
      memory,
      "memory_bytes",
      0,
      bytes(last?.memory_bytes),
      use && `mean ${bytes(use.memory_mean)}, peak ${bytes(use.memory_peak)}`,
    );
    const hasGpu = this.#samples.some((sample) => sample.gpu_ratio !== null);
    show(gpu.element, hasGpu);
    if (hasGpu)
      this.#line(
        gpu,
        "gpu_ratio",
        1,
        ratio(last?.gpu_ratio),
        use && `mean ${ratio(use.gpu_mean)}, peak ${ratio(use.gpu_peak)}`,
      );
  }

  #line({ line, now, past, title }, field, top, text, more) {
    const points = this.#samples
      .filter((sample) => sample[field] !== null)
      .map((sample) => [sample.at, sample[field]]);
    show(line, points.length > 1);
    bindSparkline(line, points, { top, label: `${title}: ${text}${more ? `, ${more}` : ""}` });
    setText(now, text);
    setText(past, more || "");
  }
}

function graph(title) {
  const parts = {
    title,
    line: makeSparkline(title),
    now: h("span", { class: "now" }),
    past: h("span", { class: "past" }),
  };
  return {
    ...parts,
    element: h(
      "div",
      { class: "graph" },
      h("p", {}, h("span", { class: "what" }, title), parts.now, parts.past),
      parts.line,
    ),
  };
}
