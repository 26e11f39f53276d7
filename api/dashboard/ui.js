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
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined && value !== null) node.setAttribute(name, value);
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
export const ms = (x) => (typeof x === "number" ? `${x < 100 ? Number(x.toPrecision(3)) : x.toFixed(0)} ms` : "-");
export const when = (text) => (text ? new Date(text).toLocaleString() : "-");
export const whenShort = (text) =>
  text ? new Date(text).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : "-";

/** A bar of value on a scale that ends at most. */
export function bar(value, most, kind) {
  const node = el("div", { class: `bar ${kind}` });
  node.style.width = `${Math.max(1, (100 * (value || 0)) / (most || 1))}%`;
  return node;
}

/** Two bars, before and after, on one scale. */
export function bars(before, after) {
  const most = Math.max(before || 0, after || 0);
  return el(
    "div",
    { class: "pair", role: "img", "aria-label": `before ${before}, after ${after}` },
    bar(before, most, "before"),
    bar(after, most, "after"),
  );
}

/** Say something to those who listen instead of looking. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place.textContent !== text) place.textContent = text;
}

let opening = false; // the next page() is a new view: its heading takes the focus
export const expectPage = () => {
  opening = true;
};

/** Show a view: its title (also the window's), then its content. title: text, or a heading made elsewhere. The focus of
 * a heading passes on to the next. */
export function page(main, title, ...content) {
  const heading =
    typeof title === "string" ? el("h1", {}, title) : title.matches("h1") ? title : title.querySelector("h1");
  heading.tabIndex = -1;
  document.title = `${heading.textContent} · pared`;
  opening ||= main.querySelector("h1") === document.activeElement;
  main.replaceChildren(...[typeof title === "string" ? heading : title, ...content].flat(Infinity).filter(Boolean));
  if (opening) {
    opening = false;
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

/** Fill a place anew without closing what the reader opened in it, or losing the focus: a button of the same name has
 * it again, or else the heading. */
export function refill(place, ...content) {
  const open = [...place.querySelectorAll("details")].map((d) => d.open),
    active = document.activeElement;
  const held = place.contains(active) ? [active.tagName, active.textContent] : null;
  place.replaceChildren(...content.flat(Infinity).filter(Boolean));
  const now = place.querySelectorAll("details");
  if (open.length === now.length)
    now.forEach((d, i) => {
      d.open = open[i];
    });
  if (!held) return;
  const same = [...place.querySelectorAll(held[0])].find((node) => node.textContent === held[1]);
  (same || document.querySelector("main h1"))?.focus({ preventScroll: true });
}

/** say(problem) shows it in this place, instead of the one before; say(null) only forgets that. */
export const sayIn = (place) => (problem) => place.replaceChildren(...(problem ? [problemCard(problem)] : []));

/** run() for a button, one at a time: it is marked and not disabled, which would take the focus from it. say: of
 * sayIn(), for what goes wrong. */
export async function once(button, run, say) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  say(null);
  try {
    await run();
  } catch (problem) {
    say(problem);
  }
  button.removeAttribute("aria-disabled");
}

export const state = (name) => el("span", { class: `state ${name}` }, name);

/** What went wrong, in words, with every fault. */
export function problemCard(problem) {
  return el(
    "div",
    { class: "card problem", role: "alert" },
    el("b", {}, problem.title || "That did not work"),
    el("div", {}, problem.detail || problem.message),
    problem.command ? el("pre", { tabindex: "0", role: "group", "aria-label": "command" }, problem.command) : null,
    problem.errors?.length
      ? el(
          "ul",
          {},
          problem.errors.map((e) => el("li", {}, el("span", { class: "mono" }, e.pointer || "/"), ": ", e.detail)),
        )
      : null,
    problem.request_id ? el("div", { class: "quiet small" }, `request ${problem.request_id}`) : null,
  );
}

/** The place of a line that is there while the server does not answer: node, show(lost). */
export function connectionLine() {
  const node = el("div", { role: "status" });
  return {
    node,
    show(lost) {
      if (lost === node.hasChildNodes()) return;
      node.replaceChildren(...(lost ? [el("div", { class: "card note" }, "Not connected; trying again")] : []));
    },
  };
}

/** Tables keep their meaning where narrow screens show each row as a card: the roles are written out. */
function bodyRow(columns, row) {
  return el(
    "tr",
    { role: "row" },
    columns.map((c) => el("td", { role: "cell", "data-label": c.label, class: c.num ? "num" : null }, c.cell(row))),
  );
}

function wholeTable(caption, headers, body) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption || "table" },
    el(
      "table",
      { class: "cards", role: "table" },
      caption ? el("caption", { class: "quiet small" }, caption) : null,
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, headers)),
      body,
    ),
  );
}

/** rows of {label, num, cell(row)} columns; narrow screens show each row as a card. */
export function table(columns, rows, caption) {
  return wholeTable(
    caption,
    columns.map((c) =>
      c.label
        ? el("th", { scope: "col", role: "columnheader", class: c.num ? "num" : null }, c.label)
        : el("td", { role: "cell" }),
    ),
    el(
      "tbody",
      { role: "rowgroup" },
      rows.map((row) => bodyRow(columns, row)),
    ),
  );
}

/** The same with headings that sort (columns with by(row)), a box that filters by text(row), and rows a page at a
 * time. */
export function explorerTable(columns, rows, { caption, text, page: size = 100, filterLabel = "Filter" }) {
  const body = el("tbody", { role: "rowgroup" }),
    status = el("span", { class: "quiet small", role: "status" });
  const filter = el("input", { type: "search", class: "narrow" });
  const more = el(
    "button",
    {
      onclick: () => {
        shown += size;
        draw();
      },
    },
    "More rows",
  );
  let sorted = null,
    down = true,
    shown = size;
  const headers = columns.map((c) => {
    const header = el(
      "th",
      { scope: "col", role: "columnheader", class: c.num ? "num" : null },
      c.by
        ? el(
            "button",
            {
              class: "plain sort",
              onclick: () => {
                down = sorted === c ? !down : Boolean(c.num);
                sorted = c;
                for (const h of headers) h.removeAttribute("aria-sort");
                header.setAttribute("aria-sort", down ? "descending" : "ascending");
                draw();
              },
            },
            c.label,
          )
        : c.label,
    );
    return header;
  });
  const compare = (a, b) =>
    typeof a === "string" || typeof b === "string"
      ? String(a ?? "").localeCompare(String(b ?? ""))
      : (a ?? -Infinity) - (b ?? -Infinity);
  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const found = wanted ? rows.filter((row) => text(row).toLowerCase().includes(wanted)) : [...rows];
    if (sorted) found.sort((a, b) => (down ? -1 : 1) * compare(sorted.by(a), sorted.by(b)));
    body.replaceChildren(...found.slice(0, shown).map((row) => bodyRow(columns, row)));
    more.hidden = found.length <= shown;
    status.textContent =
      found.length === rows.length ? `${rows.length} rows` : `${found.length} of ${rows.length} rows`;
  }
  filter.addEventListener("input", () => {
    shown = size;
    draw();
  });
  draw();
  return el(
    "div",
    {},
    el("div", { class: "row" }, el("label", { class: "inline" }, filterLabel, filter), status),
    wholeTable(caption, headers, body),
    more,
  );
}

/** A place to drop or choose a file, one at a time; `send(file, progress, signal)` returns a promise. What is on its
 * way is let go by its button, and when the view's signal aborts. */
export function dropZone(text, accept, signal, send) {
  const status = el("div", { class: "small", role: "status" });
  const meter = el("progress", { max: 1, "aria-label": "upload" });
  let sending = null;
  const cancel = el("button", { type: "button", class: "small", onclick: () => sending.abort() }, "Cancel upload");
  const way = el("div", { class: "sending", hidden: true }, meter, cancel);
  const input = el("input", { type: "file", accept, "aria-label": text, onchange: () => take(input.files[0]) });
  /** The focus stays at the control that is of use: the button while something is on its way, else the field. */
  const busy = (on) => {
    const held = [input, cancel].includes(document.activeElement);
    way.hidden = !on;
    input.disabled = on;
    if (held) (on ? cancel : input).focus();
  };
  signal.addEventListener("abort", () => sending?.abort(), { once: true });
  const take = async (file) => {
    if (!file || sending) return;
    const mine = new AbortController();
    let words;
    sending = mine;
    meter.value = 0;
    busy(true);
    status.replaceChildren(`Uploading ${file.name} (${bytes(file.size)}) ...`);
    try {
      const progress = (part) => {
        meter.value = part;
      };
      const made = await send(file, progress, mine.signal);
      words = [`${file.name} is ready: `, el("span", { class: "mono" }, made.id)];
    } catch (problem) {
      words = [mine.signal.aborted ? `The upload of ${file.name} was canceled.` : problemCard(problem)];
    }
    sending = null;
    input.value = ""; // the same file can be chosen again
    busy(false);
    status.replaceChildren(...words);
  };
  const zone = el(
    "div",
    { class: "drop" },
    el("p", { class: "quiet small" }, `${text}: drop a file here, or`),
    input,
    way,
    status,
  );
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    if (sending) event.dataTransfer.dropEffect = "none";
    else zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  return zone;
}

export function select(label, rows, { none, hint } = {}) {
  const box = el(
    "select",
    {},
    none ? el("option", { value: "" }, none) : null,
    rows.map((r) => el("option", { value: r.id }, `${r.name || r.id}`)),
  );
  const whole = el("label", {}, label, hint ? el("span", { class: "quiet small" }, ` ${hint}`) : null, box);
  return {
    node: whole,
    box,
    add(row) {
      box.append(el("option", { value: row.id }, row.name || row.id));
      box.value = row.id;
    },
    /** Choose it, also where the rows do not go as far back. */
    choose(id) {
      box.value = id;
      if (box.value !== id) this.add({ id });
    },
  };
}
