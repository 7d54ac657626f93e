/** Clock of the page. It stops while there is no contact to the server. */

const CONNECTED = new Set(["live", "polling"]);
// A reconnect within this time (a proxy closed an idle connection) is not reported.
export const GRACE_MS = 400;

export class PageClock {
  #stoppedAt = null; // performance.now() of the last contact while disconnected
  /** Time up to which the state of the operations is known. */
  contactAt = Infinity;

  /** True while the page is connected. */
  get runs() {
    return this.#stoppedAt === null;
  }

  /** Time to show, as performance.now(). */
  get now() {
    return this.#stoppedAt ?? performance.now();
  }

  /**
   * Receives the state of the connection. Returns the time of the last contact in Unix
   * milliseconds while disconnected, else null.
   */
  update({ state, since }, receivedAt) {
    this.contactAt = receivedAt;
    const isConnected = CONNECTED.has(state) || (state === "connecting" && receivedAt === -Infinity);
    const now = performance.now();
    if (isConnected || receivedAt === -Infinity) this.#stoppedAt = null;
    else if (state !== "connecting" && Date.now() - since >= GRACE_MS) this.#stoppedAt = Math.min(now, receivedAt);
    return this.#stoppedAt === null ? null : Date.now() - (now - this.#stoppedAt);
  }
}
