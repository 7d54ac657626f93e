/** Bounded client-side cache of operations and batches. */

import { hasEnded } from "./progress-shared.js";

export const MOST_ACTIVE = 1000;
export const MOST_ENDED = 200;
const MOST_BATCHES = 100;
const MOST_POINTS = 24;
const POINT_EVERY_S = 1;

export class Store {
  active = new Map(); // run → entry {doc, at, points}
  ended = new Map(); // run → entry, earliest end first
  batches = new Map(); // id → {doc, at}
  #floor = -Infinity; // operations that started before this time were evicted
  #fresh = null; // runs of the full set being received

  /** True if the oldest active operations are not shown because the cache is full. */
  get full() {
    return this.#floor > -Infinity && this.active.size >= MOST_ACTIVE;
  }

  get(run) {
    return this.active.get(run) ?? this.ended.get(run);
  }

  /** The entry of an id: its active run, else the run that ended last. */
  find(id) {
    let found = null;
    for (const entry of this.active.values()) if (entry.doc.operation_id === id) found = newer(entry, found);
    if (found) return found;
    for (const entry of this.ended.values()) if (entry.doc.operation_id === id) found = entry;
    return found;
  }

  /**
   * Stores a document unless a newer one is known. `at`: when it was read, as performance.now().
   */
  fold(doc, at) {
    this.#fresh?.add(doc.run);
    const known = this.get(doc.run);
    if (known && isOlder(doc, known.doc)) return known;
    const entry = known ?? { points: [] };
    Object.assign(entry, { doc: doc.levels ? { ...doc, levels: undefined } : doc, at });
    if (hasEnded(doc.status)) this.#end(entry);
    else this.#keep(entry);
    return entry;
  }

  /** Starts a full set; `sweep` then drops active operations that were not in it. */
  begin() {
    this.#fresh = new Set();
    this.#floor = -Infinity;
  }

  sweep() {
    const fresh = this.#fresh;
    this.#fresh = null;
    if (fresh) for (const run of this.active.keys()) if (!fresh.has(run)) this.active.delete(run);
  }

  /** Removes an operation that was deleted or has expired. */
  remove(run) {
    return this.active.delete(run) || this.ended.delete(run);
  }

  foldBatch(doc, now) {
    this.batches.delete(doc.id);
    this.batches.set(doc.id, { doc, at: now });
    if (this.batches.size > MOST_BATCHES) this.batches.delete(this.batches.keys().next().value);
  }

  #end(entry) {
    const { run } = entry.doc;
    this.active.delete(run);
    entry.points = []; // the duration gives its mean rate
    this.ended.set(run, entry);
    if (this.ended.size <= MOST_ENDED) return;
    this.ended.delete(this.#leastWanted().doc.run);
  }

  /** Removes batches that the server does not list any more. */
  keepBatches(ids) {
    for (const id of [...this.batches.keys()]) if (!ids.has(id)) this.batches.delete(id);
  }

  /** Evicts the earliest end; or, if batches fill more than half, one that its batch also lists. */
  #leastWanted() {
    const all = [...this.ended.values()];
    const inBatch = all.filter(({ doc }) => doc.batch !== null);
    return (inBatch.length > MOST_ENDED / 2 ? inBatch : all).reduce((first, one) =>
      endedAt(one) < endedAt(first) ? one : first,
    );
  }

  #keep(entry) {
    const { doc } = entry;
    if (this.ended.has(doc.run)) return; // an end is final
    const started = doc.started_at ?? doc.observed_at;
    const isNew = !this.active.has(doc.run);
    if (isNew && started <= this.#floor && this.active.size >= MOST_ACTIVE) return;
    this.active.set(doc.run, entry);
    note(entry);
    if (this.active.size <= MOST_ACTIVE) return;
    let oldest = null;
    for (const one of this.active.values()) if (!oldest || began(one) < began(oldest)) oldest = one;
    this.#floor = began(oldest);
    this.active.delete(oldest.doc.run);
  }
}

/**
 * Active seconds of an operation, `later` after its document was read: active_seconds() of the
 * Python package.
 */
export function workedOf(doc, later = 0) {
  const paused =
    hasEnded(doc.status) || doc.paused_clock === null ? 0 : Math.max(0, doc.clock + later - doc.paused_clock);
  return Math.max(0, doc.elapsed_seconds + (hasEnded(doc.status) ? 0 : later) - doc.paused_s - paused);
}

/**
 * True while a pause interrupts the operation: OperationSnapshot.is_paused of the Python package.
 * Then it has neither a rate nor a remaining time.
 */
export const isPaused = (doc) => !hasEnded(doc.status) && doc.paused_clock !== null;

/** Units per active second: recently while running, overall once ended; null if unknown. */
export function speedOf({ doc, points }) {
  if (doc.unit === "stage" || isPaused(doc)) return null; // stages have no meaningful rate
  const worked = workedOf(doc);
  // Work of an earlier session does not count for the rate.
  const done = Math.max(0, doc.current - doc.resumed_from);
  if (doc.duration_s !== null) return worked > 0.1 ? done / worked : null;
  const first = points[0];
  const last = points.at(-1);
  if (first && last[0] - first[0] >= 2) return Math.max(0, last[1] - first[1]) / (last[0] - first[0]);
  return worked > 1 ? done / worked : null;
}

const endedAt = ({ doc }) => doc.ended_at ?? 0;
const began = ({ doc }) => doc.started_at ?? doc.observed_at;
const newer = (entry, other) => (other && began(other) > began(entry) ? other : entry);
const isOlder = (doc, known) =>
  doc.sequence < known.sequence || (doc.sequence === known.sequence && doc.read_at < known.read_at);

/** Stores a point for the rate: the last 30 active seconds, at most one point per second. */
function note({ doc, points }) {
  const last = points.at(-1);
  const worked = workedOf(doc); // active time, because a pause must not lower the rate
  if (last && doc.current < last[1]) points.length = 0; // the counter was set back
  if (last && worked - last[0] < POINT_EVERY_S) return;
  points.push([worked, doc.current]);
  if (points.length > MOST_POINTS) points.shift();
}
