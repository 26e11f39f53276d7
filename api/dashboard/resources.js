// SPDX-License-Identifier: Apache-2.0
// Models and datasets: lists with upload and delete.
import { getAll, remove, upload } from "/api.js";
import { bytes, count, dropZone, el, page, problemCard, refill, table, when } from "/ui.js";

export const sendModel = (file, progress) => upload(`/v1/models?name=${encodeURIComponent(file.name)}`, file, progress);
export const sendDataset = (file, progress) => upload(`/v1/datasets?name=${encodeURIComponent(file.name)}`, file, progress);

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
    refill(body, rows.length ? table([...columns, { label: "", cell: (r) => deleteButton(`${path}/${r.id}`, r.name || r.id, refresh) }], rows, title) : el("p", { class: "quiet" }, "Nothing here yet."));
  };
  page(main, title, el("div", { class: "card" }, dropZone(text, accept, async (file, progress) => { const made = await send(file, progress); await refresh(); return made; })), body);
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
