/**
 * Shows that the last attempt failed, and preserves the address of the view. The form works without
 * it.
 */

const query = new URLSearchParams(location.search);
document.getElementById("why").hidden = !query.has("failed");
document.getElementById("wait").hidden = !query.has("wait");

// The fragment names the view. A browser keeps it across the redirects after the form.
const form = document.querySelector("form");
form.action += location.hash;
form.elements.next.value = query.get("next") ?? (location.pathname.endsWith("/docs") ? "docs" : "");
