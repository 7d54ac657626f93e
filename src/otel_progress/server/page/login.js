/** Shows that the last attempt failed; the form works without it. */

document.getElementById("why").hidden = !new URLSearchParams(location.search).has("failed");
