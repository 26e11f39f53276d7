// SPDX-License-Identifier: Apache-2.0
// A report as sections of a page: figures before and after, fidelity, confusion, heat map, every step layer by layer.
import { shades } from "/charts.js";
import { hasCurve, sensitivitySection } from "/prune.js";
import { detailsSection } from "/training.js";
import { bars, bytes, count, el, ms, percent, table } from "/ui.js";

function tile(name, before, after, format, ratio) {
  if (before === undefined && after === undefined) return null;
  const good = typeof ratio === "number" ? percent(ratio) : "";
  return el(
    "div",
    { class: "card tile" },
    el("span", { class: "quiet small" }, name),
    el("b", {}, format(after)),
    el("span", { class: "quiet small" }, `before ${format(before)}`, good ? ` · ${good}` : ""),
    bars(before, after),
  );
}

export function tiles(report) {
  const { before = {}, after = {}, ratio = {} } = report;
  return el(
    "div",
    { class: "grid" },
    tile("Bytes", before.bytes, after.bytes, bytes, ratio.bytes),
    tile("Bytes, compressed (zstd)", before.zstd_bytes, after.zstd_bytes, bytes, ratio.zstd_bytes),
    tile("MACs", before.macs, after.macs, count, ratio.macs),
    tile("Parameters", before.params, after.params, count, ratio.params),
    tile("Non-zero parameters", before.nonzero, after.nonzero, count, ratio.nonzero),
    tile("Latency p50 (our engine)", before.latency_ms?.p50, after.latency_ms?.p50, ms, ratio.latency),
    tile(
      `Top-1${before.metrics?.split ? ` (${before.metrics.split})` : ""}`,
      before.metrics?.top1,
      after.metrics?.top1,
      percent,
    ),
  );
}

export function fidelity(report) {
  const f = report.fidelity;
  if (!f) return null;
  return [
    el("h2", {}, "Fidelity"),
    el(
      "p",
      { class: "quiet small" },
      `The artifact was reloaded and compared with the original on ${f.samples} ` +
        (f.source === "dataset" ? "samples of the dataset." : "generated inputs."),
    ),
    table(
      [
        { label: "Output", cell: (o) => el("span", { class: "mono" }, o.name) },
        { label: "Top class agrees", num: true, cell: (o) => percent(o.top1_agreement) },
        { label: "SQNR", num: true, cell: (o) => (typeof o.sqnr_db === "number" ? `${o.sqnr_db.toFixed(1)} dB` : "-") },
        { label: "Cosine", num: true, cell: (o) => (typeof o.cosine === "number" ? o.cosine.toFixed(5) : "-") },
        {
          label: "Largest error",
          num: true,
          cell: (o) => (typeof o.max_abs === "number" ? o.max_abs.toPrecision(3) : "-"),
        },
      ],
      f.outputs || [],
    ),
  ];
}

const number = (v) =>
  Number.isInteger(v) ? count(v) : Math.abs(v) < 1e-3 ? v.toExponential(2) : Number(v.toPrecision(3));
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
  return facts
    ? Object.entries(facts)
        .slice(0, 12)
        .map(([k, v]) => fact(k, v))
        .join(", ")
    : "";
}
const size = (facts) => facts?.bytes ?? facts?.nonzero ?? facts?.params;

export function stepSection(step, index, inner = false) {
  const all = step.layers || [],
    details = detailsSection(step);
  const layers = all.filter((l) => !hasCurve(l)),
    curves = all.length - layers.length;
  const left = layers.filter((l) => l.skipped).length;
  const done = curves ? `${curves} groups measured` : `${layers.length - left} layers changed`;
  const runs = step.runs > 1 ? `ran ${step.runs} times, the last time: ` : "";
  return el(
    "details",
    { open: all.length <= 60 || curves > 0 || details !== null, class: inner ? "nested" : "card" },
    el(
      "summary",
      {},
      el("b", {}, `${inner ? "holds: " : `${index + 1}. `}${step.method}`),
      el(
        "span",
        { class: "quiet small" },
        typeof step.seconds === "number" ? ` ${step.seconds.toFixed(2)} s, ` : " ",
        `${runs}${done}, ${left} left alone`,
      ),
    ),
    details,
    curves ? sensitivitySection(all) : null,
    layers.length === 0
      ? null
      : table(
          [
            { label: "Layer", cell: (l) => el("span", { class: "mono" }, l.node || l.weight || "") },
            { label: "Operator", cell: (l) => l.op_type || "" },
            { label: "Before", cell: (l) => short(l.before) },
            {
              label: "After",
              cell: (l) => (l.skipped ? el("span", { class: "quiet" }, `left alone: ${l.skipped}`) : short(l.after)),
            },
            {
              label: "Size",
              cell: (l) =>
                size(l.before) !== undefined && size(l.after) !== undefined ? bars(size(l.before), size(l.after)) : "",
            },
            {
              label: "SQNR",
              num: true,
              cell: (l) =>
                typeof l.sqnr_db === "number"
                  ? el(
                      "span",
                      { class: `heat s${Math.floor(sqnrShade(l.sqnr_db) * 10)}` },
                      `${l.sqnr_db.toFixed(1)} dB`,
                    )
                  : "",
            },
          ],
          layers,
          `${step.method}, layer by layer`,
        ),
    (step.steps || []).map((nested, i) => stepSection(nested, i, true)),
  );
}

export function targets(report) {
  if (!report.targets?.length) return null;
  return [
    el("h2", {}, "Targets"),
    table(
      [
        { label: "Target", cell: (t) => t.target },
        { label: "Wanted", num: true, cell: (t) => String(t.wanted) },
        { label: "Got", num: true, cell: (t) => (typeof t.got === "number" ? t.got.toPrecision(4) : "not measured") },
        {
          label: "Met",
          cell: (t) => el("span", { class: `state ${t.met ? "succeeded" : "failed"}` }, t.met ? "met" : "missed"),
        },
      ],
      report.targets,
    ),
  ];
}

/** How large a file of the model is, measured by what came in. */
export function ofSource(artifact, report) {
  const size = artifact.bytes,
    before = report.before?.bytes;
  if (!before || !size || !/\.(onnx|pared)$/.test(artifact.name)) return "";
  return `${percent(size / before)}${before / size >= 1.05 ? ` (${(before / size).toPrecision(3)}x smaller)` : ""}`;
}

// ---- noise of every layer

/** 0 (clean, 50 dB and more) to just below 1 (as loud as the signal). */
export const sqnrShade = (db) => Math.max(0, Math.min(0.99, 1 - db / 50));

/** One row a step, one cell a layer; the darker, the more noise. null where nothing was measured. */
export function sqnrHeatMap(report) {
  const rows = [];
  const visit = (steps, prefix) =>
    (steps || []).forEach((step, i) => {
      const layers = (step.layers || []).filter((l) => typeof l.sqnr_db === "number");
      if (layers.length) rows.push({ name: `${prefix}${i + 1}`, method: step.method, layers });
      visit(step.steps, `${prefix}${i + 1}.`);
    });
  visit(report.steps, "");
  if (!rows.length) return null;
  const all = rows.flatMap((row) => row.layers.map((l) => ({ ...l, step: row.name })));
  const worst = all.reduce((a, b) => (b.sqnr_db < a.sqnr_db ? b : a));
  const cells = [];
  for (const row of rows) {
    // long rows are folded
    for (let from = 0; from < row.layers.length; from += 64) {
      cells.push({
        name: from ? "" : row.name,
        row: row.layers
          .slice(from, from + 64)
          .map((l) => ({
            shade: sqnrShade(l.sqnr_db),
            text: `step ${row.name} ${row.method}, ${l.node || l.weight}: ${l.sqnr_db.toFixed(1)} dB`,
          })),
      });
    }
  }
  return el(
    "section",
    { id: "heat" },
    el("h2", {}, "Noise of every layer"),
    el(
      "p",
      { class: "quiet small" },
      `Signal over noise (SQNR) of ${all.length} weights: the darker, the more noise. The worst is `,
      el("span", { class: "mono" }, worst.node || worst.weight || ""),
      ` with ${worst.sqnr_db.toFixed(1)} dB (step ${worst.step}).`,
    ),
    el(
      "p",
      { class: "legend small quiet", "aria-hidden": "true" },
      "50 dB and more ",
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((s) => el("span", { class: `swatch s${s}` })),
      " 0 dB",
    ),
    shades({
      title: `Heat map of the noise of ${all.length} layers; the tables of the steps have the numbers.`,
      cells: cells.map((c) => c.row),
      rowNames: cells.map((c) => c.name),
      across: "layers in the order of the file",
      down: "step",
    }),
  );
}

// ---- confusion

const MOST_NUMBERS = 16,
  MOST_SHADES = 100;

function confusionTable(matrix) {
  const most = Math.max(...matrix.flat(), 1);
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "confusion matrix" },
    el(
      "table",
      { class: "confusion" },
      el("caption", { class: "quiet small" }, "rows: the true class; columns: what the model says"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td", {}),
          matrix.map((_, c) => el("th", { scope: "col" }, String(c))),
        ),
      ),
      el(
        "tbody",
        {},
        matrix.map((row, r) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, String(r)),
            row.map((n, c) =>
              el(
                "td",
                {
                  class: n
                    ? `num ${c === r ? "right" : "wrong"} s${Math.min(9, Math.floor((9.99 * n) / most))}`
                    : "num",
                },
                n ? String(n) : "·",
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

function confusedPairs(matrix) {
  const pairs = [];
  matrix.forEach((row, r) =>
    row.forEach((n, c) => {
      if (r !== c && n) pairs.push({ r, c, n, of: row.reduce((a, b) => a + b, 0) });
    }),
  );
  pairs.sort((a, b) => b.n - a.n);
  if (!pairs.length) return el("p", {}, "Not one sample was taken for another class.");
  return table(
    [
      { label: "True class", num: true, cell: (p) => String(p.r) },
      { label: "Taken for", num: true, cell: (p) => String(p.c) },
      { label: "Samples", num: true, cell: (p) => `${p.n} of ${p.of}` },
    ],
    pairs.slice(0, 10),
    "the pairs that are confused most",
  );
}

/** What the result takes for what. null without labels. */
export function confusionSection(report) {
  const matrix = report.after?.metrics?.confusion;
  if (!matrix?.length) return null;
  const n = matrix.length;
  return el(
    "section",
    { id: "confusion" },
    el("h2", {}, "Confusion"),
    el(
      "div",
      { class: "charts" },
      n <= MOST_NUMBERS
        ? confusionTable(matrix)
        : n <= MOST_SHADES
          ? shades({
              title: `Confusion matrix of ${n} classes; the table has the pairs confused most.`,
              across: "what the model says",
              down: "true class",
              cells: matrix.map((row, r) => {
                const of = row.reduce((a, b) => a + b, 0) || 1;
                return row.map((v, c) =>
                  v ? { shade: Math.sqrt(v / of) * 0.99, text: `${r} taken for ${c}: ${v}` } : null,
                );
              }),
            })
          : null,
      confusedPairs(matrix),
    ),
  );
}
