// SPDX-License-Identifier: Apache-2.0
// A model's graph, drawn: drag or the arrow keys move it, the wheel with Ctrl, the buttons and + - 0 zoom. The arrow
// keys walk along edges once a node is chosen; what is chosen is told in words beside the drawing.
import { getJson } from "/api.js";
import { NODE, layoutGraph } from "/graph_layout.js";
import { announce, count, el, page, svg } from "/ui.js";

const MOST = 2200; // nodes drawn at once
const kinds = [
  [/^(Conv|ConvTranspose|Gemm|MatMul|.*Linear.*|QLinear.*|.*Integer)$/, "product"],
  [/Norm/, "norm"],
  [/^(Input|Output)$/, "end"],
  [/^(Relu|Gelu|Sigmoid|Tanh|Softmax|Clip|LeakyRelu|HardSwish|HardSigmoid|Erf|PRelu|Elu)$/, "act"],
  [/Quantize/, "cast"],
];
const kindOf = (op) => kinds.find(([pattern]) => pattern.test(op))?.[1] || "other";
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const shapeText = (edge) =>
  edge.dtype ? ` ${edge.dtype}${edge.shape ? ` [${edge.shape.map((d) => d ?? "?").join(", ")}]` : ""}` : "";

function edgePath(route) {
  let d = `M${route[0][0].toFixed(1)} ${(route[0][1] + NODE.height / 2).toFixed(1)}`;
  for (let i = 1; i < route.length; i++) {
    const last = i === route.length - 1,
      [x0, y0] = [route[i - 1][0], route[i - 1][1] + (i === 1 ? NODE.height / 2 : 0)],
      [x1, y1] = [route[i][0], route[i][1] - (last ? NODE.height / 2 : 0)];
    const m = (y0 + y1) / 2;
    d +=
      x0 === x1
        ? `V${y1.toFixed(1)}`
        : `C${x0.toFixed(1)} ${m.toFixed(1)} ${x1.toFixed(1)} ${m.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
  }
  return d;
}

/** The drawing of some nodes; choose(i) is called with the place of a node in `nodes`. */
class Drawing {
  scale = 1;
  x = 0;
  y = 0;
  chosen = -1;
  constructor(nodes, edges, choose) {
    this.nodes = nodes;
    this.edges = edges;
    this.choose = choose;
    const start = performance.now();
    this.layout = layoutGraph(nodes, edges);
    this.ms = performance.now() - start;
    this.index = new Map(nodes.map((n, i) => [n.id, i]));
    this.world = svg(
      "g",
      {},
      svg(
        "g",
        { class: "edges" },
        edges.map((_, i) => (this.layout.routes[i] ? svg("path", { d: edgePath(this.layout.routes[i]) }) : null)),
      ),
    );
    this.shapes = nodes.map((n, i) => {
      const [x, y] = this.layout.at[i];
      const shape = svg(
        "g",
        {
          class: `node ${kindOf(n.op_type)}`,
          transform: `translate(${(x - NODE.width / 2).toFixed(1)} ${(y - NODE.height / 2).toFixed(1)})`,
        },
        svg("rect", { width: NODE.width, height: NODE.height, rx: 6 }),
        svg("text", { x: NODE.width / 2, y: 17, class: "op" }, cut(n.op_type, 18)),
        svg("text", { x: NODE.width / 2, y: 32, class: "name" }, cut(n.name || "", 24)),
      );
      shape.dataset.index = i;
      return shape;
    });
    this.world.append(svg("g", {}, this.shapes));
    this.node = svg(
      "svg",
      {
        class: "graph",
        role: "application",
        tabindex: 0,
        "aria-roledescription": "graph",
        "aria-label":
          `Graph of ${nodes.length} nodes. ` + "Arrow keys walk along its edges, plus and minus zoom, 0 shows all.",
      },
      this.world,
    );
    this.#listen();
  }

  #listen() {
    const fingers = new Map();
    let moved = 0;
    this.node.addEventListener("pointerdown", (e) => {
      fingers.set(e.pointerId, [e.clientX, e.clientY]);
      moved = 0;
    });
    this.node.addEventListener("pointermove", (e) => {
      const before = fingers.get(e.pointerId);
      if (!before) return;
      const [dx, dy] = [e.clientX - before[0], e.clientY - before[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      if (moved > 4 && !this.node.hasPointerCapture(e.pointerId)) this.node.setPointerCapture(e.pointerId);
      if (fingers.size === 2) {
        // the distance of two fingers is the scale
        const other = [...fingers].find(([id]) => id !== e.pointerId)[1],
          far = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
        const box = this.node.getBoundingClientRect();
        this.zoom(
          far([e.clientX, e.clientY]) / Math.max(1, far(before)),
          (e.clientX + other[0]) / 2 - box.left,
          (e.clientY + other[1]) / 2 - box.top,
        );
      } else if (moved > 4) {
        this.x += dx;
        this.y += dy;
        this.show();
      }
      fingers.set(e.pointerId, [e.clientX, e.clientY]);
    });
    const up = (e) => {
      fingers.delete(e.pointerId);
      const shape = moved <= 4 && e.type === "pointerup" ? e.target.closest(".node") : null;
      if (shape) this.pick(Number(shape.dataset.index), false);
    };
    this.node.addEventListener("pointerup", up);
    this.node.addEventListener("pointercancel", up);
    this.node.addEventListener(
      "wheel",
      (e) => {
        if (!e.ctrlKey && !e.metaKey) return; // the page scrolls
        e.preventDefault();
        const box = this.node.getBoundingClientRect();
        this.zoom(Math.exp(-e.deltaY / 300), e.clientX - box.left, e.clientY - box.top);
      },
      { passive: false },
    );
    this.node.addEventListener("keydown", (e) => {
      if (this.#key(e.key)) e.preventDefault();
    });
  }

  #key(key) {
    if (key === "+" || key === "=") this.zoom(1.3);
    else if (key === "-") this.zoom(1 / 1.3);
    else if (key === "0") this.all();
    else if (key.startsWith("Arrow")) this.#walk(key);
    else return false;
    return true;
  }

  #walk(key) {
    if (this.chosen < 0) return this.pick(0);
    const id = this.nodes[this.chosen].id,
      row = this.layout.rows.find((r) => r.includes(this.chosen)),
      at = row.indexOf(this.chosen);
    const next =
      key === "ArrowDown"
        ? this.edges.find((e) => e.from === id)?.to
        : key === "ArrowUp"
          ? this.edges.find((e) => e.to === id)?.from
          : undefined;
    const index = key === "ArrowLeft" ? row[at - 1] : key === "ArrowRight" ? row[at + 1] : this.index.get(next);
    if (index !== undefined) this.pick(index);
  }

  size() {
    const box = this.node.getBoundingClientRect();
    return [box.width || 600, box.height || 400];
  }
  show() {
    this.world.setAttribute(
      "transform",
      `translate(${this.x.toFixed(2)} ${this.y.toFixed(2)}) scale(${this.scale.toFixed(4)})`,
    );
    this.node.classList.toggle("far", this.scale < 0.45);
  }
  zoom(by, atX = this.size()[0] / 2, atY = this.size()[1] / 2) {
    const scale = Math.max(0.005, Math.min(4, this.scale * by)),
      real = scale / this.scale;
    this.x = atX - (atX - this.x) * real;
    this.y = atY - (atY - this.y) * real;
    this.scale = scale;
    this.show();
  }
  all() {
    const [w, h] = this.size();
    this.scale = Math.min(1, w / this.layout.width, h / this.layout.height);
    this.x = (w - this.layout.width * this.scale) / 2;
    this.y = 0;
    this.show();
  }
  top() {
    const [w] = this.size(),
      first = this.layout.at[0] || [0, 0];
    this.scale = Math.min(1, Math.max(0.6, w / this.layout.width));
    this.x =
      this.layout.width * this.scale <= w ? (w - this.layout.width * this.scale) / 2 : w / 2 - first[0] * this.scale;
    this.y = 0;
    this.show();
  }
  pick(i, centre = true) {
    this.shapes[this.chosen]?.classList.remove("on");
    this.chosen = i;
    this.shapes[i].classList.add("on");
    if (centre) {
      const [w, h] = this.size();
      this.scale = Math.max(this.scale, 0.7);
      this.x = w / 2 - this.layout.at[i][0] * this.scale;
      this.y = h / 2 - this.layout.at[i][1] * this.scale;
      this.show();
    }
    this.choose(i);
  }
}

function nodeFacts(drawing, i) {
  const n = drawing.nodes[i],
    name = (id) => {
      const other = drawing.nodes[drawing.index.get(id)];
      return other ? other.name || other.op_type : "?";
    };
  const into = drawing.edges.filter((e) => e.to === n.id),
    out = drawing.edges.filter((e) => e.from === n.id);
  const list = (edges, end) =>
    edges
      .slice(0, 20)
      .map((e) =>
        el(
          "li",
          {},
          el("span", { class: "mono" }, e.value),
          shapeText(e),
          el("span", { class: "quiet" }, ` ${end === "from" ? "from" : "to"} ${name(e[end])}`),
        ),
      );
  return [
    el("h2", {}, n.op_type, " ", el("span", { class: "mono quiet" }, n.name || "")),
    el(
      "dl",
      {},
      [
        ["Domain", n.domain],
        ["Parameters", n.params ? count(n.params) : null],
      ]
        .filter(([, v]) => v)
        .map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]),
    ),
    into.length ? [el("b", {}, "Reads"), el("ul", { class: "small" }, list(into, "from"))] : null,
    out.length ? [el("b", {}, "Read by"), el("ul", { class: "small" }, list(out, "to"))] : null,
  ]
    .flat()
    .filter(Boolean);
}

export async function graphView({ main, parameters: [id], signal }) {
  const [model, graph] = await Promise.all([
    getJson(`/v1/models/${id}`, signal),
    getJson(`/v1/models/${id}/graph`, signal),
  ]);
  const facts = el(
    "div",
    { class: "card graph-facts" },
    el("p", { class: "quiet" }, "Choose a node: click it, find it, or press an arrow key in the drawing."),
  );
  const stage = el("div", { class: "stage" }),
    note = el("p", { class: "quiet small" });
  const found = el("datalist", { id: "node-names" }),
    find = el("input", { type: "search", list: "node-names", placeholder: "name or operator" });
  const start = el("input", {
    type: "number",
    min: "0",
    max: String(Math.max(0, graph.nodes.length - 1)),
    step: String(MOST / 2),
    value: "0",
  });
  let drawing = null,
    width = 0;
  const draw = () => {
    const from = Math.max(0, Math.min(graph.nodes.length - 1, Number(start.value) || 0)),
      nodes = graph.nodes.slice(from, from + MOST),
      there = new Set(nodes.map((n) => n.id));
    const edges = graph.edges.filter((e) => there.has(e.from) && there.has(e.to));
    drawing = new Drawing(nodes, edges, (i) => {
      facts.replaceChildren(...nodeFacts(drawing, i));
      announce(`${nodes[i].op_type} ${nodes[i].name || ""}`);
    });
    found.replaceChildren(...nodes.slice(0, 500).map((n) => el("option", { value: n.name || n.op_type })));
    stage.replaceChildren(drawing.node);
    width = stage.clientWidth;
    stage.dataset.layoutMs = drawing.ms.toFixed(0);
    const whole = graph.nodes.length > MOST ? `; the graph has ${graph.nodes.length} nodes` : "";
    const more = graph.truncated ? " (the model has more)" : "";
    note.textContent = `${nodes.length} nodes, ${edges.length} edges${whole}${more}.`;
    drawing.top();
  };
  const look = () => {
    const word = find.value.trim().toLowerCase();
    if (!word) return;
    const has = (n) => (n.name || "").toLowerCase() === word,
      part = (n) => `${n.op_type} ${n.name || ""}`.toLowerCase().includes(word);
    const all = drawing.nodes,
      after = drawing.chosen + 1,
      order = [...all.slice(after), ...all.slice(0, after)];
    const hit = order.find(has) || order.find(part);
    if (hit) drawing.pick(all.indexOf(hit));
    else announce("no such node");
  };
  start.addEventListener("change", draw);
  new ResizeObserver(() => {
    // what was in the middle stays there
    if (!drawing || !stage.clientWidth || stage.clientWidth === width) return;
    drawing.x += (stage.clientWidth - width) / 2;
    width = stage.clientWidth;
    drawing.show();
  }).observe(stage);
  page(
    main,
    el(
      "div",
      { class: "row spread" },
      el("h1", {}, "Graph of ", model.name || model.id),
      el("a", { class: "button", href: `#/models/${id}` }, "Layers and facts"),
    ),
    el(
      "form",
      {
        class: "row",
        onsubmit: (e) => {
          e.preventDefault();
          look();
        },
      },
      el("button", { type: "button", "aria-label": "zoom in", onclick: () => drawing.zoom(1.4) }, "+"),
      el("button", { type: "button", "aria-label": "zoom out", onclick: () => drawing.zoom(1 / 1.4) }, "−"),
      el("button", { type: "button", onclick: () => drawing.all() }, "Show all"),
      el("button", { type: "button", onclick: () => drawing.top() }, "Top"),
      el("label", { class: "inline" }, "Find a node", find),
      found,
      el("button", {}, "Next"),
      graph.nodes.length > MOST ? el("label", { class: "inline" }, "From node", start) : null,
    ),
    note,
    stage,
    facts,
  );
  draw();
}
