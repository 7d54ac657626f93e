/**
 * Computes and formats the estimate of the remaining time. It never changes what is stored or
 * streamed.
 */

import { passed, roughly } from "./format.js";
import { hasEnded } from "./progress-shared.js";
import { isPaused } from "./store.js";

/**
 * The estimate at `clock` if nothing advanced since: Eta.at of the Python package, field by field.
 */
export function etaAt(eta, clock) {
  const since = Math.max(0, clock - eta.clock);
  if (since === 0) return eta;
  if (eta.remaining_s === null) return { ...eta, clock };
  const { counts_down_s: limit, stalls_after_s: stalls } = eta;
  const gone = limit === null ? since : Math.min(since, limit);
  const remaining = Math.max(0, eta.remaining_s - gone);
  const low = eta.low_s === null ? null : Math.max(0, eta.low_s - gone);
  if (stalls !== null && since > stalls) {
    return {
      ...eta,
      remaining_s: null,
      low_s: low ?? remaining,
      high_s: null,
      state: "stalled",
      clock,
      counts_down_s: 0,
      stalls_after_s: 0,
    };
  }
  return {
    ...eta,
    remaining_s: remaining,
    low_s: low,
    high_s: eta.high_s === null ? null : Math.max(remaining, eta.high_s - gone),
    state: limit === null || since <= limit ? eta.state : "holding",
    clock,
    counts_down_s: limit === null ? null : limit - gone,
    stalls_after_s: stalls === null ? null : stalls - since,
  };
}

/**
 * The estimate of a level (or operation) `seconds` after its document was read; null without one.
 */
export function etaOf(doc, level, seconds) {
  if (!level.eta || hasEnded(level.status) || !doc.alive || isPaused(doc)) return null;
  return etaAt(level.eta, doc.clock + seconds);
}

/**
 * Seconds since the last advance that exceed the allowance of the estimate: its end was that much
 * earlier.
 */
export function heldFor(doc, { eta }, seconds) {
  const since = doc.clock + seconds - eta.clock;
  return Math.max(0, since - (eta.counts_down_s ?? Infinity));
}

const CALM_MS = 3000;
const CALM_SHARE = 0.15;

/**
 * Smooths the remaining seconds for display: a small change of the expected end is applied over
 * some seconds to avoid flicker, a large one at once. While the estimate waits for an advance, the
 * display waits too.
 */
export function calm(entry, eta, now) {
  if (eta.remaining_s === null) {
    entry.shown = null;
    return null;
  }
  const end = now + 1000 * eta.remaining_s;
  const { shown } = entry;
  if (!shown || Math.abs(end - shown.end) > CALM_SHARE * 1000 * Math.max(eta.remaining_s, 1))
    entry.shown = { end, at: now };
  else if (now > shown.at) {
    const passed_ = now - shown.at;
    if (eta.state === "holding") shown.end += passed_;
    shown.end += (end - shown.end) * (1 - Math.exp(-passed_ / CALM_MS));
    shown.at = now;
  }
  return Math.max(0, (entry.shown.end - now) / 1000);
}

/** `12 min 05 s left`, `any moment`, `at least 3 min 00 s left` while stalled; null if unknown. */
export function leftText(eta) {
  if (eta === null) return null;
  if (eta.remaining_s === null)
    return eta.low_s !== null && eta.low_s >= 1 ? `at least ${passed(eta.low_s)} left` : null;
  return eta.remaining_s < 1 ? "any moment" : `${passed(eta.remaining_s)} left`;
}

/** `10 min to 15 min`; empty without an interval or if it is too narrow to see. */
export function intervalText({ low_s: low, high_s: high }) {
  if (low === null || high === null) return "";
  const [first, last] = [roughly(low), roughly(high, true)];
  return first === last ? "" : `${first} to ${last}`;
}

/** The basis of an estimate in words. */
export function becauseOf({ basis, runs }) {
  if (basis === "history" || basis === "durations")
    return `from ${runs} earlier ${runs === 1 ? "run" : "runs"}`;
  return (
    { rate: "from its recent rate", parallel: "from levels running in parallel", expected: "as declared" }[
      basis
    ] ?? ""
  );
}
