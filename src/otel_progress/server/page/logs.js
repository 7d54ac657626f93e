/**
 * Log records of one operation: the newest few hundred from a minimum severity, updated while it
 * runs.
 */

import { clean, cleanLines, h, setText, show } from "./dom.js";
import { moment } from "./format.js";

const MOST = 500;
const EVERY_MS = 2000;
const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

export class Logs {
  #client;
  #id = null;
  #run = null;
  #after = 0;
  #timer = 0;
  #abort = null;
  #active = false;
  #lines = h("ol", { class: "lines", tabindex: "0", "aria-label": "Log records" });
  #empty = h("p", { class: "empty" }, "No log records.");
  #level = h(
    "select",
    {},
    ...LEVELS.map((name) =>
      h(
        "option",
        { value: name, selected: name === "INFO" },
        `${name[0]}${name.slice(1).toLowerCase()} and above`,
      ),
    ),
  );
  #follow = h("input", { type: "checkbox", checked: true });
  element;

  constructor(client) {
    this.#client = client;
    const tools = h(
      "div",
      { class: "tools" },
      h("label", {}, "Show ", this.#level),
      h("label", {}, this.#follow, " Follow"),
    );
    this.element = h(
      "section",
      { class: "logs", "aria-labelledby": "logs-title" },
      h("h3", { id: "logs-title" }, "Logs"),
      tools,
      this.#empty,
      this.#lines,
    );
    this.#level.addEventListener("change", () => this.#restart());
    this.#follow.addEventListener("change", () => this.#toEnd());
  }

  /** Shows the records of a run; null for none. `active`: more records may arrive. */
  show(id, run, active) {
    const ended = this.#active && !active;
    this.#active = active;
    if (run === this.#run) {
      if (ended) this.#soon(0); // the last records
      return;
    }
    [this.#id, this.#run] = [id, run];
    this.#restart();
  }

  #restart() {
    this.#abort?.abort();
    this.#after = 0;
    this.#lines.replaceChildren();
    show(this.#lines, false);
    show(this.#empty, true);
    if (this.#id === null) clearTimeout(this.#timer);
    else this.#soon(0);
  }

  #soon(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), milliseconds);
  }

  async #load() {
    const run = this.#run;
    this.#abort = new AbortController();
    try {
      const query = { severity: this.#level.value, after: this.#after, limit: MOST };
      const { signal } = this.#abort;
      const { logs } = await this.#client.request(`operations/${encodeURIComponent(this.#id)}/logs`, {
        query,
        signal,
      });
      if (run === this.#run) this.#add(logs.filter((record) => record.run === run));
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    if (run === this.#run && this.#active) this.#soon(document.hidden ? 5 * EVERY_MS : EVERY_MS);
  }

  #add(records) {
    if (!records.length) return;
    this.#after = records.at(-1).number;
    this.#lines.append(...records.map(line));
    while (this.#lines.childElementCount > MOST) this.#lines.firstElementChild.remove();
    show(this.#lines, true);
    show(this.#empty, false);
    this.#toEnd();
  }

  #toEnd() {
    if (this.#follow.checked) this.#lines.scrollTop = this.#lines.scrollHeight;
  }
}

function line(record) {
  const text = h("span", { class: "text", dir: "auto" });
  setText(text, cleanLines(record.message, 4000));
  const details = record.details
    ? h(
        "details",
        {},
        h("summary", {}, "Traceback"),
        h("pre", { dir: "ltr" }, cleanLines(record.details, 20_000)),
      )
    : null;
  const severity =
    record.severity >= 40
      ? "error"
      : record.severity >= 30
        ? "warning"
        : record.severity >= 20
          ? "info"
          : "debug";
  return h(
    "li",
    { "data-severity": severity },
    h("time", {}, moment(record.at, { exact: true })),
    h("span", { class: "severity" }, clean(record.severity_text, 12)),
    text,
    details,
  );
}
