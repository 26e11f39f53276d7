// SPDX-License-Identifier: Apache-2.0
// The list of jobs: newest first, page by page as it is scrolled, filtered by the server, fresh while it is looked at.
import { getAll, passing } from "/api.js";
import { MOST as MOST_COMPARED } from "/compare.js";
import { ended, fraction, progressLine, recipeText, took } from "/job_text.js";
import { sleep } from "/live.js";
import { PagedTable, narrow } from "/paging.js";
import { announce, connectionLine, el, page, percent, problemCard, state, whenShort } from "/ui.js";

const FRESH_MS = 2000,
  FRESH_HIDDEN_MS = 15000,
  TYPING_MS = 150,
  MOST_MODELS = 200;

/** The form, and know(models): what its list of models offers once they are there. */
function filterForm(query, change) {
  const field = (name, label, input) => {
    input.name = name;
    input.value = query.get(name) || "";
    return el("label", { class: "inline" }, label, input);
  };
  const options = (rows) =>
    el(
      "select",
      {},
      el("option", { value: "" }, "any"),
      rows.map(([value, text]) => el("option", { value }, text)),
    );
  const asked = query.get("model"),
    model = options(asked ? [[asked, asked]] : []);
  const label = el("input", { type: "search", placeholder: "key=value", size: 12 });
  const form = el(
    "form",
    { class: "row filters", role: "search", "aria-label": "Filter jobs", onsubmit: (event) => event.preventDefault() },
    field("state", "State", options(["queued", "running", "succeeded", "failed", "canceled"].map((s) => [s, s]))),
    field("label", "Label", label),
    field("model", "Model", model),
    field("created_from", "Since", el("input", { type: "date" })),
  );
  let timer = null;
  const tell = () => {
    const half = label.value.trim() !== "" && !/^[^=]+=/.test(label.value.trim()); // the server asks for key=value
    if (half) label.setAttribute("aria-invalid", "true");
    else label.removeAttribute("aria-invalid");
    if (!half) change(Object.fromEntries(new FormData(form)));
  };
  form.addEventListener("change", tell);
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(tell, TYPING_MS);
  });
  const know = (models) => {
    const value = model.value,
      offered = models.map((m) => el("option", { value: m.id }, m.name || m.id));
    if (value && !models.some((m) => m.id === value)) offered.push(el("option", { value }, value));
    model.replaceChildren(model.options[0], ...offered);
    model.value = value;
  };
  return { form, know };
}

function progressCell(job) {
  if (ended(job))
    return job.started_at && job.finished_at
      ? `in ${took((new Date(job.finished_at) - new Date(job.started_at)) / 1000)}`
      : "";
  return el(
    "span",
    {},
    progressLine(job),
    job.state === "running"
      ? el("progress", { max: 1, value: fraction(job) ?? undefined, "aria-label": `progress of ${job.id}` })
      : null,
  );
}

const top1 = (job) => job.metrics?.after?.metrics?.top1;
/** A figure; its words stand before it where narrow screens have no headings. */
const figure = (words, text) => [el("span", { class: "words" }, `${words} `), text];

const columns = (chosen, choose) => [
  {
    label: el("span", { class: "unseen" }, "Compare"),
    name: "pick",
    cell: (j) =>
      j.state === "succeeded"
        ? el("input", {
            type: "checkbox",
            "aria-label": `compare ${j.id}`,
            checked: chosen.has(j.id),
            onchange: (e) => choose(j, e.target.checked),
          })
        : "",
  },
  {
    label: "Job",
    name: "id",
    cell: (j) => el("a", { href: `#/jobs/${j.id}`, class: j.name ? null : "mono", title: j.id }, j.name || j.id),
  },
  { label: "State", name: "state-cell", cell: (j) => state(j.state) },
  {
    label: "Recipe",
    name: "recipe",
    cell: (j) => el("span", { title: recipeText(j.recipe) }, j.recipe_name || recipeText(j.recipe)),
  },
  {
    label: "Labels",
    name: "labels",
    cell: (j) =>
      Object.entries(j.labels || {})
        .slice(0, 4)
        .map(([k, v]) => el("span", { class: "label-chip" }, `${k}=${v}`)),
  },
  { label: "Progress", name: "progress", cell: progressCell },
  {
    label: "Bytes left",
    name: "bytes num",
    cell: (j) => (j.metrics?.ratio?.bytes ? figure("bytes left", percent(j.metrics.ratio.bytes)) : ""),
  },
  {
    label: "Top-1",
    name: "top1 num",
    cell: (j) => (typeof top1(j) === "number" ? figure("top-1", percent(top1(j))) : ""),
  },
  { label: "Created", name: "created", cell: (j) => whenShort(j.created_at) },
];

/** The query as the API wants it: a day is its first instant here. */
const asked = (words) => ({
  ...words,
  label: words.label.trim(),
  created_from: words.created_from ? new Date(`${words.created_from}T00:00:00`).toISOString() : "",
});

export async function jobsView({ main, query, signal }) {
  const chosen = new Set(),
    problems = el("div"),
    connection = connectionLine();
  const compare = el(
    "button",
    {
      disabled: true,
      onclick: () => {
        location.hash = `#/compare?jobs=${[...chosen].join(",")}`;
      },
    },
    "Compare",
  );
  const choose = (job, on) => {
    if (on) chosen.add(job.id);
    else chosen.delete(job.id);
    const many = chosen.size > MOST_COMPARED;
    compare.disabled = chosen.size < 2 || many;
    compare.textContent = chosen.size ? `Compare ${chosen.size}${many ? `: at most ${MOST_COMPARED}` : ""}` : "Compare";
    if (many) announce(`${chosen.size} jobs are chosen; at most ${MOST_COMPARED} can be compared`);
  };
  const empty = () =>
    Object.values(words).some(Boolean)
      ? el("p", {}, "No job is like that.")
      : el(
          "div",
          { class: "card" },
          el("p", {}, "No job yet. Upload a model and choose what should happen to it."),
          el("a", { class: "button primary", href: "#/new" }, "Make the first job"),
        );
  const list = new PagedTable({
    path: "/v1/jobs",
    signal,
    label: "Jobs, newest first",
    kind: "jobs",
    moving: (job) => !ended(job),
    empty,
    height: () => (narrow.matches ? 136 : 46),
    columns: columns(chosen, choose),
  });
  let told = null; // the filter whose jobs were counted aloud
  /** load(), and what became of it on the page. */
  async function show(load) {
    const mine = words;
    try {
      await load();
    } catch (problem) {
      if (signal.aborted || problem.status === 401) throw problem;
      if (passing(problem)) connection.show(true);
      else if (!problems.hasChildNodes()) problems.append(problemCard(problem)); // said once, not every round
      return;
    }
    connection.show(false);
    problems.replaceChildren();
    if (told === mine || mine !== words) return;
    told = mine;
    announce(`${list.count}${list.whole ? "" : " and more"} jobs`);
  }
  const open = () => {
    problems.replaceChildren();
    return show(() => list.open(asked(words)));
  };
  const filter = filterForm(query, (next) => {
    if (JSON.stringify(next) === JSON.stringify(words)) return;
    words = next;
    const text = new URLSearchParams(Object.entries(words).filter(([, v]) => v)).toString();
    history.replaceState(null, "", `#/jobs${text ? `?${text}` : ""}`);
    open().catch(() => {}); // a key is asked for by the next round
  });
  let words = Object.fromEntries(new FormData(filter.form)); // what the form takes of the address
  page(
    main,
    el(
      "div",
      { class: "row spread" },
      el("h1", {}, "Jobs"),
      el("div", { class: "row" }, compare, el("a", { class: "button primary", href: "#/new" }, "New job")),
    ),
    filter.form,
    connection.node,
    problems,
    list.node,
  );
  getAll("/v1/models", MOST_MODELS, signal)
    .then(filter.know)
    .catch(() => {}); // without them the list is a short one
  await open();
  while (!signal.aborted) {
    await sleep(document.hidden ? FRESH_HIDDEN_MS : FRESH_MS, signal);
    if (signal.aborted) return;
    await show(() => list.refresh());
  }
}
