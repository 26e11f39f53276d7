// SPDX-License-Identifier: Apache-2.0
// Small pieces all views use. Every text goes through textContent: names from model files are strangers' text.

/** el("td", {class: "num", onclick: f}, "text", child, ...) */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter(Boolean));
  return node;
}

export function bytes(n) {
  if (n === undefined || n === null) return "-";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
  return `${i && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export function count(n) {
  if (n === undefined || n === null) return "-";
  const units = ["", " k", " M", " G", " T"];
  let i = 0;
  for (; n >= 10000 && i < units.length - 1; i++) n /= 1000;
  return `${i ? n.toFixed(1) : n}${units[i]}`;
}

export const percent = (x) => (typeof x === "number" ? `${(x * 100).toFixed(2)} %` : "-");
export const ms = (x) => (typeof x === "number" ? `${x < 10 ? x.toFixed(2) : x.toFixed(1)} ms` : "-");
export const when = (text) => (text ? new Date(text).toLocaleString() : "-");

/** A bar of value on a scale that ends at most. */
export function bar(value, most, kind) {
  const node = el("div", { class: `bar ${kind}` });
  node.style.width = `${Math.max(1, (100 * (value || 0)) / (most || 1))}%`;
  return node;
}

/** Two bars, before and after, on one scale. */
export function bars(before, after) {
  const most = Math.max(before || 0, after || 0);
  return el("div", { class: "pair", role: "img", "aria-label": `before ${before}, after ${after}` }, bar(before, most, "before"), bar(after, most, "after"));
}

export const state = (name) => el("span", { class: `state ${name}` }, name);

/** What went wrong, in words, with every fault. */
export function problemCard(problem) {
  return el("div", { class: "card problem", role: "alert" },
    el("b", {}, problem.title || "That did not work"),
    el("div", {}, problem.detail || problem.message),
    problem.errors?.length ? el("ul", {}, problem.errors.map((e) => el("li", {}, el("span", { class: "mono" }, e.pointer || "/"), ": ", e.detail))) : null,
    problem.request_id ? el("div", { class: "quiet small" }, `request ${problem.request_id}`) : null);
}

/** rows of {label, num, cell(row)} columns; narrow screens show each row as a card. */
export function table(columns, rows, caption) {
  return el("div", { class: "scroll" }, el("table", { class: "cards" },
    caption ? el("caption", { class: "quiet small" }, caption) : null,
    el("thead", {}, el("tr", {}, columns.map((c) => el("th", { scope: "col", class: c.num ? "num" : null }, c.label)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((c) => el("td", { "data-label": c.label, class: c.num ? "num" : null }, c.cell(row))))))));
}

/** A place to drop or choose a file; `send(file, progress)` returns a promise. */
export function dropZone(text, accept, send) {
  const status = el("div", { class: "small", role: "status" });
  const meter = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "upload" });
  const take = async (file) => {
    if (!file) return;
    meter.hidden = false;
    status.replaceChildren(`Uploading ${file.name} (${bytes(file.size)}) ...`);
    try {
      const made = await send(file, (part) => { meter.value = part; });
      status.replaceChildren(`${file.name} is ready: `, el("span", { class: "mono" }, made.id));
    } catch (problem) {
      status.replaceChildren(problemCard(problem));
    }
    meter.hidden = true;
  };
  const input = el("input", { type: "file", accept, "aria-label": text, onchange: () => take(input.files[0]) });
  const zone = el("div", { class: "drop" }, el("p", { class: "quiet small" }, `${text}: drop a file here, or`), input, meter, status);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); zone.classList.remove("over"); take(event.dataTransfer.files[0]); });
  return zone;
}

export function select(label, rows, { none, hint } = {}) {
  const box = el("select", {}, none ? el("option", { value: "" }, none) : null, rows.map((r) => el("option", { value: r.id }, `${r.name || r.id}`)));
  const whole = el("label", {}, label, hint ? el("span", { class: "quiet small" }, ` ${hint}`) : null, box);
  return { node: whole, box, add(row) { box.append(el("option", { value: row.id }, row.name || row.id)); box.value = row.id; } };
}
