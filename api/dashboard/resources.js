// SPDX-License-Identifier: Apache-2.0
// Models and datasets: lists with upload and delete, and one model with its layers and groups.
import { download, getAll, getJson, remove, upload } from "/api.js";
import { groupsSection } from "/prune.js";
import { bar, bytes, count, dropZone, el, problemCard, table, when } from "/ui.js";

export const sendModel = (file, progress) => upload(`/v1/models?name=${encodeURIComponent(file.name)}`, file, progress);
export const sendDataset = (file, progress) => upload(`/v1/datasets?name=${encodeURIComponent(file.name)}`, file, progress);

const shape = (value) => `${value.name}: ${value.dtype} [${(value.shape || []).join(", ")}]`;

function deleteButton(path, name, after) {
  return el("button", { class: "danger", "aria-label": `Delete ${name}`, onclick: async () => {
    if (!confirm(`Delete ${name}?`)) return;
    try { await remove(path); after(); } catch (problem) { document.getElementById("main").prepend(problemCard(problem)); }
  } }, "Delete");
}

async function listView(main, signal, { title, path, text, accept, send, columns }) {
  const body = el("div");
  const refresh = async () => {
    const rows = await getAll(path, 200, signal);
    body.replaceChildren(rows.length ? table([...columns, { label: "", cell: (r) => deleteButton(`${path}/${r.id}`, r.name || r.id, refresh) }], rows) : el("p", { class: "quiet" }, "Nothing here yet."));
  };
  main.replaceChildren(el("h1", {}, title), el("div", { class: "card" }, dropZone(text, accept, async (file, progress) => { const made = await send(file, progress); await refresh(); return made; })), body);
  await refresh();
}

export const modelsView = ({ main, signal }) => listView(main, signal, {
  title: "Models", path: "/v1/models", text: "ONNX model", accept: ".onnx", send: sendModel,
  columns: [
    { label: "Name", cell: (m) => el("a", { href: `#/models/${m.id}` }, m.name || m.id) },
    { label: "Bytes", num: true, cell: (m) => bytes(m.bytes ?? m.size_bytes) },
    { label: "Parameters", num: true, cell: (m) => count(m.params) },
    { label: "MACs", num: true, cell: (m) => count(m.macs) },
    { label: "Created", cell: (m) => when(m.created_at) },
  ],
});

export const datasetsView = ({ main, signal }) => listView(main, signal, {
  title: "Datasets", path: "/v1/datasets", text: "Dataset (.npz, .npy, IDX, CIFAR-10 .bin, .tar.gz or .zip of pictures)", accept: "", send: sendDataset,
  columns: [
    { label: "Name", cell: (d) => d.name || d.id },
    { label: "Format", cell: (d) => d.format || "" },
    { label: "Samples", num: true, cell: (d) => count(d.samples) },
    { label: "Labels", cell: (d) => d.labels || "none" },
    { label: "Bytes", num: true, cell: (d) => bytes(d.bytes ?? d.size_bytes) },
    { label: "Created", cell: (d) => when(d.created_at) },
  ],
});

export async function modelView({ main, parameters: [id], signal }) {
  const [model, layers, groups] = await Promise.all([getJson(`/v1/models/${id}`, signal), getJson(`/v1/models/${id}/layers`, signal),
    getJson(`/v1/models/${id}/groups`, signal).catch((problem) => { if (problem.status !== 404) throw problem; return { data: [], why: "it was uploaded before groups were looked for" }; })]);
  const rows = layers.data || [];
  const most = Math.max(...rows.map((l) => l.params || 0), 1);
  const facts = [
    ["Id", el("span", { class: "mono" }, model.id)], ["SHA-256", el("span", { class: "mono" }, model.sha256)],
    ["Bytes", bytes(model.bytes ?? model.size_bytes)], ["Parameters", count(model.params)], ["MACs", count(model.macs)],
    ["Inputs", (model.inputs || []).map(shape).join("; ")], ["Outputs", (model.outputs || []).map(shape).join("; ")],
    ["Cannot be run", model.missing_operators?.length ? `missing: ${model.missing_operators.join(", ")}` : null],
    ["Cannot be trained", model.operators_without_gradient?.length ? `no gradient: ${model.operators_without_gradient.join(", ")}` : null],
  ];
  main.replaceChildren(
    el("h1", {}, model.name || model.id),
    el("div", { class: "card" }, el("dl", {}, facts.filter(([, v]) => v).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]))),
    el("div", { class: "row" }, el("a", { class: "button", href: `#/new?model=${model.id}` }, "New job with this model"), el("button", { onclick: () => download(`/v1/models/${id}/content`, model.name || "model.onnx") }, "Download")),
    el("h2", {}, "Layers with weights"),
    table([
      { label: "Layer", cell: (l) => el("span", { class: "mono" }, l.node) },
      { label: "Operator", cell: (l) => l.op_type },
      { label: "Parameters", num: true, cell: (l) => count(l.params) },
      { label: "Share", cell: (l) => bar(l.params, most, "after") },
      { label: "MACs", num: true, cell: (l) => count(l.macs) },
    ], rows),
    groupsSection(groups));
}
