/** Button that ends the session of this browser. */

import { h } from "./dom.js";

/** Returns the button. The server removes the cookie, and all tabs lose their access. */
export function createLogOut(client) {
  const button = h("button", { type: "button", class: "log-out" }, "Log out");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { ok } = await fetch("logout", { method: "POST", credentials: "same-origin" });
      if (!ok) throw new Error("refused");
    } catch {
      button.disabled = false;
      button.textContent = "Log out failed. Try again";
      return;
    }
    client.reconnect();
    location.assign(`login${location.hash}`);
  });
  return button;
}
