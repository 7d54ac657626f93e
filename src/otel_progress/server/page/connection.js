/** Connection status in words, for the screen and for screen readers. */

import { clean, h, setAttribute, setText, show } from "./dom.js";
import { moment, passed } from "./format.js";

const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  polling: "Polling",
  reconnecting: "Reconnecting…",
  stale: "Stale",
  unauthorized: "Not allowed",
  idle: "Idle",
  closed: "Closed",
};
// A reconnect within this time (a proxy closed an idle connection) is not reported.
const GRACE_MS = 400;

export class ConnectionState {
  #word = h("span", { class: "word" });
  #since = h("span", { class: "since", "aria-hidden": "true" });
  #banner = h("p", { class: "banner", hidden: true });
  #said = h("span", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  #state = { state: "connecting", since: Date.now(), detail: null };
  #lastNews = Date.now();
  #restarted = 0;
  element = h(
    "div",
    { class: "connection" },
    h("span", { class: "dot", "aria-hidden": "true" }),
    this.#word,
    this.#since,
    this.#said,
  );
  banner = this.#banner;

  set(state) {
    if (state.state === "live" || state.state === "polling") this.#lastNews = Date.now();
    this.#state = state;
    this.draw();
  }

  /** Called when any data arrives from the server. */
  heard() {
    this.#lastNews = Date.now();
  }

  /** Called when the server has restarted and the full set was received again. */
  restarted() {
    this.#restarted = Date.now();
    this.draw();
  }

  draw() {
    const { state, since, detail } = this.#state;
    const broken =
      ["reconnecting", "stale", "unauthorized"].includes(state) && Date.now() - since >= GRACE_MS;
    const shown = broken || !["reconnecting"].includes(state) ? state : "live";
    const fresh = shown === "live" && Date.now() - this.#restarted < 8000;
    const words = fresh ? "Live again: the server has restarted" : WORDS[shown];
    setAttribute(this.element, "data-state", shown);
    setText(this.#word, words);
    setText(this.#since, broken ? `for ${passed((Date.now() - since) / 1000)}` : "");
    // A live region is read out on every change.
    if (this.#said.textContent !== words) setText(this.#said, words);
    show(this.#banner, broken);
    if (broken) setText(this.#banner, banner(state, this.#lastNews, detail));
  }
}

function banner(state, lastNews, detail) {
  const age = `Data as of ${moment(lastNews / 1000, { exact: true })}.`;
  if (state === "unauthorized") return "The server requires its token. Reload the page to log in.";
  return [age, detail && clean(detail, 300), state === "reconnecting" ? "Reconnecting automatically." : ""]
    .filter(Boolean)
    .join(" ");
}
