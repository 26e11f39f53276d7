// SPDX-License-Identifier: Apache-2.0
// What pruning knows of a model: its groups of channels, and how much each group matters, as curves.
import { count, el, percent, svg, table } from "/ui.js";

const rounded = (x) => (typeof x === "number" ? count(x >= 100 ? Math.round(x) : Number(x.toPrecision(3))) : "-");

// ---- groups

function memberLine(member) {
  const what = member.weight
    ? `${member.weight}, axis ${member.axis}`
    : `${member.value} (activation), axis ${member.axis}`;
  const role = { produces: "makes the channels", consumes: "reads the channels" }[member.role];
  return el(
    "li",
    {},
    el("span", { class: "mono" }, what),
    el(
      "span",
      { class: "quiet" },
      ` · ${member.size}${role ? ` · ${role}` : ""}${member.node ? ` · ${member.node}` : ""}`,
    ),
  );
}

/** The members of a group, written out when they are asked for. */
function members(group) {
  const all = group.members.length + (group.more || 0);
  const list = el("ul", { class: "small members" });
  const box = el(
    "details",
    {
      ontoggle: () => {
        if (!box.open || list.childElementCount) return;
        list.append(
          ...group.members.map(memberLine),
          ...(group.more ? [el("li", { class: "quiet" }, `and ${group.more} more`)] : []),
        );
      },
    },
    el("summary", {}, `${all} ${all === 1 ? "member" : "members"}`),
    list,
  );
  return box;
}

function verdict(group) {
  if (!group.prunable)
    return el(
      "div",
      {},
      el("span", { class: "state canceled" }, "frozen"),
      el("span", { class: "quiet small" }, ` ${group.frozen || ""}`),
    );
  const notes = [
    group.frozen ? `partly frozen: ${group.frozen}` : null,
    group.approximate ? `approximate: ${group.approximate}` : null,
  ].filter(Boolean);
  return el(
    "div",
    {},
    el("span", { class: "state succeeded" }, "prunable"),
    notes.length ? el("span", { class: "quiet small" }, ` ${notes.join("; ")}`) : null,
  );
}

/** The section of a model's page; groups is the answer of /v1/models/{id}/groups. */
export function groupsSection(groups) {
  const rows = groups?.data || [];
  const prunable = rows.filter((g) => g.prunable);
  const text = !rows.length
    ? `Nothing in this model can be pruned by channels${groups?.why ? `: ${groups.why}` : "."}`
    : `${prunable.length} of ${rows.length} groups can be pruned. The channels of a group can only go together: ` +
      "what makes them, what reads them, and all that lies between." +
      (groups.more ? ` ${groups.more} more groups are not listed.` : "");
  const body = rows.length
    ? table(
        [
          {
            label: "Group",
            cell: (g) => [
              el("span", { class: "mono" }, g.name),
              g.heads ? el("span", { class: "quiet small" }, " (heads)") : null,
            ],
          },
          { label: "Channels", num: true, cell: (g) => String(g.channels) },
          { label: "Pruning", cell: verdict },
          { label: "MACs a channel", num: true, cell: (g) => rounded(g.per_channel?.macs) },
          { label: "Parameters a channel", num: true, cell: (g) => rounded(g.per_channel?.params) },
          { label: "Goes together", cell: members },
        ],
        rows,
      )
    : null;
  return el(
    "section",
    { id: "groups" },
    el("h2", {}, "Groups of channels"),
    el("p", { class: "quiet small" }, text),
    rows.length > 60 ? el("details", { class: "card" }, el("summary", {}, `All ${rows.length} groups`), body) : body,
  );
}

// ---- sensitivity

export const hasCurve = (row) => Array.isArray(row.after?.curve);

const FIGURES = {
  top1: {
    name: "top-1",
    text: "Top-1 against the fraction of a group's channels that is gone, one line a group",
    format: percent,
    worst: (a, b) => a < b,
  },
  kl: {
    name: "KL divergence",
    text:
      "Kullback-Leibler divergence from the model as it is, in nats, " +
      "against the fraction of a group's channels that is gone, one line a group",
    format: (x) => (typeof x === "number" ? x.toPrecision(3) : "-"),
    worst: (a, b) => a > b,
    log: true,
  },
  noise: {
    name: "noise",
    text: "Noise over signal of the output against the fraction of a group's channels that is gone, one line a group",
    format: (x) => (typeof x === "number" ? x.toPrecision(3) : "-"),
    worst: (a, b) => a > b,
    log: true,
  },
};

/** Scale and ticks of the figure on the vertical axis: at(value) in 0..1 from the bottom. */
function vertical(figure, values) {
  if (!figure.log) return { at: (v) => v, ticks: [0, 0.25, 0.5, 0.75, 1].map((v) => [v, `${v * 100} %`]) };
  const positive = values.filter((v) => v > 0);
  const high = Math.ceil(Math.log10(Math.max(...positive, 1e-2)));
  const low = Math.max(high - 5, Math.min(high - 1, Math.floor(Math.log10(Math.min(...positive, 1)))));
  const ticks = [];
  for (let e = low; e <= high; e++)
    ticks.push([10 ** e, e >= 0 || e < -3 ? (Math.abs(e) > 3 ? `1e${e}` : String(10 ** e)) : (10 ** e).toFixed(-e)]);
  return { at: (v) => (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low), ticks };
}

function drawChart(rows, key, own, width) {
  const figure = FIGURES[key],
    height = 300,
    left = 54,
    right = 26,
    top = 20,
    bottom = 40;
  const measured = rows.map((row) => ({ row, points: row.after.curve.filter((p) => typeof p[key] === "number") }));
  const { at, ticks } = vertical(
    figure,
    measured.flatMap((m) => m.points.map((p) => p[key])),
  );
  const x = (ratio) => left + ratio * (width - left - right),
    y = (value) => height - bottom - at(value) * (height - top - bottom);
  const start = key === "top1" ? own : figure.log ? 0 : undefined;
  const lines = new Map();
  const grid = [
    ticks.map(([v, text]) => [
      svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "grid-line" }),
      svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, text),
    ]),
    [0, 0.2, 0.4, 0.6, 0.8, 1].map((r) =>
      svg("text", { x: x(r), y: height - bottom + 16, "text-anchor": "middle" }, `${Math.round(r * 100)} %`),
    ),
    svg(
      "text",
      { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" },
      "channels of the group that are gone",
    ),
    typeof own === "number" && key === "top1"
      ? [
          svg("line", { x1: left, x2: width - right, y1: y(own), y2: y(own), class: "own" }),
          svg("text", { x: width - right, y: y(own) - 5, "text-anchor": "end" }, `as it is: ${percent(own)}`),
        ]
      : null,
  ];
  for (const { row, points } of measured) {
    if (!points.length) continue;
    const path = [...(start !== undefined ? [[x(0), y(start)]] : []), ...points.map((p) => [x(p.ratio), y(p[key])])]
      .map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`)
      .join(" ");
    const line = svg(
      "g",
      { class: "curve" },
      svg("title", {}, row.node),
      svg("polyline", { points: path }),
      svg("polyline", { points: path, class: "near" }),
      points.map((p) => svg("circle", { cx: x(p.ratio), cy: y(p[key]), r: 2.5 })),
    );
    lines.set(row, line);
  }
  const picture = svg(
    "svg",
    {
      class: "plot",
      role: "img",
      "aria-label": `${figure.text}. The table below has the numbers.`,
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
    },
    grid,
    [...lines.values()],
  );
  return { picture, lines };
}

/** How much is lost at the largest ratio measured: what the table is sorted by. */
function lossOf(row, key) {
  const last = row.after.curve.filter((p) => typeof p[key] === "number").at(-1);
  return last ? (key === "top1" ? -last[key] : last[key]) : -Infinity;
}

function recommendation(layers) {
  const plan = layers.find((l) => l.after?.ratios && typeof l.after.ratios === "object");
  if (!plan) return null;
  const step = { method: "prune.channels", ratios: plan.after.ratios };
  return el(
    "details",
    {},
    el(
      "summary",
      {},
      el("b", {}, `Ratios for ${plan.before?.target || "the target"}`),
      el(
        "span",
        { class: "quiet small" },
        ` leaves ${percent(plan.after.left)}${plan.after.met ? "" : " (the target is not met)"}, ` +
          `the sum of the losses is ${plan.after.predicted_loss?.toPrecision(3)}`,
      ),
    ),
    el("p", { class: "quiet small" }, "As a step of a recipe:"),
    el("pre", { tabindex: "0" }, JSON.stringify(step, null, 1)),
  );
}

/** The plot and the table of a step whose rows have curves. */
export function sensitivitySection(layers) {
  const rows = layers.filter(hasCurve);
  const own = layers.find((l) => typeof l.after?.top1 === "number" && !hasCurve(l))?.after.top1;
  const keys = Object.keys(FIGURES).filter((key) =>
    rows.some((row) => row.after.curve.some((p) => typeof p[key] === "number")),
  );
  if (!keys.length) return el("p", { class: "quiet" }, "No group was measured.");
  const frame = el("div", { class: "plot-frame" }),
    list = el("div");
  const choose = el(
    "select",
    { class: "narrow" },
    keys.map((key) => el("option", { value: key }, FIGURES[key].name)),
  );
  let lines = new Map(),
    width = 0;
  const light = (row) => {
    if (lines.get(row)?.classList.contains("on")) return;
    for (const [r, line] of lines) line.classList.toggle("on", r === row);
    lines.get(row)?.parentNode.append(lines.get(row)); // above the others
  };
  const draw = () => {
    const drawn = drawChart(rows, choose.value, own, width);
    lines = drawn.lines;
    for (const [row, line] of lines) line.addEventListener("pointerenter", () => light(row));
    frame.replaceChildren(drawn.picture);
  };
  const tabulate = () => {
    const key = choose.value,
      sorted = [...rows].sort((a, b) => lossOf(b, key) - lossOf(a, key));
    const ratios = [...new Set(rows.flatMap((row) => row.after.curve.map((p) => p.ratio)))].sort((a, b) => a - b);
    list.replaceChildren(
      table(
        [
          {
            label: "Group",
            cell: (l) =>
              el(
                "button",
                { class: "plain mono", title: "show in the plot", onclick: () => light(l), onfocus: () => light(l) },
                l.node,
              ),
          },
          { label: "Channels", num: true, cell: (l) => String(l.before?.channels ?? "") },
          ...ratios.map((ratio) => ({
            label: `${Math.round(ratio * 100)} % gone`,
            num: true,
            cell: (l) => FIGURES[key].format(l.after.curve.find((p) => p.ratio === ratio)?.[key]),
          })),
          ...(rows.some((l) => l.after.recommended !== undefined)
            ? [
                {
                  label: "Recommended",
                  num: true,
                  cell: (l) => (l.after.recommended === undefined ? "" : percent(l.after.recommended)),
                },
              ]
            : []),
        ],
        sorted,
        `${FIGURES[key].name}, the groups that suffer most first`,
      ),
    );
    light(sorted[0]);
  };
  choose.addEventListener("change", () => {
    draw();
    tabulate();
  });
  new ResizeObserver(([entry]) => {
    const wanted = Math.round(Math.min(760, entry.contentRect.width));
    if (wanted < 100 || wanted === width) return;
    width = wanted;
    const chosen = [...lines].find(([, line]) => line.classList.contains("on"))?.[0];
    draw();
    if (chosen) light(chosen);
    else tabulate();
  }).observe(frame);
  return el(
    "section",
    { class: "sensitivity" },
    el("label", { class: "row" }, "Figure", choose),
    frame,
    recommendation(layers),
    list,
  );
}
