/** Pure formatting functions. A value that cannot be shown is "–". */

import { clean } from "./dom.js";

export const UNKNOWN = "–";
const BYTES = new Set(["by", "byte", "bytes", "b"]);
const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const exactClock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const day = new Intl.DateTimeFormat(undefined, {
  weekday: "short",
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});

/** The type of a level or operation; empty if its name starts with it, as in `thumbs 1`. */
export function typeBeside(name, type) {
  const [longer, shorter] = [clean(name ?? "", 200).toLowerCase(), clean(type ?? "", 80).toLowerCase()];
  return longer === shorter || longer.startsWith(`${shorter} `) ? "" : (type ?? "");
}

/**
 * The number of ended levels that are not stored any more: `… 312 more, all completed` or
 * `… 312 more: 300 completed (7 ended early), 12 failed`. Empty without such levels. `counts`: by
 * status; `ended_early` are those of `completed` that completed below their total.
 */
export function moreLevels(counts) {
  const { ended_early: early = 0, ...byStatus } = counts ?? {};
  const present = Object.entries(byStatus).filter(([, number]) => number > 0);
  if (present.length === 0) return "";
  const sum = present.reduce((total, [, number]) => total + number, 0);
  const more = `… ${plain.format(sum)} more`;
  const named = (status) =>
    early > 0 && status === "completed" ? `completed (${plain.format(early)} ended early)` : status;
  if (present.length === 1) return `${more}, ${sum > 1 ? "all " : ""}${named(present[0][0])}`;
  return `${more}: ${present.map(([status, number]) => `${plain.format(number)} ${named(status)}`).join(", ")}`;
}

const known = (value) => typeof value === "number" && Number.isFinite(value);
const two = (value) => String(value).padStart(2, "0");

/** `4.2 s`, `38 s`, `3 min 12 s`, `2 h 05 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  const positive = Math.max(0, seconds);
  if (positive < 9.95) return `${positive.toFixed(1)} s`;
  const whole = Math.round(positive);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** A duration without tenths, for values that change every second. */
export const passed = (seconds) =>
  known(seconds) && seconds < 10 ? `${Math.floor(Math.max(0, seconds))} s` : duration(seconds);

/**
 * A duration at the precision of a bound: `8 s`, `1 min 20 s`, `12 min`, `2 h 05 min`; rounded down
 * or up.
 */
export function roughly(seconds, up = false) {
  if (!known(seconds)) return UNKNOWN;
  const step = seconds < 60 ? 1 : seconds < 600 ? 10 : 60;
  const whole = step * Math.max(0, up ? Math.ceil(seconds / step - 1e-6) : Math.floor(seconds / step + 1e-6));
  if (whole < 60) return `${whole} s`;
  return whole >= 3600 || whole % 60 ? duration(whole) : `${whole / 60} min`;
}

/** `14:32` today, otherwise with the date; `at` in Unix seconds. */
export function moment(at, { exact = false } = {}) {
  if (!known(at) || Math.abs(at) > 1e11) return UNKNOWN;
  const date = new Date(at * 1000);
  if (date.toDateString() !== new Date().toDateString()) return day.format(date);
  return (exact ? exactClock : clock).format(date);
}

/**
 * `14:30 – 14:41` in the reader's locale, with dates unless both are today; one time if they look
 * the same.
 */
export function moments(first, last) {
  const dates = [first, last].map((at) => new Date(at * 1000));
  if (moment(first) === moment(last) || !dates.every((date) => Math.abs(date.getTime()) < 1e14))
    return moment(first);
  const today = new Date().toDateString();
  return (dates.every((date) => date.toDateString() === today) ? clock : day).formatRange(...dates);
}

/**
 * `62 %`; one decimal below 10; "–" if unknown. Never 100 before the end. An estimate is `~62 %`.
 */
export function percent(percentage, estimated = false) {
  if (!known(percentage)) return UNKNOWN;
  const shown = percentage < 10 ? Math.floor(percentage * 10) / 10 : Math.floor(percentage);
  return `${estimated ? "~" : ""}${shown}\u00a0%`;
}

/** `1,250`, `12.3 M`, for bytes `1.2 GB`. */
export function quantity(value, unit) {
  if (!known(value)) return UNKNOWN;
  if (isBytes(unit)) return `${scaled(value, " ")}B`;
  return Math.abs(value) >= 1e7 ? scaled(value, " ") : plain.format(value);
}

/**
 * `100 of 500 files`, `100 files` while the total is unknown, `1.2 GB of 3.4 GB`. `plural` is the
 * unit for numbers other than 1.
 */
export function count(current, total, unit, plural = unit) {
  const amount = known(total)
    ? `${quantity(current, unit)} of ${quantity(total, unit)}`
    : quantity(current, unit);
  return !unit || isBytes(unit) ? amount : `${amount} ${unitFor(known(total) ? total : current, unit, plural)}`;
}

/** `12.3 files/s`, per minute or hour when slow; empty if unknown. */
export function rate(perSecond, unit, plural = unit) {
  if (!known(perSecond) || perSecond <= 0) return "";
  if (isBytes(unit)) return `${quantity(perSecond, unit)}/s`;
  const [value, per] =
    perSecond >= 0.95
      ? [perSecond, "s"]
      : perSecond * 60 >= 0.95
        ? [perSecond * 60, "min"]
        : [perSecond * 3600, "h"];
  const shown = value >= 99.5 ? quantity(Math.round(value)) : value.toFixed(1);
  return unit ? `${shown} ${unitFor(2, unit, plural)}/${per}` : `${shown}/${per}`;
}

/** `31 %` of a core, from a ratio. */
export const ratio = (value) => (known(value) ? `${Math.round(value * 100)} %` : UNKNOWN);

const unitFor = (number, unit, plural) => clean(number === 1 ? unit : plural || unit, 23);

const isBytes = (unit) => typeof unit === "string" && BYTES.has(unit.toLowerCase());

function scaled(value, gap) {
  let index = 0;
  let rest = value;
  while (Math.abs(rest) >= 999.95 && index < PREFIXES.length - 1) {
    rest /= 1000;
    index += 1;
  }
  return `${index ? rest.toFixed(1) : plain.format(rest)}${gap}${PREFIXES[index]}`;
}
