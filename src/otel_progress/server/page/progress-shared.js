/** Shared by the client's modules: its error class and the final statuses. */

const MAX_DRIFT_MS = 2000;
const ENDED = new Set(["completed", "failed", "cancelled", "skipped"]);

/** True if an operation with this status has ended. */
export const hasEnded = (status) => ENDED.has(status);

/**
 * A refused request or a failed operation; `status` is the HTTP status, 0 if the server was not
 * reached.
 */
export class ProgressError extends Error {
  constructor(message, { status = 0, operation = null, problem = null } = {}) {
    super(message);
    this.name = "ProgressError";
    Object.assign(this, { status, operation, problem });
  }
}

/**
 * The server's clock, from the Date headers of its responses. Between them it follows
 * performance.now(), so a change of the local clock does not change the age of documents.
 */
export class ServerClock {
  #offset; // of performance.now(), to Unix milliseconds of the server
  #localOffset; // the same to those of the local clock, when the header was read

  constructor() {
    this.compare(null);
  }

  get now() {
    return performance.now() + this.#offset;
  }

  /** Sets the time, in Unix milliseconds. */
  set(now) {
    this.#offset = now - performance.now();
  }

  /** True if the local clock was changed, or the machine was suspended, since the last header. */
  get isDoubtful() {
    return Math.abs(Date.now() - performance.now() - this.#localOffset) > MAX_DRIFT_MS;
  }

  /** The header has whole seconds, so a small difference from the local clock is ignored. */
  compare(date) {
    const skew = Date.parse(date ?? "") + 500 - Date.now();
    this.#localOffset = Date.now() - performance.now();
    this.#offset = this.#localOffset + (Math.abs(skew) >= MAX_DRIFT_MS ? skew : 0);
  }
}

/** Calls a callback. An exception is reported and does not affect other callbacks. */
export function safely(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}
