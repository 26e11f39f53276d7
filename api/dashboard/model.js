// SPDX-License-Identifier: Apache-2.0
// One model: facts, every layer with what it holds and costs, how the weights of a layer are spread, groups of
// channels.
import { download, getJson } from "/api.js";
import { histogram, plain } from "/charts.js";
import { groupsSection } from "/prune.js";
import { announce, bar, bytes, count, el, explorerTable, once, page, percent, sayIn } from "/ui.js";

const shape = (value) =>
  `${value.name}: ${value.dtype || value.kind || ""} [${(value.shape || []).map((d) => d ?? "?").join(", ")}]`;

/** The fraction of a layer's parameters that are zero; undefined where nobody counted. */
export function sparsity(layer) {
  const counted = (layer.weights || []).filter((w) => typeof w.nonzero === "number");
  const params = counted.reduce((sum, w) => sum + w.params, 0),
    nonzero = counted.reduce((sum, w) => sum + w.nonzero, 0);
  return params ? 1 - nonzero / params : undefined;
}

const verdict = (v) =>
  !v
    ? ""
    : v.possible
      ? el("span", { class: "state succeeded" }, "yes")
      : el("details", {}, el("summary", {}, "no"), el("span", { class: "quiet small" }, v.why));

function weightSection(layer) {
  return el(
    "div",
    { class: "card" },
    el("h3", {}, "Weights of ", el("span", { class: "mono" }, layer.node)),
    el(
      "div",
      { class: "charts" },
      layer.weights.map((w) =>
        el(
          "div",
          {},
          el(
            "p",
            { class: "small" },
            el("span", { class: "mono" }, w.name || "constant"),
            ` ${w.dtype} [${(w.shape || []).join(", ")}], ${bytes(w.bytes)}`,
            typeof w.nonzero === "number" ? `, ${percent(1 - w.nonzero / (w.params || 1))} zero` : "",
            w.histogram
              ? `, mean ${plain(w.histogram.mean)}, deviation ${plain(w.histogram.deviation)}` +
                  (w.histogram.sampled ? `, from ${count(w.histogram.sampled)} of them` : "")
              : "",
          ),
          w.histogram
            ? histogram({ title: "Values", low: w.histogram.low, high: w.histogram.high, counts: w.histogram.counts })
            : el("p", { class: "quiet small" }, "No histogram: the values are not there, or not numbers."),
        ),
      ),
    ),
  );
}

function layersSection(rows) {
  const most = Math.max(...rows.map((l) => l.params || 0), 1),
    weights = el("div", { id: "weights" });
  const look = (layer) => {
    weights.replaceChildren(weightSection(layer));
    announce(`weights of ${layer.node}`);
    weights.scrollIntoView({ block: "nearest" });
  };
  return el(
    "section",
    { id: "layers" },
    el("h2", {}, "Layers with weights"),
    weights,
    explorerTable(
      [
        {
          label: "Layer",
          by: (l) => l.node,
          cell: (l) =>
            l.weights?.length
              ? el(
                  "button",
                  { class: "plain mono link", "aria-label": `weights of ${l.node}`, onclick: () => look(l) },
                  l.node,
                )
              : el("span", { class: "mono" }, l.node),
        },
        { label: "Operator", by: (l) => l.op_type, cell: (l) => l.op_type },
        { label: "Parameters", num: true, by: (l) => l.params, cell: (l) => count(l.params) },
        { label: "Share", cell: (l) => bar(l.params, most, "after") },
        { label: "MACs", num: true, by: (l) => l.macs, cell: (l) => count(l.macs) },
        { label: "Bytes", num: true, by: (l) => l.bytes, cell: (l) => bytes(l.bytes) },
        { label: "Zero", num: true, by: sparsity, cell: (l) => percent(sparsity(l)) },
        { label: "Prune", by: (l) => String(Boolean(l.prune?.possible)), cell: (l) => verdict(l.prune) },
        { label: "Quantize", by: (l) => String(Boolean(l.quantize?.possible)), cell: (l) => verdict(l.quantize) },
      ],
      rows,
      {
        caption: "layers, in the order of the file",
        filterLabel: "Filter by name or operator",
        text: (l) => `${l.node} ${l.op_type}`,
      },
    ),
  );
}

function factRows(model) {
  const ops = Object.entries(model.ops || {}).sort((a, b) => b[1] - a[1]);
  return [
    ["Id", el("span", { class: "mono" }, model.id)],
    ["SHA-256", el("span", { class: "mono" }, model.sha256)],
    ["Bytes", bytes(model.bytes)],
    ["Parameters", count(model.params)],
    ["Zero", typeof model.sparsity === "number" ? percent(model.sparsity) : null],
    ["MACs", count(model.macs)],
    ["Inputs", (model.inputs || []).map(shape).join("; ")],
    ["Outputs", (model.outputs || []).map(shape).join("; ")],
    [
      "Operators",
      ops
        .slice(0, 30)
        .map(([name, n]) => `${name} × ${n}`)
        .join(", "),
    ],
    ["Cannot be run", model.missing_operators?.length ? `missing: ${model.missing_operators.join(", ")}` : null],
    [
      "Cannot be trained",
      model.operators_without_gradient?.length ? `no gradient: ${model.operators_without_gradient.join(", ")}` : null,
    ],
    ["Warnings", model.warnings?.join("; ")],
  ];
}

export async function modelView({ main, parameters: [id], signal }) {
  const noGroups = (problem) => {
    if (problem.status !== 404) throw problem;
    return { data: [], why: "it was uploaded before groups were looked for" };
  };
  const [model, layers, groups] = await Promise.all([
    getJson(`/v1/models/${id}`, signal),
    getJson(`/v1/models/${id}/layers`, signal),
    getJson(`/v1/models/${id}/groups`, signal).catch(noGroups),
  ]);
  const problems = el("div"),
    name = model.name || model.id;
  const save = (event) =>
    once(event.target, () => download(`/v1/models/${id}/content`, model.name || "model.onnx"), sayIn(problems));
  page(
    main,
    name,
    problems,
    el(
      "div",
      { class: "card" },
      el(
        "dl",
        {},
        factRows(model)
          .filter(([, v]) => v)
          .map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]),
      ),
    ),
    el(
      "div",
      { class: "row" },
      el("a", { class: "button", href: `#/new?model=${model.id}` }, "New job with this model"),
      el("a", { class: "button", href: `#/models/${model.id}/graph` }, "Graph"),
      el("button", { onclick: save }, "Download"),
    ),
    layersSection(layers.data || []),
    groupsSection(groups),
  );
}
