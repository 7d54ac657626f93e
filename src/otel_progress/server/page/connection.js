/** Connection status in words, for the screen and for screen readers. */

import { GRACE_MS } from "./clock.js";
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

export class ConnectionState {
  #word = h("span", { class: "word" });
  #since = h("span", { class: "since", "aria-hidden": "true" });
  #banner = h("p", { class: "banner", hidden: true });
  #said = h("span", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  #state = { state: "connecting", since: Date.now(), detail: null };
  #stoppedAt = null; // time of the last contact while disconnected
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

  /** `stoppedAt`: when the page was connected last, in Unix milliseconds, null while it is. */
  set(state, stoppedAt) {
    this.#state = state;
    this.#stoppedAt = stoppedAt;
    this.draw();
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
    const brokenAt = this.#stoppedAt ?? since;
    setText(this.#since, broken ? `for ${passed((Date.now() - brokenAt) / 1000)}` : "");
    // A live region is read out on every change.
    if (this.#said.textContent !== words) setText(this.#said, words);
    show(this.#banner, broken);
    if (broken) this.#drawBanner(state, detail);
  }

  #drawBanner(state, detail) {
    const text = describe(state, this.#stoppedAt, detail);
    const login = state === "unauthorized";
    // Each text is written once, because the banner has a link that may have the focus.
    if (this.#banner.firstChild?.nodeValue === text) return;
    const link = h("a", { href: `login${location.hash}` }, "Log in");
    this.#banner.replaceChildren(text, ...(login ? [" ", link] : []));
  }
}

function describe(state, stoppedAt, detail) {
  const since =
    stoppedAt === null
      ? "Disconnected."
      : `Disconnected since ${moment(stoppedAt / 1000, { exact: true })}. Data as of that time.`;
  if (state === "unauthorized") return `${since} The server requires its token. Reload the page to log in.`;
  return [since, detail && clean(detail, 300), state === "reconnecting" ? "Reconnecting automatically." : ""]
    .filter(Boolean)
    .join(" ");
}
