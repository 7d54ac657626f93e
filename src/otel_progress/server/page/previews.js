/** Previews: the newest one, and earlier ones as a time-lapse. */

import { clean, cleanLines, h, setAttribute, setText, show } from "./dom.js";
import { moment, percent } from "./format.js";

const MOST = 1000;
const STEP_MS = 600;
const CALM_STEP_MS = 2000;
const LONGEST_TEXT = 20_000;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const seriesOf = ({ path, name }) => JSON.stringify([path, name]);

export class Previews {
  #client;
  #run = null;
  #number = 0;
  #loading = false;
  #all = [];
  #series = null; // path and name of the shown series
  #at = null; // number of the shown preview; null for the newest
  #timer = 0;
  #drawn = null;
  #image = h("img", { decoding: "async", alt: "" });
  #text = h("pre", { tabindex: "0", dir: "auto", hidden: true });
  #gone = h("p", { class: "empty", hidden: true }, "This preview has expired.");
  #caption = h("figcaption", {});
  #select = h("select", { "aria-label": "Preview series" });
  #play = h("button", { type: "button" }, "Play");
  #slider = h("input", { type: "range", min: "0", step: "1", "aria-label": "Preview" });
  #lapse = h("div", { class: "lapse" }, this.#play, this.#slider);
  element;

  constructor(client) {
    this.#client = client;
    const figure = h("figure", {}, this.#image, this.#text, this.#gone, this.#caption);
    this.element = h(
      "section",
      { class: "previews", "aria-label": "Previews", hidden: true },
      h("h3", {}, "Previews"),
      this.#select,
      figure,
      this.#lapse,
    );
    this.#play.addEventListener("click", () => (this.#timer ? this.#pause() : this.#start()));
    this.#slider.addEventListener("input", () => this.#slide());
    this.#select.addEventListener("change", () => this.#choose(this.#select.value));
    this.#image.addEventListener("error", () => this.#missing(true));
    this.#image.addEventListener("load", () => this.#missing(false));
  }

  /** Shows the previews of an operation whose last preview is `number`; null for none. */
  show(doc, number = 0) {
    if ((doc?.run ?? null) !== this.#run) this.#forget(doc?.run ?? null);
    if (number > this.#number && !this.#loading) this.#load(doc, number);
  }

  #forget(run) {
    this.#pause();
    Object.assign(this.element, { hidden: true });
    this.#run = run;
    this.#number = 0;
    this.#all = [];
    this.#series = this.#at = this.#drawn = null;
    this.#image.removeAttribute("src");
  }

  async #load({ operation_id: id, run }, number) {
    this.#loading = true;
    this.#number = number;
    try {
      const { previews } = await this.#client.request(`operations/${encodeURIComponent(id)}/previews`, {
        query: { limit: MOST },
      });
      if (run !== this.#run) return;
      this.#all = previews.filter((one) => one.run === run && one.url);
      this.#draw();
    } catch {
      // The next change of the operation triggers another request.
    } finally {
      this.#loading = false;
    }
  }

  get #shown() {
    return this.#all.filter((one) => seriesOf(one) === this.#series);
  }

  #draw() {
    show(this.element, this.#all.length > 0);
    if (!this.#all.length) return;
    const kinds = new Map(this.#all.map((one) => [seriesOf(one), one]));
    if (!kinds.has(this.#series)) this.#series = seriesOf(this.#all.at(-1));
    show(this.#select, kinds.size > 1);
    const options = [...kinds].map(([key, { path, name }]) =>
      h(
        "option",
        { value: key, selected: key === this.#series },
        clean(path ? `${name} of ${path}` : name, 120),
      ),
    );
    if (this.#select.options.length !== kinds.size) this.#select.replaceChildren(...options);
    const shown = this.#shown;
    const found = shown.findIndex((one) => one.number === this.#at);
    const index = this.#at === null || found < 0 ? shown.length - 1 : found;
    show(this.#lapse, shown.length > 1);
    setAttribute(this.#slider, "max", shown.length - 1);
    if (this.#slider.value !== String(index)) this.#slider.value = String(index);
    const label = `${index + 1} of ${shown.length}, ${describe(shown[index])}`;
    setAttribute(this.#slider, "aria-valuetext", label);
    this.#drawOne(shown[index], `${index + 1} of ${shown.length}`);
  }

  #drawOne(preview, place) {
    const isPicture = preview.media_type.startsWith("image/");
    setText(
      this.#caption,
      [
        clean(preview.name, 80),
        preview.ratio === null ? null : percent(100 * preview.ratio),
        moment(preview.at, { exact: true }),
        place,
      ]
        .filter(Boolean)
        .join(" · "),
    );
    if (this.#drawn === preview.url) return;
    this.#drawn = preview.url;
    show(this.#gone, false);
    show(this.#image, isPicture);
    show(this.#text, !isPicture);
    if (!isPicture) this.#read(preview.url);
    else {
      // Reserves the space before the image loads.
      for (const side of ["width", "height"]) setAttribute(this.#image, side, preview[side]);
      setAttribute(this.#image, "alt", `Preview ${describe(preview)}`);
      setAttribute(this.#image, "src", preview.url);
    }
  }

  async #read(url) {
    let text = null;
    try {
      const answer = await fetch(url, { credentials: "same-origin" });
      if (answer.ok) text = await answer.text();
    } catch {
      // Handled like a deleted preview.
    }
    if (this.#drawn !== url) return;
    setText(this.#text, cleanLines(text ?? "", LONGEST_TEXT));
    show(this.#text, text !== null);
    show(this.#gone, text === null);
  }

  #missing(missing) {
    show(this.#image, !missing && this.#text.hidden);
    show(this.#gone, missing);
  }

  #choose(series) {
    this.#pause();
    this.#series = series;
    this.#at = null;
    this.#draw();
  }

  #slide() {
    this.#pause();
    this.#go(Number(this.#slider.value));
  }

  /** Shows one preview of the series; if it is the last one, newer ones replace it. */
  #go(index) {
    const shown = this.#shown;
    this.#at = index >= shown.length - 1 ? null : shown[index].number;
    this.#draw();
  }

  #start() {
    if (this.#at === null) this.#go(0);
    setText(this.#play, "Pause");
    this.#timer = setInterval(() => this.#step(), calm.matches ? CALM_STEP_MS : STEP_MS);
  }

  #step() {
    const index = this.#shown.findIndex((one) => one.number === this.#at);
    if (index < 0 || document.hidden) return this.#pause();
    if (this.#image.complete) this.#go(index + 1);
    if (this.#at === null) this.#pause();
  }

  #pause() {
    clearInterval(this.#timer);
    this.#timer = 0;
    setText(this.#play, "Play");
  }
}

function describe({ name, ratio }) {
  return ratio === null ? `“${clean(name, 80)}”` : `“${clean(name, 80)}” at ${percent(100 * ratio)}`;
}
