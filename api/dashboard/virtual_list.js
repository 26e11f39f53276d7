// SPDX-License-Identifier: Apache-2.0
// A table of very many rows of one height: only those near the window are in the page. A row's node stays as long as
// its data does, so focus and selection survive news; a row that holds the focus is drawn as long as it is listed.
import { el } from "/ui.js";

const BEYOND = 8; // rows kept above and below the window
const controls = (node) => [...node.querySelectorAll("a, button, input")];

export class VirtualList {
  #columns;
  #key;
  #height;
  #body;
  #table;
  #rows = [];
  #nodes = new Map();
  #near;
  #asked = false;

  /** kind: class of the table, that says how wide the columns are. columns: [{label, name, cell(row)}]; key(row):
   * what a row is known by; height(): of a row in pixels; near(first, last): called with the rows now in sight. */
  constructor({ columns, key, height, near, label, kind = "", signal }) {
    this.#columns = columns;
    this.#key = key;
    this.#height = height;
    this.#near = near;
    this.#body = el("div", { role: "rowgroup", class: "virtual-body" });
    this.#table = el(
      "div",
      { role: "table", class: `virtual ${kind}`, "aria-label": label },
      el(
        "div",
        { role: "rowgroup", class: "virtual-head" },
        el(
          "div",
          { role: "row", class: "virtual-row" },
          columns.map((c) => el("div", { role: "columnheader", class: `cell ${c.name}` }, c.label)),
        ),
      ),
      this.#body,
    );
    const again = () => this.#soon();
    addEventListener("scroll", again, { passive: true, signal });
    addEventListener("resize", again, { signal });
  }

  get node() {
    return this.#table;
  }
  get rows() {
    return this.#rows;
  }

  /** whole: all rows there are; false: more exist beyond those given. The row that comes to the place of one that is
   * gone takes over its focus. */
  set(rows, whole) {
    const keys = new Set(rows.map(this.#key)),
      active = document.activeElement;
    let left = null;
    for (const [key, { node, index }] of this.#nodes) {
      if (keys.has(key)) continue;
      if (node.contains(active)) left = { index, at: controls(node).indexOf(active) };
      node.remove();
      this.#nodes.delete(key);
    }
    this.#rows = rows;
    this.#table.setAttribute("aria-rowcount", whole ? String(rows.length + 1) : "-1");
    this.draw();
    const next = left && this.#rows[Math.min(left.index, this.#rows.length - 1)];
    const node = next && this.#nodes.get(this.#key(next))?.node;
    if (node) controls(node)[left.at]?.focus({ preventScroll: true });
  }

  #soon() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame(() => {
      this.#asked = false;
      this.draw();
    });
  }

  #row(data, index, height) {
    const key = this.#key(data);
    let known = this.#nodes.get(key);
    if (!known || known.data !== data) {
      const node = el(
        "div",
        { role: "row", class: "virtual-row" },
        this.#columns.map((c) => el("div", { role: "cell", class: `cell ${c.name}` }, c.cell(data))),
      );
      const active = document.activeElement;
      if (known?.node.contains(active)) {
        // the new node takes over the focus
        const at = controls(known.node).indexOf(active);
        known.node.replaceWith(node);
        controls(node)[at]?.focus({ preventScroll: true });
      } else known?.node.remove();
      known = { data, node };
      this.#nodes.set(key, known);
    }
    known.index = index;
    known.node.setAttribute("aria-rowindex", String(index + 2));
    known.node.style.transform = `translateY(${index * height}px)`;
    return known.node;
  }

  draw() {
    if (!this.#table.isConnected) return;
    const height = this.#height(),
      top = -this.#body.getBoundingClientRect().top,
      count = this.#rows.length;
    const first = Math.max(0, Math.floor(top / height) - BEYOND),
      last = Math.min(count, Math.ceil((top + innerHeight) / height) + BEYOND);
    this.#body.style.height = `${count * height}px`;
    const keep = new Set();
    let before = null;
    for (let i = last - 1; i >= first; i--) {
      const node = this.#row(this.#rows[i], i, height);
      keep.add(node);
      if (node.parentNode !== this.#body || node.nextSibling !== before) {
        if (node.contains(document.activeElement)) this.#putAround(node, before);
        else this.#body.insertBefore(node, before);
      }
      before = node;
    }
    for (const [key, known] of this.#nodes)
      if (!keep.has(known.node) && !known.node.contains(document.activeElement)) {
        known.node.remove();
        this.#nodes.delete(key);
      }
    this.#near?.(first, last);
  }

  /** A node with the focus must not be moved: what lies between it and its place is. */
  #putAround(node, before) {
    while (node.nextSibling && node.nextSibling !== before) this.#body.insertBefore(node.nextSibling, node);
  }
}
