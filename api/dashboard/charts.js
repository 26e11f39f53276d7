// SPDX-License-Identifier: Apache-2.0
// Charts as SVG, drawn as wide as their place: lines, points with their Pareto front, histogram, matrix of shades.
// Every chart is a picture with a sentence for those who do not see it; the numbers stand in a table beside it.
import { el, svg } from "/ui.js";

export const plain = (x) =>
  typeof x === "number"
    ? x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5)
      ? x.toExponential(2)
      : String(Number(x.toPrecision(4)))
    : "-";

/** Round steps that cover [low, high] with about `lines` lines. */
export function ticks(low, high, lines = 4) {
  const span = high - low || Math.abs(high) / 10 || 1;
  const rough = span / lines,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough) || 10 * power;
  const out = [];
  for (let v = Math.floor(low / step) * step; out.length < 3 * lines; v += step) {
    out.push(Number(v.toPrecision(12)));
    if (v >= high - step * 1e-9) break;
  }
  return out;
}

/** A place that draws itself again when its width changes: draw(width) returns the picture. */
export function frame(draw, { most = 560, kind = "low" } = {}) {
  const place = el("div", { class: `plot-frame ${kind}` });
  let width = 0;
  new ResizeObserver(([entry]) => {
    const wanted = Math.round(Math.min(most, entry.contentRect.width));
    if (wanted < 100 || wanted === width) return;
    width = wanted;
    place.replaceChildren(draw(width));
  }).observe(place);
  return place;
}

/** The size of a plot and its two scales; ends: [low, high] of the axes. */
function axes(width, height, xEnds, yEnds, margin) {
  const { left, right, top, bottom } = margin;
  const xSpan = xEnds[1] - xEnds[0] || 1,
    ySpan = yEnds[1] - yEnds[0] || 1;
  return {
    x: (v) => left + ((v - xEnds[0]) / xSpan) * (width - left - right),
    y: (v) => height - bottom - ((v - yEnds[0]) / ySpan) * (height - top - bottom),
  };
}

const MARGIN = { left: 62, right: 20, top: 14, bottom: 38 };

function horizontalLines(values, y, width, format) {
  return values.map((v) => [
    svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(v), y2: y(v), class: "grid-line" }),
    svg("text", { x: MARGIN.left - 6, y: y(v) + 4, "text-anchor": "end" }, format(v)),
  ]);
}

const picture = (width, height, label, ...content) =>
  svg(
    "svg",
    { class: "plot", role: "img", "aria-label": label, width, height, viewBox: `0 0 ${width} ${height}` },
    ...content,
  );

const middle = (x, y, text) => svg("text", { x, y, "text-anchor": "middle" }, text);

// ---- lines

/** lines: [{name, kind, points: [[x, y], ...]}]; mark: an x that is pointed out. */
function drawLines({ title, lines, across, format, mark }, width) {
  const height = 240,
    points = lines.flatMap((line) => line.points);
  const xs = points.map((p) => p[0]),
    ys = points.map((p) => p[1]);
  const vertical = ticks(Math.min(...ys), Math.max(...ys));
  const low = vertical[0],
    high = vertical.at(-1) > low ? vertical.at(-1) : low + 1;
  const one = Math.min(...xs) === Math.max(...xs) ? 1 : 0; // a single place stands in the middle
  const first = Math.min(...xs) - one,
    last = Math.max(...xs) + one;
  const { x, y } = axes(width, height, [first, last], [low, high], MARGIN);
  const whole = ticks(first, last, 8).filter((v) => Number.isInteger(v) && v >= first + one && v <= last - one);
  return picture(
    width,
    height,
    `${title}. The table below has the numbers.`,
    horizontalLines(vertical, y, width, format),
    whole.map((v) => middle(x(v), height - MARGIN.bottom + 16, String(v))),
    middle((MARGIN.left + width - MARGIN.right) / 2, height - 5, across),
    typeof mark === "number" && mark >= first && mark <= last
      ? svg("line", { x1: x(mark), x2: x(mark), y1: MARGIN.top, y2: height - MARGIN.bottom, class: "own" })
      : null,
    lines.map((line) =>
      svg(
        "g",
        { class: `line ${line.kind}` },
        svg("polyline", { points: line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }),
        line.points.map(([a, b]) =>
          svg(
            "circle",
            { cx: x(a), cy: y(b), r: line.points.length > 40 ? 1.5 : 3 },
            svg("title", {}, `${line.name}, ${across} ${a}: ${format(b)}`),
          ),
        ),
      ),
    ),
  );
}

/** A plot as wide as its place, with a key. null without points. */
export function chart(options) {
  const lines = options.lines
    .map((line) => ({ ...line, points: line.points.filter((p) => p.every(Number.isFinite)) }))
    .filter((line) => line.points.length);
  if (!lines.length) return null;
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      { class: "small" },
      el("b", {}, options.title),
      lines.map((line) => el("span", { class: `key ${line.kind}` }, line.name)),
    ),
    frame((width) => drawLines({ ...options, lines }, width)),
  );
}

// ---- points

/** Which points no other beats: fewer of x (a cost) and more of y (a worth). Sorted by x. */
export function paretoFront(points) {
  const sorted = [...points].sort((a, b) => a.x - b.x || b.y - a.y);
  const front = [];
  for (const p of sorted) if (!front.length || p.y > front.at(-1).y) front.push(p);
  return front;
}

/** Where the label of each point stands: the first place around it that is still free. */
function labelPlaces(points, width) {
  const around = [
      [0, -11],
      [15, 5],
      [-15, 5],
      [0, 20],
      [15, -14],
      [-15, -14],
      [15, 22],
      [-15, 22],
      [30, 5],
      [-30, 5],
    ],
    taken = points.map(([x, y]) => [x, y - 4]);
  return points.map(([x, y]) => {
    const free = ([dx, dy]) =>
      x + dx > 12 &&
      x + dx < width - 12 &&
      taken.every(([a, b]) => Math.abs(a - x - dx) > 13 || Math.abs(b - y - dy) > 12);
    const [dx, dy] = around.find(free) || around[0],
      place = [x + dx, y + dy];
    taken.push(place);
    return place;
  });
}

/** points: [{x, y, label, name}]; the front is a line through the best. null with no point. */
export function scatter({ title, points, xName, yName, xFormat, yFormat }) {
  const shown = points.filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y));
  if (!shown.length) return null;
  const front = paretoFront(shown),
    best = new Set(front);
  const draw = (width) => {
    const height = 300,
      across = ticks(0, Math.max(...shown.map((p) => p.x)), width < 400 ? 3 : 5);
    const ys = shown.map((p) => p.y),
      vertical = ticks(Math.min(...ys), Math.max(...ys));
    if (vertical.length < 2) vertical.push(vertical[0] + 1e-3);
    const { x, y } = axes(width, height, [0, across.at(-1)], [vertical[0], vertical.at(-1)], {
      ...MARGIN,
      top: 30,
      right: 34,
    });
    const named = labelPlaces(
      shown.map((p) => [x(p.x), y(p.y)]),
      width,
    );
    const steps = front
      .map((p, i) => (i ? `H${x(p.x).toFixed(1)}V${y(p.y).toFixed(1)}` : `M${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`))
      .join("");
    return picture(
      width,
      height,
      `${title}. ${front.length} of ${shown.length} points are on the Pareto front: ` +
        `${front.map((p) => p.label).join(", ")}. The table has the numbers.`,
      horizontalLines(vertical, y, width, yFormat),
      across.map((v) => middle(x(v), height - MARGIN.bottom + 16, xFormat(v))),
      middle((MARGIN.left + width - MARGIN.right) / 2, height - 5, xName),
      svg("path", { class: "front", d: steps }),
      shown.map((p, i) =>
        svg(
          "g",
          { class: best.has(p) ? "point best" : "point" },
          svg(
            "circle",
            { cx: x(p.x), cy: y(p.y), r: 6 },
            svg("title", {}, `${p.name}: ${xName} ${xFormat(p.x)}, ${yName} ${yFormat(p.y)}`),
          ),
          svg("text", { x: named[i][0], y: named[i][1], "text-anchor": "middle" }, p.label),
        ),
      ),
    );
  };
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", { class: "small" }, el("b", {}, title), el("span", { class: "key front" }, "Pareto front")),
    frame(draw),
  );
}

// ---- histogram

/** counts over [low, high] in equal bins; heights by the square root, so that the tails are seen. */
export function histogram({ title, low, high, counts }) {
  const draw = (width) => {
    const height = 190,
      most = Math.max(...counts, 1),
      total = counts.reduce((a, b) => a + b, 0) || 1;
    const { x, y } = axes(width, height, [0, counts.length], [0, 1], { ...MARGIN, left: 24, right: 24 });
    const end = (v, i, anchor) =>
      svg("text", { x: x(i), y: height - MARGIN.bottom + 16, "text-anchor": anchor }, plain(v));
    const edge = (i) => low + ((high - low) * i) / counts.length;
    const zero = low < 0 && high > 0 ? (-low / (high - low)) * counts.length : null;
    return picture(
      width,
      height,
      `${title}: ${total} values from ${plain(low)} to ${plain(high)}.`,
      counts.map((n, i) =>
        svg(
          "rect",
          {
            class: "bin",
            x: x(i) + 0.5,
            width: Math.max(1, x(1) - x(0) - 1),
            y: y(Math.sqrt(n / most)),
            height: Math.max(0, y(0) - y(Math.sqrt(n / most))),
          },
          svg("title", {}, `${plain(edge(i))} to ${plain(edge(i + 1))}: ${n} (${((100 * n) / total).toFixed(1)} %)`),
        ),
      ),
      zero === null
        ? null
        : svg("line", { x1: x(zero), x2: x(zero), y1: MARGIN.top, y2: height - MARGIN.bottom, class: "own" }),
      end(low, 0, "start"),
      end(high, counts.length, "end"),
      zero !== null && zero > counts.length * 0.15 && zero < counts.length * 0.85 ? end(0, zero, "middle") : null,
      middle(width / 2, height - 5, "value; heights are square roots of counts"),
    );
  };
  return el(
    "figure",
    { class: "chart" },
    el("figcaption", { class: "small" }, el("b", {}, title)),
    frame(draw, { kind: "short" }),
  );
}

// ---- shades

/** cells[row][column]: {shade: 0..1, text} or null; a class a tenth, so that the colours follow the theme. */
export function shades({ title, cells, rowNames, across, down }) {
  const columns = Math.max(...cells.map((row) => row.length), 1);
  const draw = (width) => {
    const left = rowNames ? 40 : 4,
      bottom = across ? 22 : 4,
      side = Math.max(2, Math.min(28, (width - left - 4) / columns));
    const height = Math.round(cells.length * side + bottom + (down ? 18 : 2)),
      top = down ? 18 : 2;
    return picture(
      width,
      height,
      title,
      down ? svg("text", { x: 2, y: 12 }, down) : null,
      cells.map((row, r) => [
        rowNames && side >= 12
          ? svg("text", { x: left - 6, y: top + r * side + side / 2 + 4, "text-anchor": "end" }, rowNames[r])
          : null,
        row.map(
          (cell, c) =>
            cell &&
            svg(
              "rect",
              {
                class: `shade s${Math.max(0, Math.min(9, Math.floor(cell.shade * 10)))}`,
                x: left + c * side,
                y: top + r * side,
                width: Math.max(1, side - 1),
                height: Math.max(1, side - 1),
              },
              svg("title", {}, cell.text),
            ),
        ),
      ]),
      across ? svg("text", { x: left, y: height - 6 }, across) : null,
    );
  };
  return frame(draw, { most: 760, kind: "flat" });
}
