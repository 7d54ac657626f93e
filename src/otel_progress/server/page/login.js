/** Says that the last try failed; the form works without. */

document.getElementById("why").hidden = !new URLSearchParams(location.search).has("failed");
