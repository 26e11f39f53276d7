// SPDX-License-Identifier: Apache-2.0
// Models and datasets: lists with upload and delete.
import { remove, upload } from "/api.js";
import { persist } from "/live.js";
import { PagedTable, narrow } from "/paging.js";
import { bytes, connectionLine, count, dropZone, el, page, problemCard, whenShort } from "/ui.js";

const send =
  (path) =>
  (file, ...rest) =>
    upload(`${path}?name=${encodeURIComponent(file.name)}`, file, ...rest);
export const sendModel = send("/v1/models");
export const sendDataset = send("/v1/datasets");

function deleteButton(path, name, problems, after) {
  return el(
    "button",
    {
      class: "danger small",
      "aria-label": `Delete ${name}`,
      onclick: async () => {
        if (!confirm(`Delete ${name}?`)) return;
        try {
          await remove(path);
          problems.replaceChildren();
          after();
        } catch (problem) {
          problems.replaceChildren(problemCard(problem));
        }
      },
    },
    "Delete",
  );
}

async function listView(main, signal, { title, path, text, accept, send, columns, none }) {
  const problems = el("div"),
    connection = connectionLine();
  const reached = (yes) => connection.show(!yes);
  const say = (problem) => {
    if (!signal.aborted) problems.replaceChildren(problemCard(problem));
  };
  /** Out of the list; the focus, where no row is left to take it, goes to the heading. */
  const drop = (id) => {
    list.drop(id);
    if (document.activeElement === document.body) main.querySelector("h1")?.focus({ preventScroll: true });
  };
  const list = new PagedTable({
    path,
    signal,
    label: `${title}, newest first`,
    kind: title.toLowerCase(),
    empty: () => el("p", { class: "quiet" }, none),
    height: () => (narrow.matches ? 104 : 46),
    columns: [
      ...columns,
      {
        label: el("span", { class: "unseen" }, "Delete"),
        name: "remove",
        cell: (r) => deleteButton(`${path}/${r.id}`, r.name || r.id, problems, () => drop(r.id)),
      },
    ],
  });
  page(
    main,
    title,
    el(
      "div",
      { class: "card" },
      dropZone(text, accept, signal, async (...file) => {
        const made = await send(...file);
        persist(() => list.refresh(), reached, signal).catch(say); // what is sent is there, also if the list is not
        return made;
      }),
    ),
    connection.node,
    problems,
    list.node,
  );
  await persist(() => list.open(), reached, signal);
}

const created = { label: "Created", name: "created", cell: (row) => whenShort(row.created_at) };
/** A figure: its words stand before it where narrow screens have no headings. */
const figure = (label, name, text) => ({
  label,
  name: `${name} num`,
  cell: (row) => [el("span", { class: "words" }, `${label} `), text(row)],
});

export const modelsView = ({ main, signal }) =>
  listView(main, signal, {
    title: "Models",
    path: "/v1/models",
    text: "ONNX model",
    accept: ".onnx",
    send: sendModel,
    none: "No model yet. One that is sent here can be used by any number of jobs.",
    columns: [
      { label: "Name", name: "id", cell: (m) => el("a", { href: `#/models/${m.id}`, title: m.id }, m.name || m.id) },
      figure("Bytes", "bytes", (m) => bytes(m.bytes)),
      figure("Parameters", "params", (m) => count(m.params)),
      figure("MACs", "macs", (m) => count(m.macs)),
      created,
    ],
  });

export const datasetsView = ({ main, signal }) =>
  listView(main, signal, {
    title: "Datasets",
    path: "/v1/datasets",
    text: "Dataset (.npz, .npy, IDX, CIFAR-10 .bin, .tar.gz or .zip of pictures)",
    accept: "",
    send: sendDataset,
    none: "No dataset yet. One with labels lets jobs measure accuracy; any will do to calibrate and compare.",
    columns: [
      { label: "Name", name: "id", cell: (d) => el("span", { title: d.id }, d.name || d.id) },
      { label: "Format", name: "format", cell: (d) => d.format || "" },
      figure("Samples", "samples", (d) => count(d.samples)),
      { label: "Labels", name: "labels", cell: (d) => d.labels || "no labels" },
      figure("Bytes", "bytes", (d) => bytes(d.bytes)),
      created,
    ],
  });
