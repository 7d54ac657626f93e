/** Addresses of the API: ids that a path cannot contain are in the query. */

// Clients and proxies remove such segments from a path.
const UNSAFE = new Set([".", "..", "~"]);
const COLLECTIONS = new Set(["operations", "batches"]);

/**
 * Returns the path and query of a request: `operations/a%2Fb/logs` is `operations/~/logs` with the
 * parameter `id`.
 */
export function resolve(path, query = {}) {
  const segments = path.split("/");
  if (!COLLECTIONS.has(segments[0]) || segments.length < 2) return { path, query };
  const id = decode(segments[1]);
  if (!UNSAFE.has(id) && !id.includes("/")) return { path, query };
  segments[1] = "~";
  return { path: segments.join("/"), query: { ...query, id } };
}

function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Returns the URL of a request below `base`. */
export function buildUrl(base, path, query = {}) {
  const resolved = resolve(path, query);
  const url = new URL(`api/v1/${resolved.path}`, base);
  for (const [key, value] of Object.entries(resolved.query)) {
    for (const one of Array.isArray(value) ? value : [value])
      if (one !== undefined && one !== null) url.searchParams.append(key, one);
  }
  return url;
}
