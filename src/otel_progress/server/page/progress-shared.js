/** What the modules of the client share: its error, and which statuses are an end. */

const ENDED = new Set(["completed", "failed", "cancelled", "skipped"]);

/** True when a status is one of an operation that is over. */
export const hasEnded = (status) => ENDED.has(status);

/** A request that was refused, or an operation that failed; `status` is the HTTP status, 0 when the server was not reached. */
export class ProgressError extends Error {
  constructor(message, { status = 0, operation = null, problem = null } = {}) {
    super(message);
    this.name = "ProgressError";
    Object.assign(this, { status, operation, problem });
  }
}

/** Calls a callback; what it throws is reported and harms nobody else. */
export function safely(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}
