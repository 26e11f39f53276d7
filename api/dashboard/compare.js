// SPDX-License-Identifier: Apache-2.0
// Two or more jobs side by side: a table of figures, and accuracy against size and against time with the front of
// those that no other beats. Which jobs: "#/compare?jobs=ID,ID"; without, a list to choose from.
import { getJson, getPage } from "/api.js";
import { scatter } from "/charts.js";
import { recipeText } from "/job_text.js";
import { bytes, count, el, ms, page, percent, table, when } from "/ui.js";

export const MOST = 20; // jobs side by side

const FIGURES = [
  { name: "Top-1", of: (f) => f?.metrics?.top1, format: percent, high: true },
  { name: "F1 (macro)", of: (f) => f?.metrics?.f1, format: percent, high: true },
  { name: "Bytes", of: (f) => f?.bytes, format: bytes },
  { name: "Bytes, compressed (zstd)", of: (f) => f?.zstd_bytes, format: bytes },
  { name: "Parameters", of: (f) => f?.params, format: count },
  { name: "Non-zero parameters", of: (f) => f?.nonzero, format: count },
  { name: "MACs", of: (f) => f?.macs, format: count },
  { name: "Peak activations", of: (f) => f?.peak_activation_bytes, format: bytes },
  { name: "Latency p50", of: (f) => f?.latency_ms?.p50, format: ms },
  { name: "Latency p99", of: (f) => f?.latency_ms?.p99, format: ms },
];

const worst = (job, key) => {
  const all = (job.metrics?.fidelity?.outputs || []).map((o) => o[key]).filter((v) => typeof v === "number");
  return all.length ? Math.min(...all) : undefined;
};

/** What is compared: every source once ("S1"), then the results ("1", "2"). */
function subjects(jobs) {
  const out = [],
    sources = new Map();
  jobs.forEach((job, i) => {
    const before = job.metrics?.before;
    if (before && !sources.has(job.model))
      sources.set(job.model, {
        label: `S${sources.size + 1}`,
        name: `source ${job.model}`,
        facts: before,
        model: job.model,
      });
    out.push({ label: String(i + 1), name: `job ${job.id}`, facts: job.metrics?.after, job });
  });
  return [...sources.values(), ...out];
}

/** Worth of a result: top-1 where there are labels, else how often its top class is the source's. */
function worth(all) {
  const labelled = all.some((s) => typeof s.facts?.metrics?.top1 === "number");
  return labelled
    ? { name: "top-1", of: (s) => s.facts?.metrics?.top1 }
    : { name: "top class as the source's", of: (s) => (s.job ? worst(s.job, "top1_agreement") : 1) };
}

function charts(all) {
  const { name, of } = worth(all),
    points = (x) => all.map((s) => ({ x: x(s.facts), y: of(s), label: s.label, name: s.name }));
  const yFormat = (v) => `${Number((v * 100).toPrecision(4))} %`;
  const parts = [
    scatter({
      title: `${name} against bytes`,
      points: points((f) => f?.bytes),
      xName: "bytes",
      yName: name,
      xFormat: bytes,
      yFormat,
    }),
    scatter({
      title: `${name} against latency`,
      points: points((f) => f?.latency_ms?.p50),
      xName: "median latency",
      yName: name,
      xFormat: ms,
      yFormat,
    }),
  ].filter(Boolean);
  return parts.length
    ? el("div", { class: "charts" }, parts)
    : el(
        "p",
        { class: "quiet" },
        "No accuracy was measured, so nothing can be drawn: give the jobs a dataset with labels.",
      );
}

function figures(all) {
  const rows = FIGURES.map((figure) => ({ ...figure, values: all.map((s) => figure.of(s.facts)) })).filter((row) =>
    row.values.some((v) => typeof v === "number"),
  );
  rows.push(
    ...[
      ["SQNR of the worst output", "sqnr_db", (v) => (typeof v === "number" ? `${v.toFixed(1)} dB` : "-")],
      ["Top class as the source's", "top1_agreement", percent],
    ]
      .map(([name, key, format]) => ({
        name,
        format,
        high: true,
        values: all.map((s) => (s.job ? worst(s.job, key) : undefined)),
      }))
      .filter((row) => row.values.some((v) => typeof v === "number")),
  );
  const best = (row) => {
    const known = row.values.filter((v) => typeof v === "number");
    return known.length > 1 ? (row.high ? Math.max(...known) : Math.min(...known)) : NaN;
  };
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "figures side by side" },
    el(
      "table",
      { class: "figures" },
      el("caption", { class: "quiet small" }, "the best of a row is bold"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "Figure"),
          all.map((s) =>
            el(
              "th",
              { scope: "col", class: "num" },
              s.job
                ? el("a", { href: `#/jobs/${s.job.id}` }, s.label)
                : el("a", { href: `#/models/${s.model}` }, s.label),
            ),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, row.name),
            row.values.map((v) =>
              el("td", { class: "num" }, v === best(row) ? el("b", {}, row.format(v)) : row.format(v)),
            ),
          ),
        ),
      ),
    ),
  );
}

function key(all) {
  return table(
    [
      { label: "", cell: (s) => el("b", {}, s.label) },
      {
        label: "What",
        cell: (s) =>
          s.job
            ? el("a", { href: `#/jobs/${s.job.id}`, class: s.job.name ? null : "mono" }, s.job.name || s.job.id)
            : el("span", {}, "source ", el("a", { href: `#/models/${s.model}`, class: "mono" }, s.model)),
      },
      { label: "Recipe", cell: (s) => (s.job ? s.job.recipe_name || recipeText(s.job.recipe) : "as it came") },
      {
        label: "Labels",
        cell: (s) =>
          Object.entries(s.job?.labels || {}).map(([k, v]) => el("span", { class: "label-chip" }, `${k}=${v}`)),
      },
      { label: "Finished", cell: (s) => (s.job ? when(s.job.finished_at) : "") },
    ],
    all,
    "what the numbers stand for",
  );
}

async function chooser(main, chosen, signal) {
  const answer = await getPage("/v1/jobs", { state: "succeeded", limit: 100 }, signal),
    picked = new Set(chosen);
  const go = el(
    "button",
    {
      class: "primary",
      disabled: picked.size < 2,
      onclick: () => {
        location.hash = `#/compare?jobs=${[...picked].join(",")}`;
      },
    },
    "Compare",
  );
  const pick = (id, on) => {
    if (on) picked.add(id);
    else picked.delete(id);
    go.disabled = picked.size < 2 || picked.size > MOST;
  };
  if (!answer.data.length)
    return page(main, "Compare jobs", el("p", {}, "No job has succeeded yet: there is nothing to compare."));
  page(
    main,
    "Compare jobs",
    el("p", { class: "quiet" }, `Choose two or more, at most ${MOST}.`),
    table(
      [
        {
          label: "Take",
          cell: (j) =>
            el("input", {
              type: "checkbox",
              "aria-label": `compare ${j.id}`,
              checked: picked.has(j.id),
              onchange: (e) => pick(j.id, e.target.checked),
            }),
        },
        {
          label: "Job",
          cell: (j) => el("a", { href: `#/jobs/${j.id}`, class: j.name ? null : "mono" }, j.name || j.id),
        },
        { label: "Recipe", cell: (j) => j.recipe_name || recipeText(j.recipe) },
        { label: "Model", cell: (j) => el("span", { class: "mono" }, j.model) },
        { label: "Bytes", num: true, cell: (j) => bytes(j.metrics?.after?.bytes) },
        { label: "Finished", cell: (j) => when(j.finished_at) },
      ],
      answer.data,
      "jobs that succeeded, newest first",
    ),
    go,
  );
}

export async function compareView({ main, query, signal }) {
  const ids = [...new Set((query.get("jobs") || "").split(",").filter((id) => /^\w+$/.test(id)))],
    left = ids.splice(MOST).length;
  if (ids.length < 2) return chooser(main, ids, signal);
  const without = (id) => (problem) => {
    if (problem.status !== 404) throw problem;
    return { id, state: "gone" };
  };
  const jobs = await Promise.all(ids.map((id) => getJson(`/v1/jobs/${id}`, signal).catch(without(id))));
  const ready = jobs.filter((job) => job.metrics?.after),
    all = subjects(ready);
  page(
    main,
    `Compare ${ready.length} jobs`,
    el("p", {}, el("a", { href: "#/compare" }, "Choose others")),
    left ? el("div", { class: "card note" }, `The first ${MOST} of ${MOST + left} jobs.`) : null,
    ready.length < jobs.length
      ? el(
          "div",
          { class: "card note" },
          `${jobs.length - ready.length} of the jobs have no result: ${jobs
            .filter((j) => !j.metrics?.after)
            .map((j) => `${j.id} is ${j.state}`)
            .join(", ")}.`,
        )
      : null,
    ready.length
      ? [charts(all), el("h2", {}, "Figures"), figures(all), el("h2", {}, "Jobs"), key(all)]
      : null,
  );
}
