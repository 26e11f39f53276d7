// SPDX-License-Identifier: Apache-2.0
// One job: how far it is, what its steps measure and say on the way, and in the end its report and files. What
// changes is filled in place, so that the reader's focus and what was opened stay.
import { download, getJson, idempotencyKey, postJson, remove } from "/api.js";
import { ended, fraction, progressLine, recipeText } from "/job_text.js";
import { persist, watchJob } from "/live.js";
import { confusionSection, fidelity, ofSource, sqnrHeatMap, stepSection, targets, tiles } from "/report_view.js";
import { liveSection } from "/training.js";
import {
  announce,
  bytes,
  connectionLine,
  el,
  once,
  page,
  percent,
  problemCard,
  refill,
  sayIn,
  state,
  table,
  when,
} from "/ui.js";

function downloads(artifacts, report, say) {
  const save = (a) => (event) =>
    once(event.target, () => download(`/v1/jobs/${a.job}/artifacts/${encodeURIComponent(a.name)}`, a.name), say);
  return [
    el("h2", {}, "Downloads"),
    table(
      [
        { label: "File", cell: (a) => el("button", { onclick: save(a) }, a.name) },
        { label: "Size", num: true, cell: (a) => bytes(a.bytes) },
        { label: "Of the source", num: true, cell: (a) => ofSource(a, report) },
        { label: "SHA-256", cell: (a) => el("span", { class: "mono hash" }, a.sha256) },
      ],
      artifacts,
      "files of the job",
    ),
  ];
}

async function results(job, say, signal) {
  const [report, artifacts] = await Promise.all([
    getJson(`/v1/jobs/${job.id}/report`, signal),
    getJson(`/v1/jobs/${job.id}/artifacts`, signal),
  ]);
  return [
    el("h2", {}, "Before and after"),
    tiles(report),
    report.warnings?.length
      ? el(
          "div",
          { class: "card note" },
          el("b", {}, "Good to know"),
          el(
            "ul",
            {},
            report.warnings.map((w) => el("li", {}, w)),
          ),
        )
      : null,
    targets(report),
    fidelity(report),
    downloads(artifacts.data, report, say),
    confusionSection(report),
    sqnrHeatMap(report),
    el("h2", {}, "Steps, layer by layer"),
    (report.steps || []).map((step, i) => stepSection(step, i)),
  ];
}

function actions(job, say) {
  const act = (text, confirmation, run, kind) =>
    el(
      "button",
      {
        class: kind,
        onclick: (event) => {
          if (!confirmation || confirm(confirmation)) once(event.target, run, say);
        },
      },
      text,
    );
  if (!ended(job))
    return act(
      job.cancel_requested ? "Canceling ..." : "Cancel job",
      null,
      () => postJson(`/v1/jobs/${job.id}/cancel`),
      "danger",
    );
  const again = idempotencyKey(); // of this page: pressed once more after a lost answer, it makes no second job
  return [
    el("a", { class: "button", href: `#/new?job=${job.id}` }, "New job like this"),
    job.state !== "succeeded"
      ? act("Do it again", null, async () => {
          const next = await postJson(`/v1/jobs/${job.id}/retry`, undefined, { "Idempotency-Key": again });
          location.hash = `#/jobs/${next.id}`;
        })
      : null,
    job.state === "succeeded" ? el("a", { class: "button", href: `#/compare?jobs=${job.id}` }, "Compare") : null,
    act(
      "Delete job",
      "Delete this job and its files?",
      async () => {
        await remove(`/v1/jobs/${job.id}`);
        location.hash = "#/jobs";
      },
      "danger",
    ),
  ];
}

const resourceLink = (kind, id) => el("a", { href: `#/${kind}/${id}`, class: "mono" }, id);

function facts(job) {
  const labels = Object.entries(job.labels || {});
  const rows = [
    ["Id", job.name && el("span", { class: "mono" }, job.id)],
    ["Recipe", job.recipe_name ? `${job.recipe_name}: ${recipeText(job.recipe)}` : recipeText(job.recipe)],
    ["Model", resourceLink("models", job.model)],
    ...[
      ["Dataset", job.dataset],
      ["Validation dataset", job.val_dataset],
      ["Evaluation dataset", job.eval_dataset],
    ].map(([name, id]) => [name, id && el("span", { class: "mono" }, id)]),
    ["Teacher", job.teacher && resourceLink("models", job.teacher)],
    ["Again after", job.retry_of && resourceLink("jobs", job.retry_of)],
    ["Result", job.reused && "of an earlier job that was the same"],
    [
      "Labels",
      labels.length
        ? el(
            "span",
            {},
            labels.map(([k, v]) => el("span", { class: "label-chip" }, `${k}=${v}`)),
          )
        : null,
    ],
    ["Priority", job.priority || null],
    ["Created", when(job.created_at)],
    ["Started", job.started_at && when(job.started_at)],
    ["Finished", job.finished_at && when(job.finished_at)],
  ];
  return el(
    "dl",
    {},
    rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => [el("dt", {}, name), el("dd", {}, typeof value === "object" ? value : String(value))]),
  );
}

function statusLine(job) {
  return [
    el(
      "div",
      { class: "row" },
      state(job.state),
      job.targets_met === false ? el("span", { class: "state failed" }, "targets missed") : null,
      el("span", {}, progressLine(job)),
    ),
    job.state === "running"
      ? el("progress", { max: 1, value: fraction(job) ?? undefined, "aria-label": "progress of the job" })
      : null,
  ];
}

const logLine = (line) =>
  el(
    "li",
    { class: line.level || "" },
    line.level && line.level !== "info" ? el("b", {}, `${line.level}: `) : null,
    line.message ?? JSON.stringify(line),
  );

/** The log: its node, and take(record, job), which adds what is new, so that the reader's place in it and the focus
 * stay. The end is followed by those who are there. However many lines come at once, the page is laid out once. */
function logSection() {
  const list = el("ol", { class: "log mono" }),
    summary = el("summary");
  const frame = el(
    "div",
    { class: "scroll log-frame", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "log of the job" },
    list,
  );
  const node = el("details", { hidden: true }, summary, frame);
  let taken = 0,
    next = null;
  function draw() {
    const { log, logged } = next.record,
      { job } = next;
    next = null;
    if (node.hidden) node.open = !ended(job) || job.state === "failed";
    node.hidden = false;
    const atEnd = frame.scrollTop + frame.clientHeight >= frame.scrollHeight - 8;
    list.append(...log.slice(Math.max(0, log.length - (logged - taken))).map(logLine));
    while (list.children.length > log.length) list.firstChild.remove();
    list.start = logged - log.length + 1;
    summary.textContent = `Log (${logged} ${logged === 1 ? "line" : "lines"})`;
    taken = logged;
    if (atEnd) frame.scrollTop = frame.scrollHeight;
  }
  const take = (record, job) => {
    if (record.logged === taken) return;
    if (!next) requestAnimationFrame(draw);
    next = { record, job };
  };
  return { node, take };
}

export async function jobView({ main, parameters: [id], signal }) {
  const places = Object.fromEntries(
    ["buttons", "problems", "status", "facts", "failure", "live", "results"].map((name) => [
      name,
      el("div", { class: name === "buttons" ? "row" : null }),
    ]),
  );
  const connection = connectionLine(),
    log = logSection();
  const say = sayIn(places.problems);
  const seen = {}; // what a place shows now, so that only what changed is filled again
  const fill = (name, what, make) => {
    const text = JSON.stringify(what);
    if (seen[name] !== text) {
      seen[name] = text;
      refill(places[name], make());
    }
  };
  let shown = false,
    finished = null;
  const reached = (yes) => {
    if (signal.aborted) return;
    if (!yes && !connection.node.isConnected) page(main, id, connection.node);
    connection.show(!yes);
  };
  const show = (job, record) => {
    if (signal.aborted) return;
    if (!shown) {
      shown = true;
      page(
        main,
        el(
          "div",
          { class: "row spread" },
          el("h1", { class: job.name ? null : "mono" }, job.name || job.id),
          places.buttons,
        ),
        connection.node,
        places.problems,
        el("div", { class: "card" }, places.status, places.facts),
        places.failure,
        places.live,
        log.node,
        places.results,
      );
    }
    fill("buttons", [job.state, job.cancel_requested], () => [actions(job, say)]);
    const { progress, queue_position, wait_s, eta_s, targets_met } = job;
    fill("status", [job.state, progress, queue_position, wait_s, eta_s, targets_met], () => statusLine(job));
    fill("facts", [job.state, job.labels], () => [facts(job)]);
    fill("failure", [job.state], () => [job.state === "failed" ? problemCard(job.error || { title: "Failed" }) : null]);
    if (job.state !== "succeeded")
      fill("live", [job.state, record.lines.length], () => [liveSection(record.lines, job)]);
    log.take(record, job);
    const { step, steps } = progress || {};
    announce(`job ${job.state}${job.state === "running" && step ? `, step ${step} of ${steps}` : ""}`);
    if (job.state === "succeeded" && !finished) {
      places.live.replaceChildren();
      finished = persist(() => results(job, say, signal), reached, signal)
        .then((parts) => {
          if (!signal.aborted) refill(places.results, parts);
        })
        .catch((problem) => {
          if (!signal.aborted) say(problem);
        });
    }
  };
  await watchJob(id, show, reached, signal);
  await finished;
}
