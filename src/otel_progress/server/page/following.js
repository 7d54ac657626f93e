/**
 * Levels and items of open operations: subscribed by id while they are open, dropped afterwards.
 */

const MOST_OPEN = 20;
const MOST_ITEMS = 200;

export class Following {
  #client;
  #onChange;
  #onOperation;
  #ids = new Set();
  #awaited = new Set(); // ids whose first tree has not arrived in the stream
  #end = null;
  levels = new Map(); // operation id → {run, levels, evicted, sequence}
  items = new Map(); // operation id → item events, oldest first
  missing = new Map(); // operation id → reason why the operation is missing
  previews = new Map(); // operation id → {run, number} of the last reported preview

  constructor(client, { onOperation, onChange }) {
    this.#client = client;
    this.#onOperation = onOperation;
    this.#onChange = onChange;
  }

  /** Subscribes to exactly these ids; if there are too many, to the last ones. */
  set(ids) {
    const wanted = new Set(ids.slice(-MOST_OPEN));
    if (wanted.size === this.#ids.size && [...wanted].every((id) => this.#ids.has(id))) return;
    const added = [...wanted].filter((id) => !this.#ids.has(id));
    for (const kept of [this.levels, this.items, this.missing, this.previews])
      for (const id of kept.keys()) if (!wanted.has(id)) kept.delete(id);
    this.#ids = wanted;
    for (const id of added) this.#awaited.add(id);
    for (const id of this.#awaited) if (!wanted.has(id)) this.#awaited.delete(id);
    const end = this.#end;
    this.#end = wanted.size ? this.#subscribe([...wanted]) : null;
    end?.();
    for (const id of added) {
      this.#loadLevels(id);
      this.#load(id);
    }
  }

  levelsOf({ operation_id: id, run }) {
    const found = this.levels.get(id);
    return found?.run === run ? found.levels : null;
  }

  /** Numbers by status of the levels directly below an operation that are not stored any more. */
  evictedOf({ operation_id: id, run }) {
    const found = this.levels.get(id);
    return found?.run === run ? found.evicted : null;
  }

  /** Returns the number of an operation's last preview, including one stored after the end. */
  previewsOf({ operation_id: id, run, previews }) {
    const told = this.previews.get(id);
    return Math.max(Number.isInteger(previews) ? previews : 0, told?.run === run ? told.number : 0);
  }

  itemsOf({ operation_id: id, run }) {
    return (this.items.get(id) ?? []).filter((item) => item.run === run);
  }

  #subscribe(ids) {
    const options = {
      levels: true,
      onItem: (item) => this.#add(item.operation_id, [item]),
      onMessage: (kind, data) => this.#hear(kind, data),
    };
    return this.#client.subscribe(ids, (operation) => this.#receive(operation), options);
  }

  #receive(operation) {
    this.#take(operation);
    // The stream sends only items that were stored after its first poll, which found this tree.
    if (operation.levels && this.#awaited.delete(operation.operation_id)) this.#load(operation.operation_id);
  }

  #take(operation) {
    const { operation_id: id, run, levels, evicted_levels: evicted } = operation;
    if (!this.#ids.has(id)) return;
    this.missing.delete(id);
    const known = this.levels.get(id);
    const isOld = known?.run === run && known.sequence > operation.sequence;
    if (levels && !isOld) this.levels.set(id, { run, levels, evicted, sequence: operation.sequence });
    this.#onOperation(operation);
  }

  #hear(kind, data) {
    if (kind === "missing" && this.#ids.has(data.operation_id)) {
      this.missing.set(data.operation_id, data.error.message);
      this.#onChange();
    } else if (kind === "preview" && this.#ids.has(data.operation_id)) {
      this.previews.set(data.operation_id, { run: data.run, number: data.number });
      this.#onChange();
    } else if (kind === "ready" && data.complete) {
      for (const id of this.#ids) this.#load(id); // items that arrived while disconnected
    }
  }

  /** Loads the levels at once, because the stream sends them only at the server's next poll. */
  async #loadLevels(id) {
    try {
      this.#take(await this.#client.get(id));
    } catch {
      // A missing operation or connection is reported where the operation is shown.
    }
  }

  async #load(id) {
    try {
      const { events } = await this.#client.request(`operations/${encodeURIComponent(id)}/events`, {
        query: { limit: MOST_ITEMS },
      });
      this.#add(
        id,
        events.filter((event) => event.outcome !== null),
      );
    } catch {
      // See above.
    }
  }

  #add(id, items) {
    if (!this.#ids.has(id)) return;
    const known = new Map((this.items.get(id) ?? []).map((item) => [`${item.run} ${item.number}`, item]));
    for (const item of items) known.set(`${item.run} ${item.number}`, item);
    const sorted = [...known.values()].sort((a, b) => a.at - b.at || a.number - b.number);
    this.items.set(id, sorted.slice(-MOST_ITEMS));
    this.#onChange();
  }
}
