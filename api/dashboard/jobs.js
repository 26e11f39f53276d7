// SPDX-License-Identifier: Apache-2.0
// The list of jobs: newest first, page by page as it is scrolled, filtered by the server, fresh while it is looked at.
import { getAll, getPage } from "/api.js";
import { ended, fraction, progressLine, recipeText } from "/job_text.js";
import { sleep } from "/live.js";
import { announce, el, page, percent, problemCard, state, whenShort } from "/ui.js";
import { VirtualList } from "/virtual_list.js";

const PAGE = 200, FRESH_MS = 2000, FRESH_HIDDEN_MS = 15000;
const FILTERS = ["state", "label", "model", "created_from"];
const narrow = matchMedia("(max-width: 48rem)");

/** Pages of the list as they were fetched; each remembers where it began, so that it can be fetched again. */
class Pages {
  #query; #signal; #pages = []; #loading = null; next = null;
  constructor(query, signal) { this.#query = query; this.#signal = signal; }
  get rows() { return this.#pages.flatMap((p) => p.rows); }
  get count() { return this.#pages.reduce((sum, p) => sum + p.rows.length, 0); }
  get whole() { return this.#pages.length > 0 && !this.next; }

  /** The page behind those there are. */
  more() {
    this.#loading ??= (async () => {
      const cursor = this.next, answer = await getPage("/v1/jobs", { ...this.#query, limit: PAGE, cursor }, this.#signal);
      this.#pages.push({ cursor, rows: answer.data });
      this.next = answer.next_cursor;
    })().finally(() => { this.#loading = null; });
    return this.#loading;
  }

  /** Fetch again what may have changed: the head, and pages in sight with jobs that have not ended. Rows that are as they were
   * stay the same objects. */
  async refresh(first, last) {
    const known = new Map(this.rows.map((row) => [row.id, row]));
    const same = (row) => { const old = known.get(row.id); return old && JSON.stringify(old) === JSON.stringify(row) ? old : row; };
    let at = 0;
    for (const [i, one] of [...this.#pages].entries()) {
      const inSight = at < last && at + one.rows.length > first, moving = one.rows.some((row) => !ended(row));
      at += one.rows.length;
      if (i > 0 && !(inSight && moving)) continue;
      const answer = await getPage("/v1/jobs", { ...this.#query, limit: PAGE, cursor: one.cursor }, this.#signal);
      const rows = answer.data.map(same);
      if (i === 0) this.#takeHead(rows, answer.next_cursor);
      else one.rows = rows;
    }
  }

  /** New jobs push older ones off the first page: those go to the front of the second. */
  #takeHead(rows, next) {
    const head = this.#pages[0], there = new Set(rows.map((row) => row.id));
    const pushed = head.rows.filter((row) => !there.has(row.id) && rows.length && row.id < rows.at(-1).id);
    head.rows = rows;
    if (this.#pages.length === 1) this.next = next;
    else if (pushed.length) this.#pages.splice(1, 0, { cursor: next, rows: pushed });
  }
}

function filterForm(query, models, change) {
  const field = (name, label, input) => { input.name = name; input.value = query.get(name) || ""; return el("label", { class: "inline" }, label, input); };
  const options = (rows) => el("select", {}, el("option", { value: "" }, "any"), rows.map(([value, text]) => el("option", { value }, text)));
  const known = models.map((m) => [m.id, m.name || m.id]), asked = query.get("model");
  if (asked && !known.some(([id]) => id === asked)) known.push([asked, asked]);
  const label = el("input", { type: "search", placeholder: "key=value", size: 12 });
  const form = el("form", { class: "row filters", role: "search", "aria-label": "Filter jobs", onsubmit: (event) => event.preventDefault() },
    field("state", "State", options(["queued", "running", "succeeded", "failed", "canceled"].map((s) => [s, s]))), field("label", "Label", label),
    field("model", "Model", options(known)), field("created_from", "Since", el("input", { type: "date" })));
  let timer = null;
  const tell = () => {
    const half = label.value.trim() !== "" && !/^[^=]+=/.test(label.value.trim()); // the server asks for key=value
    if (half) label.setAttribute("aria-invalid", "true"); else label.removeAttribute("aria-invalid");
    if (!half) change(Object.fromEntries(new FormData(form)));
  };
  form.addEventListener("change", tell);
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(tell, 400); });
  return form;
}

function progressCell(job) {
  if (ended(job)) return `ended ${whenShort(job.finished_at)}`;
  return el("span", {}, progressLine(job), job.state === "running" ? el("progress", { max: 1, value: fraction(job) ?? undefined, "aria-label": `progress of ${job.id}` }) : null);
}

const columns = (chosen, choose) => [
  { label: el("span", { class: "unseen" }, "Compare"), name: "pick", cell: (j) => (j.state === "succeeded" ? el("input", { type: "checkbox", "aria-label": `compare ${j.id}`, checked: chosen.has(j.id), onchange: (e) => choose(j, e.target.checked) }) : "") },
  { label: "Job", name: "id", cell: (j) => el("a", { href: `#/jobs/${j.id}`, class: j.name ? null : "mono", title: j.id }, j.name || j.id) },
  { label: "State", name: "state-cell", cell: (j) => state(j.state) },
  { label: "Recipe", name: "recipe", cell: (j) => el("span", { title: recipeText(j.recipe) }, j.recipe_name || recipeText(j.recipe)) },
  { label: "Labels", name: "labels", cell: (j) => Object.entries(j.labels || {}).slice(0, 4).map(([k, v]) => el("span", { class: "label-chip" }, `${k}=${v}`)) },
  { label: "Progress", name: "progress", cell: progressCell },
  { label: "Bytes left", name: "bytes", cell: (j) => (j.metrics?.ratio?.bytes ? percent(j.metrics.ratio.bytes) : "") },
  { label: "Created", name: "created", cell: (j) => whenShort(j.created_at) },
];

/** The query as the API wants it: a day is its first instant here. */
const asked = (words) => ({ ...words, label: words.label.trim(), created_from: words.created_from ? new Date(`${words.created_from}T00:00:00`).toISOString() : "" });

export async function jobsView({ main, query, signal }) {
  const chosen = new Set(), body = el("div"), problems = el("div");
  const compare = el("button", { disabled: true, onclick: () => { location.hash = `#/compare?jobs=${[...chosen].join(",")}`; } }, "Compare");
  const choose = (job, on) => {
    if (on) chosen.add(job.id); else chosen.delete(job.id);
    compare.disabled = chosen.size < 2;
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
  };
  let pages = null, sight = [0, PAGE];
  const list = new VirtualList({ label: "Jobs, newest first", signal, key: (j) => j.id, height: () => (narrow.matches ? 136 : 46), columns: columns(chosen, choose),
    near: (first, last) => { sight = [first, last]; if (pages && pages.next && last > pages.count - PAGE / 2) load(pages).catch(() => {}); } });
  narrow.addEventListener("change", () => list.draw(), { signal });

  const empty = (words) => (Object.values(words).some(Boolean) ? el("p", {}, "No job is like that.")
    : el("div", { class: "card" }, el("p", {}, "No job yet. Upload a model and choose what should happen to it."), el("a", { class: "button", href: "#/new" }, "Make the first job")));
  function draw(words) {
    const rows = pages.rows;
    if (!rows.length) return body.replaceChildren(empty(words));
    if (list.node.parentNode !== body) body.replaceChildren(list.node);
    list.set(rows, pages.whole);
  }
  async function load(these) {
    await these.more();
    if (these === pages && !signal.aborted) list.set(pages.rows, pages.whole);
  }
  let words = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) || ""]));
  async function open() {
    const mine = new Pages(asked(words), signal);
    problems.replaceChildren();
    try { await mine.more(); } catch (problem) {
      if (signal.aborted || problem.status === 401) throw problem;
      return problems.replaceChildren(problemCard(problem));
    }
    pages = mine;
    draw(words);
    announce(`${pages.rows.length}${pages.whole ? "" : " and more"} jobs`);
  }
  const models = await getAll("/v1/models", 200, signal).catch(() => []);
  if (signal.aborted) return;
  page(main, el("div", { class: "row spread" }, el("h1", {}, "Jobs"), el("div", { class: "row" }, compare, el("a", { class: "button", href: "#/new" }, "New job"))),
    filterForm(query, models, (next) => {
      if (JSON.stringify(next) === JSON.stringify(words)) return;
      words = next;
      const text = new URLSearchParams(Object.entries(words).filter(([, v]) => v)).toString();
      history.replaceState(null, "", `#/jobs${text ? `?${text}` : ""}`);
      open().catch((problem) => { if (!signal.aborted) problems.replaceChildren(problemCard(problem)); });
    }), problems, body);
  await open();
  while (!signal.aborted) {
    await sleep(document.hidden ? FRESH_HIDDEN_MS : FRESH_MS, signal);
    const mine = pages;
    if (signal.aborted || !mine) continue;
    try {
      await mine.refresh(...sight);
      if (mine === pages && !signal.aborted) draw(words);
    } catch (problem) {
      if (problem.status === 401) throw problem; // else the next round may go better
    }
  }
}
