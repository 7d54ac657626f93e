/** Shared by the client's modules: its error class and the final statuses. */

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

/** Calls a callback. An exception is reported and does not affect other callbacks. */
export function safely(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}
