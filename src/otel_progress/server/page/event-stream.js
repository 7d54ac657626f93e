/** Parser of server-sent events, and a watchdog for silent connections. */

import { ProgressError } from "./progress-shared.js";

const MAX_MESSAGE = 64 * 1024 * 1024;

/**
 * Reads server-sent events until the body ends; `onBytes` is called for all data, including
 * heartbeats.
 */
export async function readEvents(body, onEvent, onBytes = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { event: "message", id: null, data: [] };
  const line = (text) => {
    if (text === "") {
      if (event.data.length) onEvent({ ...event, data: event.data.join("\n") });
      event = { event: "message", id: null, data: [] };
      return;
    }
    const colon = text.indexOf(":");
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "data") event.data.push(value);
    else if (field === "event" || field === "id") event[field] = value;
  };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      if (rest.length > MAX_MESSAGE) throw new ProgressError("A message from the server is too long.");
      lines.forEach(line);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Watchdog timers that fire when `heard()` is not called in time: the first reports, the second
 * disconnects.
 */
export class Silence {
  #timers = [];
  #alarms;

  constructor(...alarms) {
    this.#alarms = alarms; // pairs of [milliseconds, callback]
    this.heard();
  }

  heard() {
    this.end();
    this.#timers = this.#alarms.map(([milliseconds, callback]) => setTimeout(callback, milliseconds));
  }

  end() {
    this.#timers.forEach(clearTimeout);
  }
}
