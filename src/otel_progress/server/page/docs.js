// Renders openapi.json as a page. All content is set as text, never parsed as markup.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Describes the type of a schema in a few words. */
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  return schema.type ?? "any";
}

function table(headings, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const heading of headings) head.append(element("th", heading, { scope: "col" }));
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.insertCell().textContent = cell;
  }
  const scroll = element("div", "", { class: "scroll" });
  scroll.append(made);
  return scroll;
}

function parameterRow(parameter) {
  const schema = parameter.schema ?? {};
  const usual = schema.default === undefined || schema.default === "" ? "" : JSON.stringify(schema.default);
  return [
    parameter.name,
    parameter.in,
    typeOf(schema),
    usual,
    parameter.description ?? schema.description ?? "",
  ];
}

function answerRow([status, answer]) {
  const types = Object.entries(answer.content ?? {}).map(
    ([type, content]) => `${type}: ${typeOf(content.schema)}`,
  );
  return [status, answer.description ?? "", types.join(", ")];
}

/** Builds a curl command for this server, quoted for pasting into a shell. */
function example(method, path) {
  const address = new URL(`.${path}`, document.baseURI).href.replaceAll("%7B", "{").replaceAll("%7D", "}");
  const verb = method === "get" ? "" : ` -X ${method.toUpperCase()}`;
  return `curl -g${verb} -H "Authorization: Bearer $OTEL_PROGRESS_TOKEN" '${address}'`;
}

function endpoint(path, method, operation) {
  const details = element("details", "", { id: operation.operationId ?? "" });
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), { class: "method" }), element("code", path));
  details.append(summary, element("p", operation.description ?? operation.summary ?? ""));
  const parameters = operation.parameters ?? [];
  if (parameters.length) {
    details.append(element("h3", "Parameters"));
    details.append(table(["Name", "In", "Type", "Default", "Meaning"], parameters.map(parameterRow)));
  }
  const body = operation.requestBody?.content ?? {};
  for (const [type, content] of Object.entries(body)) {
    details.append(element("h3", "Body"), element("p", `${type}: ${typeOf(content.schema)}`));
  }
  details.append(element("h3", "Answers"));
  details.append(
    table(["Status", "Meaning", "Content"], Object.entries(operation.responses ?? {}).map(answerRow)),
  );
  details.append(element("h3", "Example"), element("pre", example(method, path)));
  return details;
}

function schemaDetails(name, schema) {
  const details = element("details", "", { id: `schema-${name}` });
  const summary = element("summary");
  summary.append(element("code", name));
  details.append(summary, element("p", schema.description ?? ""));
  const rows = Object.entries(schema.properties ?? {}).map(([field, one]) => [
    field,
    typeOf(one),
    one.description ?? "",
  ]);
  details.append(rows.length ? table(["Field", "Type", "Meaning"], rows) : element("p", typeOf(schema)));
  return details;
}

function show(api) {
  const content = document.getElementById("content");
  content.replaceChildren(element("p", api.info?.description ?? ""));
  const byTag = new Map();
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    for (const method of METHODS) {
      if (!item[method]) continue;
      const tag = item[method].tags?.[0] ?? "other";
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push(endpoint(path, method, item[method]));
    }
  }
  for (const [tag, endpoints] of byTag) content.append(element("h2", tag), ...endpoints);
  content.append(element("h2", "documents"));
  for (const [name, schema] of Object.entries(api.components?.schemas ?? {}))
    content.append(schemaDetails(name, schema));
  if (location.hash.length > 1) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
}

try {
  const answer = await fetch("openapi.json", { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  show(await answer.json());
} catch (error) {
  document
    .getElementById("content")
    .replaceChildren(element("p", `openapi.json cannot be read: ${error.message}`, { role: "alert" }));
}
