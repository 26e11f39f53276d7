// SPDX-License-Identifier: Apache-2.0
// How a training went, or goes: curves of loss and accuracy, epoch by epoch; the rounds of a step that repeats others.
import { chart, plain } from "/charts.js";
import { seconds } from "/job_text.js";
import { el, percent, table } from "/ui.js";

const series = (rows, x, key) => rows.map((row) => [row[x], row[key]]);

/** The curves of one training. kept: the epoch whose weights stay. */
export function epochCharts(epochs, kept) {
  if (!epochs?.length) return null;
  const own = Object.keys(epochs.at(-1)).filter(
    (key) =>
      !["epoch", "lr", "loss", "val_loss", "val_top1", "seconds", "images_per_s", "step", "method", "round"].includes(
        key,
      ) && typeof epochs.at(-1)[key] === "number",
  );
  return el(
    "div",
    { class: "training" },
    el(
      "div",
      { class: "charts" },
      chart({
        title: "Loss",
        across: "epoch",
        format: plain,
        mark: kept,
        lines: [
          { name: "training", kind: "train", points: series(epochs, "epoch", "loss") },
          { name: "validation", kind: "val", points: series(epochs, "epoch", "val_loss") },
        ],
      }),
      chart({
        title: "Validation top-1",
        across: "epoch",
        format: (v) => `${plain(v * 100)} %`,
        mark: kept,
        lines: [{ name: "validation", kind: "val", points: series(epochs, "epoch", "val_top1") }],
      }),
    ),
    el(
      "details",
      {},
      el("summary", {}, `${epochs.length} ${epochs.length === 1 ? "epoch" : "epochs"} in numbers`),
      table(
        [
          {
            label: "Epoch",
            num: true,
            cell: (e) => [String(e.epoch), e.epoch === kept ? el("span", { class: "state succeeded" }, "kept") : null],
          },
          { label: "Loss", num: true, cell: (e) => plain(e.loss) },
          { label: "Validation loss", num: true, cell: (e) => plain(e.val_loss) },
          { label: "Validation top-1", num: true, cell: (e) => percent(e.val_top1) },
          { label: "Learning rate", num: true, cell: (e) => plain(e.lr) },
          {
            label: "Images/s",
            num: true,
            cell: (e) => (typeof e.images_per_s === "number" ? String(Math.round(e.images_per_s)) : "-"),
          },
          ...own.map((key) => ({ label: key.replaceAll("_", " "), num: true, cell: (e) => plain(e[key]) })),
        ],
        epochs,
      ),
    ),
  );
}

function trainingSection(training) {
  const v = training.validation;
  const facts = [
    ["Parameters", training.parameters],
    ["Samples an epoch", training.samples],
    ["Validation", v ? `${v.samples} samples${v.split ? ` (${v.split.replaceAll("_", " ")})` : ""}` : null],
    [
      "Kept",
      training.kept_epoch === undefined || training.kept_epoch === null
        ? null
        : training.kept_epoch > 0
          ? `epoch ${training.kept_epoch}`
          : "the weights as they came in",
    ],
    ["Stopped", training.stopped],
  ];
  return el(
    "section",
    {},
    el("h3", {}, "Training"),
    el(
      "dl",
      {},
      facts
        .filter(([, value]) => value !== undefined && value !== null)
        .map(([name, value]) => [
          el("dt", {}, name),
          el("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)),
        ]),
    ),
    epochCharts(training.epochs, training.kept_epoch),
  );
}

// ---- rounds

const wish = (w) =>
  `${w.target.replaceAll("_", " ")} ${typeof w.got === "number" ? plain(w.got) : "not measured"} (wanted ${w.wanted})`;

export function roundsSection(rounds, stopped) {
  if (!rounds?.length) return null;
  const quality = rounds.map((r) => [r.round, r.metrics?.top1]),
    size = rounds.map((r) => [r.round, r.ratio?.zstd_bytes ?? r.ratio?.bytes]);
  return el(
    "section",
    {},
    el("h3", {}, "Rounds"),
    stopped ? el("p", { class: "quiet small" }, `It ended because: ${stopped}.`) : null,
    el(
      "div",
      { class: "charts" },
      chart({
        title: "Top-1 on validation data",
        across: "round",
        format: (v) => `${plain(v * 100)} %`,
        mark: rounds.find((r) => r.kept)?.round,
        lines: [{ name: "after the round", kind: "val", points: quality }],
      }),
      chart({
        title: "Bytes, compressed, of before",
        across: "round",
        format: (v) => `${plain(v * 100)} %`,
        mark: rounds.find((r) => r.kept)?.round,
        lines: [{ name: "after the round", kind: "train", points: size }],
      }),
    ),
    table(
      [
        { label: "Round", num: true, cell: (r) => (r.round === 0 ? "as it came" : String(r.round)) },
        { label: "Ramp", num: true, cell: (r) => plain(r.ramp) },
        {
          label: "Wishes",
          cell: (r) =>
            r.failed
              ? el("span", { class: "quiet" }, r.failed)
              : el(
                  "ul",
                  { class: "plain-list small" },
                  (r.wishes || []).map((w) =>
                    el(
                      "li",
                      {},
                      el("span", { class: `state ${w.met ? "succeeded" : "failed"}` }, w.met ? "met" : "missed"),
                      ` ${wish(w)}`,
                    ),
                  ),
                ),
        },
        { label: "Top-1", num: true, cell: (r) => percent(r.metrics?.top1) },
        { label: "Bytes", num: true, cell: (r) => (r.ratio?.bytes ? percent(r.ratio.bytes) : "-") },
        {
          label: "Bytes, compressed",
          num: true,
          cell: (r) => (r.ratio?.zstd_bytes ? percent(r.ratio.zstd_bytes) : "-"),
        },
        { label: "", cell: (r) => (r.kept ? el("span", { class: "state succeeded" }, "kept") : "") },
      ],
      rounds,
    ),
  );
}

/** What a step of a report tells beside its layers; null if nothing. */
export function detailsSection(step) {
  const { training, rounds, kept_round: keptRound, stopped, ...rest } = step.details || {};
  const others = Object.keys(rest);
  const parts = [
    training ? trainingSection(training) : null,
    roundsSection(rounds, stopped),
    others.length
      ? el(
          "details",
          {},
          el("summary", {}, `More: ${others.map((k) => k.replaceAll("_", " ")).join(", ")}`),
          el("pre", { tabindex: "0" }, JSON.stringify(rest, null, 1)),
        )
      : null,
  ].filter(Boolean);
  return parts.length ? parts : null;
}

// ---- live

/** Runs of training in the order they came: a new one begins where the step changes or the epochs start over. */
function runsOf(lines) {
  const runs = [];
  for (const line of lines) {
    if (typeof line.epoch !== "number") continue;
    const run = runs.at(-1);
    if (!run || run.step !== line.step || run.method !== line.method || line.epoch <= run.epochs.at(-1).epoch)
      runs.push({ step: line.step, method: line.method, epochs: [line] });
    else run.epochs.push(line);
  }
  return runs;
}

/** lines: what GET /v1/jobs/{id}/metrics gives. null before the first measurement. */
export function liveSection(lines, job) {
  const rounds = lines.filter((line) => typeof line.round === "number" && line.epoch === undefined),
    runs = runsOf(lines),
    run = runs.at(-1);
  if (!run && !rounds.length) return null;
  const last = run?.epochs.at(-1),
    eta = job.progress?.eta_s;
  const tile = (name, value) =>
    value === null || value === undefined
      ? null
      : el("div", { class: "card tile" }, el("span", { class: "quiet small" }, name), el("b", {}, value));
  return el(
    "section",
    { id: "live" },
    el("h2", {}, run ? `Training (step ${run.step}, ${run.method})` : "Rounds"),
    run
      ? el(
          "div",
          { class: "grid" },
          tile("Epochs done", String(last.epoch)),
          tile("Loss", plain(last.loss)),
          tile("Validation top-1", typeof last.val_top1 === "number" ? percent(last.val_top1) : null),
          tile("Images/s", typeof last.images_per_s === "number" ? String(Math.round(last.images_per_s)) : null),
          tile("Left", typeof eta === "number" ? seconds(eta) : null),
        )
      : null,
    run ? epochCharts(run.epochs) : null,
    runs.length > 1 ? el("p", { class: "quiet small" }, `Training number ${runs.length} of this job.`) : null,
    rounds.length ? roundsSection(rounds) : null,
  );
}
