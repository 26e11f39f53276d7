// SPDX-License-Identifier: Apache-2.0
// The list of jobs, live, and one job: progress, before and after, every layer, downloads, what went wrong.
import { download, getJson, postJson, remove, waitForJob } from "/api.js";
import { hasCurve, sensitivitySection } from "/prune.js";
import { detailsSection, liveSection } from "/training.js";
import { bars, bytes, count, el, ms, percent, problemCard, state, table, when } from "/ui.js";

const ended = (job) => !["queued", "running"].includes(job.state);
const stepsText = (steps) => (steps || []).map((s) => (Array.isArray(s.steps) && s.steps.length ? `${s.method} (${stepsText(s.steps)})` : s.method)).join(" → ");
const recipeText = (recipe) => (typeof recipe === "string" ? recipe : stepsText(recipe?.steps) || "no steps");

function fraction(job) {
  const p = job.progress;
  if (!p || !p.steps) return null;
  const within = p.total ? p.done / p.total : 0;
  return Math.min(1, Math.max(0, p.step - 1 + within) / p.steps);
}

function progressLine(job) {
  const p = job.progress || {};
  if (job.state === "queued") return job.queue_position ? `waiting, place ${job.queue_position} in the queue` : "waiting in the queue";
  if (job.state !== "running") return "";
  const step = p.step && p.step <= p.steps ? `step ${p.step} of ${p.steps}: ` : "";
  const amount = p.total ? ` ${p.done} of ${p.total}` : "";
  const eta = typeof p.eta_s === "number" ? `, about ${Math.ceil(p.eta_s)} s left` : "";
  return `${step}${p.stage || "starting"}${amount}${eta}`;
}

const sleep = (milliseconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

export async function jobsView({ main, signal }) {
  const body = el("div");
  main.replaceChildren(el("div", { class: "row spread" }, el("h1", {}, "Jobs"), el("a", { class: "button", href: "#/new" }, "New job")), body);
  const shown = { pages: 1 };
  const more = el("button", { onclick: () => { shown.pages++; refresh(); } }, "Older jobs");
  let last = "";
  async function refresh() {
    const rows = [];
    let cursor = null;
    for (let i = 0; i < shown.pages && (i === 0 || cursor); i++) {
      const page = await getJson(`/v1/jobs?limit=50${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`, signal);
      rows.push(...page.data);
      cursor = page.next_cursor;
    }
    const text = JSON.stringify(rows);
    if (text === last) return; // nothing moved: keep focus and selection where they are
    last = text;
    body.replaceChildren(rows.length ? table([
      { label: "Job", cell: (j) => el("a", { href: `#/jobs/${j.id}`, class: "mono" }, j.id) },
      { label: "State", cell: (j) => state(j.state) },
      { label: "Recipe", cell: (j) => recipeText(j.recipe) },
      { label: "Progress", cell: (j) => (ended(j) ? when(j.finished_at) : el("span", {}, progressLine(j), j.state === "running" ? el("progress", { max: 1, value: fraction(j) ?? undefined }) : null)) },
      { label: "Bytes", num: true, cell: (j) => (j.metrics?.ratio?.bytes ? `${percent(j.metrics.ratio.bytes)} of before` : "") },
      { label: "Created", cell: (j) => when(j.created_at) },
    ], rows) : el("div", { class: "card" }, el("p", {}, "No job yet. Upload a model and choose what should happen to it."),
      el("a", { class: "button", href: "#/new" }, "Make the first job")));
    if (cursor) body.append(more);
  }
  await refresh();
  while (!signal.aborted) {
    await sleep(document.hidden ? 10000 : 1500, signal);
    if (!signal.aborted) await refresh().catch((problem) => { if (problem.status) throw problem; });
  }
}

function tile(name, before, after, format, ratio) {
  if (before === undefined && after === undefined) return null;
  const good = typeof ratio === "number" ? `${percent(ratio)} of before` : "";
  return el("div", { class: "card tile" }, el("span", { class: "quiet small" }, name), el("b", {}, format(after)),
    el("span", { class: "quiet small" }, `before ${format(before)}`, good ? ` · ${good}` : ""), bars(before, after));
}

function tiles(report) {
  const { before = {}, after = {}, ratio = {} } = report;
  return el("div", { class: "grid" },
    tile("Bytes", before.bytes, after.bytes, bytes, ratio.bytes),
    tile("Bytes, compressed (zstd)", before.zstd_bytes, after.zstd_bytes, bytes, ratio.zstd_bytes),
    tile("MACs", before.macs, after.macs, count, ratio.macs),
    tile("Parameters", before.params, after.params, count, ratio.params),
    tile("Non-zero parameters", before.nonzero, after.nonzero, count, ratio.nonzero),
    tile("Latency p50 (our engine)", before.latency_ms?.p50, after.latency_ms?.p50, ms, ratio.latency),
    tile(`Top-1${before.metrics?.split ? ` (${before.metrics.split})` : ""}`, before.metrics?.top1, after.metrics?.top1, percent));
}

function fidelity(report) {
  const f = report.fidelity;
  if (!f) return null;
  return [el("h2", {}, "Fidelity"), el("p", { class: "quiet small" }, `The artifact was reloaded and compared with the original on ${f.samples} ${f.source === "dataset" ? "samples of the dataset" : "generated inputs"}.`),
    table([
      { label: "Output", cell: (o) => el("span", { class: "mono" }, o.name) },
      { label: "Top class agrees", num: true, cell: (o) => percent(o.top1_agreement) },
      { label: "SQNR", num: true, cell: (o) => (typeof o.sqnr_db === "number" ? `${o.sqnr_db.toFixed(1)} dB` : "-") },
      { label: "Cosine", num: true, cell: (o) => (typeof o.cosine === "number" ? o.cosine.toFixed(5) : "-") },
      { label: "Largest error", num: true, cell: (o) => (typeof o.max_abs === "number" ? o.max_abs.toPrecision(3) : "-") },
    ], f.outputs || [])];
}

const number = (v) => (Number.isInteger(v) ? count(v) : Number(v.toPrecision(3)));
function fact(k, v) {
  if (k === "bytes" && typeof v === "number") return bytes(v);
  if (k === "dtype") return v;
  const name = k.replaceAll("_", " ");
  if (typeof v === "number") return `${name} ${number(v)}`;
  if (typeof v === "boolean") return v ? name : `not ${name}`;
  if (Array.isArray(v)) return `${name}: ${v.length}`;
  return v && typeof v === "object" ? `${name} (${short(v)})` : `${name} ${v}`;
}
function short(facts) {
  return facts ? Object.entries(facts).slice(0, 12).map(([k, v]) => fact(k, v)).join(", ") : "";
}
const size = (facts) => facts?.bytes ?? facts?.nonzero ?? facts?.params;

function stepSection(step, index, inner = false) {
  const all = step.layers || [], details = detailsSection(step);
  const layers = all.filter((l) => !hasCurve(l)), curves = all.length - layers.length;
  const runs = step.runs > 1 ? `ran ${step.runs} times, the last time: ` : "";
  return el("details", { open: all.length <= 60 || curves > 0 || details !== null, class: inner ? "nested" : "card" },
    el("summary", {}, el("b", {}, `${inner ? "holds: " : `${index + 1}. `}${step.method}`), el("span", { class: "quiet small" }, ` ${typeof step.seconds === "number" ? `${step.seconds.toFixed(2)} s, ` : ""}${runs}${curves ? `${curves} groups measured` : `${layers.filter((l) => !l.skipped).length} layers changed`}, ${layers.filter((l) => l.skipped).length} left alone`)),
    details,
    curves ? sensitivitySection(all) : null,
    layers.length === 0 ? null : table([
      { label: "Layer", cell: (l) => el("span", { class: "mono" }, l.node || l.weight || "") },
      { label: "Operator", cell: (l) => l.op_type || "" },
      { label: "Before", cell: (l) => short(l.before) },
      { label: "After", cell: (l) => (l.skipped ? el("span", { class: "quiet" }, `left alone: ${l.skipped}`) : short(l.after)) },
      { label: "Size", cell: (l) => (size(l.before) !== undefined && size(l.after) !== undefined ? bars(size(l.before), size(l.after)) : "") },
      { label: "SQNR", num: true, cell: (l) => (typeof l.sqnr_db === "number" ? `${l.sqnr_db.toFixed(1)} dB` : "") },
    ], layers),
    (step.steps || []).map((nested, i) => stepSection(nested, i, true)));
}

function targets(report) {
  if (!report.targets?.length) return null;
  return [el("h2", {}, "Targets"), table([
    { label: "Target", cell: (t) => t.target },
    { label: "Wanted", num: true, cell: (t) => String(t.wanted) },
    { label: "Got", num: true, cell: (t) => (typeof t.got === "number" ? t.got.toPrecision(4) : "not measured") },
    { label: "Met", cell: (t) => el("span", { class: `state ${t.met ? "succeeded" : "failed"}` }, t.met ? "met" : "missed") },
  ], report.targets)];
}

/** How large a file of the model is, measured by what came in. */
function ofSource(artifact, report) {
  const size = artifact.bytes ?? artifact.size_bytes, before = report.before?.bytes;
  if (!before || !size || !/\.(onnx|pared)$/.test(artifact.name)) return "";
  return `${percent(size / before)}${before / size >= 1.05 ? ` (${(before / size).toPrecision(3)}x smaller)` : ""}`;
}

async function results(job, signal) {
  const [report, artifacts] = await Promise.all([getJson(`/v1/jobs/${job.id}/report`, signal), getJson(`/v1/jobs/${job.id}/artifacts`, signal)]);
  return [
    el("h2", {}, "Before and after"), tiles(report),
    report.warnings?.length ? el("div", { class: "card note" }, el("b", {}, "Good to know"), el("ul", {}, report.warnings.map((w) => el("li", {}, w)))) : null,
    targets(report), fidelity(report),
    el("h2", {}, "Downloads"),
    table([
      { label: "File", cell: (a) => el("button", { onclick: () => download(`/v1/jobs/${job.id}/artifacts/${encodeURIComponent(a.name)}`, a.name) }, a.name) },
      { label: "Size", num: true, cell: (a) => bytes(a.bytes ?? a.size_bytes) },
      { label: "Of the source", num: true, cell: (a) => ofSource(a, report) },
      { label: "SHA-256", cell: (a) => el("span", { class: "mono" }, a.sha256) },
    ], artifacts.data),
    el("h2", {}, "Steps, layer by layer"), (report.steps || []).map((step, i) => stepSection(step, i)),
  ];
}

function actions(job) {
  const act = (text, confirmation, run, kind) => el("button", { class: kind, onclick: async (event) => {
    if (confirmation && !confirm(confirmation)) return;
    event.target.disabled = true;
    try { await run(); } catch (problem) { document.getElementById("main").prepend(problemCard(problem)); event.target.disabled = false; }
  } }, text);
  return ended(job)
    ? act("Delete job", "Delete this job and its files?", async () => { await remove(`/v1/jobs/${job.id}`); location.hash = "#/jobs"; }, "danger")
    : act("Cancel job", null, () => postJson(`/v1/jobs/${job.id}/cancel`), "danger");
}

/** What the running steps have measured so far; none is no reason to show nothing of the job. */
async function measurements(id, signal) {
  try {
    return (await getJson(`/v1/jobs/${id}/metrics`, signal)).data || [];
  } catch (problem) {
    if (problem.status) return [];
    throw problem;
  }
}

export async function jobView({ main, parameters: [id], signal }) {
  let etag = null, over = null;
  const head = el("div", { class: "row spread" }); // stays when news comes, so that its button can be clicked and keeps the focus
  while (!signal.aborted) {
    const answer = await waitForJob(id, etag, signal);
    if (signal.aborted) return;
    if (!answer.job) continue;
    etag = answer.etag;
    const job = answer.job;
    const part = fraction(job);
    const top =
      el("div", { class: "card" },
        el("div", { class: "row" }, state(job.state), job.targets_met === false ? el("span", { class: "state failed" }, "targets missed") : null, el("span", { role: "status" }, progressLine(job))),
        job.state === "running" ? el("progress", { max: 1, value: part ?? undefined, "aria-label": "progress" }) : null,
        el("dl", {}, el("dt", {}, "Recipe"), el("dd", {}, recipeText(job.recipe)),
          el("dt", {}, "Model"), el("dd", {}, el("a", { href: `#/models/${job.model}`, class: "mono" }, job.model)),
          job.dataset ? [el("dt", {}, "Dataset"), el("dd", { class: "mono" }, job.dataset)] : null,
          job.teacher ? [el("dt", {}, "Teacher"), el("dd", {}, el("a", { href: `#/models/${job.teacher}`, class: "mono" }, job.teacher))] : null,
          el("dt", {}, "Created"), el("dd", {}, when(job.created_at)),
          job.finished_at ? [el("dt", {}, "Finished"), el("dd", {}, when(job.finished_at))] : null));
    const lines = job.state === "queued" || job.state === "succeeded" ? [] : await measurements(id, signal);
    const live = liveSection(lines, job);
    const failed = job.state === "failed" ? problemCard(job.error || job.problem || { title: "Failed" }) : null;
    const done = job.state === "succeeded" ? await results(job, signal) : [];
    if (signal.aborted) return;
    if (over !== ended(job)) {
      over = ended(job);
      head.replaceChildren(el("h1", { class: "mono" }, job.id), actions(job));
    }
    if (head.parentNode !== main) main.replaceChildren(head);
    while (head.nextSibling) head.nextSibling.remove();
    main.append(...[top, failed, live, ...done].flat(Infinity).filter(Boolean));
    if (ended(job)) return;
    await new Promise((resolve) => setTimeout(resolve, 300)); // news may come a hundred times a second; eyes need less
  }
}
