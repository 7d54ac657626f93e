/** Modal confirmation dialog for actions that cannot be undone. */

import { h } from "./dom.js";

/** Opens the dialog; resolves with true when the user confirms. */
export function ask({ title, text, yes, no = "Back", danger = false }) {
  return new Promise((resolve) => {
    const confirm = h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, yes);
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "ask-title" }, title),
      h("p", { dir: "auto" }, text),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "submit", value: "no", autofocus: true }, no),
        confirm,
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": "ask-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
