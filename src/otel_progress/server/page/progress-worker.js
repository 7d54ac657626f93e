/** SharedWorker that holds the stream of all tabs of a browser. */

import { StreamHost } from "./stream-host.js";

const host = new StreamHost(new URL("..", globalThis.location.href));

globalThis.addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data }) => host.receive(port, data);
});
