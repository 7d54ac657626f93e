/** Modal confirmation dialogs for actions that cannot be undone. */

import { h } from "./dom.js";

/** Opens the dialog; resolves with true when the user confirms. */
export const ask = async (options) => (await open(options)) !== null;

/**
 * Opens the dialog with a text field for the reason. Resolves with its text, which may be empty, when
 * the user confirms, else with null.
 */
export const askReason = (options) =>
  open({
    ...options,
    field: h("input", { type: "text", maxlength: "1024", autocomplete: "off", dir: "auto", autofocus: true }),
  });

function open({ title, text, yes, no = "Back", danger = false, field = null }) {
  return new Promise((resolve) => {
    const confirm = h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, yes);
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "ask-title" }, title),
      h("p", { id: "ask-text", dir: "auto" }, text),
      field && h("label", {}, h("span", {}, "Reason (optional)"), field),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "submit", value: "no", autofocus: field === null }, no),
        confirm,
      ),
    );
    // Without this, Enter in the field would use the first button, which declines.
    field?.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit(confirm);
    });
    const attributes = { "aria-labelledby": "ask-title", "aria-describedby": "ask-text" };
    const dialog = h("dialog", attributes, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? (field?.value.trim() ?? "") : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
