// SPDX-License-Identifier: Apache-2.0
// Where the nodes of a model's graph stand: in layers from inputs to outputs (Sugiyama's method). Long edges get a
// place of their own in each layer they cross; the order in a layer is the barycenter of the neighbours; places
// across come from averages of neighbours under the rule that nobody overlaps (isotonic regression). All passes are
// linear or n log n. No page is needed: node runs it in the tests.

export const NODE = { width: 150, height: 40, gapX: 22, gapY: 34, bend: 14 };
const MOST_BENDS = 12000,
  SWEEPS = 8;

/** Layer of every node: the longest way from a start; starts stand just above their first reader. Edges of a cycle
 * that would go back are left out of the count. */
function layersOf(count, into, from) {
  const layer = new Int32Array(count),
    left = Int32Array.from(into, (list) => list.length),
    order = [];
  const done = new Uint8Array(count);
  for (let i = 0; i < count; i++) if (!left[i]) order.push(i);
  for (let at = 0, broken = 0; order.length < count || at < order.length;) {
    if (at === order.length) {
      // a cycle: begin anywhere in it
      while (done[broken] || left[broken] <= 0) broken++;
      left[broken] = 0;
      order.push(broken);
    }
    const i = order[at++];
    done[i] = 1;
    for (const j of from[i]) {
      if (done[j]) continue;
      layer[j] = Math.max(layer[j], layer[i] + 1);
      if (--left[j] === 0) order.push(j);
    }
  }
  for (let at = order.length - 1; at >= 0; at--) {
    const i = order[at];
    if (into[i].length || !from[i].length) continue;
    layer[i] = Math.max(0, Math.min(...from[i].map((j) => layer[j])) - 1);
  }
  return layer;
}

/** Places with at least gap[i] between i-1 and i that are nearest to `wish` in the sum of weighted squares. */
function apart(wish, gap, weight) {
  const n = wish.length,
    blocks = [];
  if (n === 1) return wish;
  let offset = 0;
  const offsets = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    offset += i ? gap[i] : 0;
    offsets[i] = offset;
    let block = { sum: (wish[i] - offset) * weight[i], weight: weight[i], count: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
      const last = blocks.pop();
      block = { sum: last.sum + block.sum, weight: last.weight + block.weight, count: last.count + block.count };
    }
    blocks.push(block);
  }
  const out = new Float64Array(n);
  let i = 0;
  for (const block of blocks) for (let k = 0; k < block.count; k++, i++) out[i] = block.sum / block.weight + offsets[i];
  return out;
}

/** The net of all places: nodes and the bends of edges that cross layers. */
function netOf(count, edges, layer) {
  const net = { layer: [...layer], up: [], down: [], bend: [], chains: [] };
  for (let i = 0; i < count; i++) {
    net.up.push([]);
    net.down.push([]);
    net.bend.push(false);
  }
  const link = (a, b) => {
    net.down[a].push(b);
    net.up[b].push(a);
  };
  for (const [from, to] of edges) {
    const span = layer[to] - layer[from],
      chain = [from];
    if (span > 1 && net.layer.length - count + span - 1 <= MOST_BENDS) {
      for (let l = layer[from] + 1; l < layer[to]; l++) {
        const id = net.layer.length;
        net.layer.push(l);
        net.up.push([]);
        net.down.push([]);
        net.bend.push(true);
        link(chain.at(-1), id);
        chain.push(id);
      }
    }
    if (span >= 1) link(chain.at(-1), to);
    chain.push(to);
    net.chains.push(chain);
  }
  return net;
}

function firstOrder(net) {
  const rows = Array.from({ length: Math.max(...net.layer, 0) + 1 }, () => []),
    seen = new Uint8Array(net.layer.length);
  const starts = [...net.layer.keys()].sort((a, b) => net.layer[a] - net.layer[b]);
  for (const start of starts) {
    // depth first, so that a branch stays together
    const stack = [start];
    while (stack.length) {
      const i = stack.pop();
      if (seen[i]) continue;
      seen[i] = 1;
      rows[net.layer[i]].push(i);
      for (let k = net.down[i].length - 1; k >= 0; k--) stack.push(net.down[i][k]);
    }
  }
  return rows;
}

function untangle(net, rows) {
  const at = new Float64Array(net.layer.length),
    mean = new Float64Array(net.layer.length);
  const number = (row) =>
    row.forEach((id, i) => {
      at[id] = i;
    });
  rows.forEach(number);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0,
      near = down ? net.up : net.down;
    for (let k = 0; k < rows.length; k++) {
      const row = rows[down ? k : rows.length - 1 - k];
      if (row.length < 2) continue;
      for (const id of row) {
        let sum = 0;
        for (const j of near[id]) sum += at[j];
        mean[id] = near[id].length ? sum / near[id].length : at[id];
      }
      row.sort((a, b) => mean[a] - mean[b] || at[a] - at[b]);
      number(row);
    }
  }
}

function place(net, rows) {
  const x = new Float64Array(net.layer.length),
    half = (id) => (net.bend[id] ? NODE.bend : NODE.width + NODE.gapX) / 2;
  const gaps = rows.map((row) => Float64Array.from(row, (id, i) => (i ? half(row[i - 1]) + half(id) : 0)));
  rows.forEach((row, r) => {
    let sum = 0;
    row.forEach((id, i) => {
      sum += gaps[r][i];
      x[id] = sum;
    });
  });
  const settle = (r, near) => {
    const row = rows[r];
    // An edge with a bend pulls harder, on both its ends alike: long edges are straight, and nothing drifts aside.
    const pull = (id, j) => (net.bend[id] || net.bend[j] ? 4 : 1),
      wish = new Float64Array(row.length),
      weight = new Float64Array(row.length);
    row.forEach((id, i) => {
      let sum = 0;
      for (const j of near(id)) {
        sum += pull(id, j) * x[j];
        weight[i] += pull(id, j);
      }
      wish[i] = weight[i] ? sum / weight[i] : x[id];
      weight[i] ||= 0.01;
    });
    apart(wish, gaps[r], weight).forEach((v, i) => {
      x[row[i]] = v;
    });
  };
  for (let pass = 0; pass < 4; pass++) {
    for (let r = 0; r < rows.length; r++) settle(r, (id) => net.up[id]);
    for (let r = rows.length - 1; r >= 0; r--) settle(r, (id) => net.down[id]);
  }
  for (let r = 0; r < rows.length; r++) settle(r, (id) => [...net.up[id], ...net.down[id]]);
  return x;
}

/** nodes: [{id}], edges: [{from, to}] by id. Returns {width, height, at: [[x, y] of the middle], routes: [[[x, y],
 * ...] or null]} in the order given; an edge whose ends are not there has no route. */
export function layoutGraph(nodes, edges) {
  const index = new Map(nodes.map((n, i) => [n.id, i])),
    count = nodes.length;
  const into = Array.from({ length: count }, () => []),
    from = Array.from({ length: count }, () => []);
  const pairs = edges.map((e) => [index.get(e.from), index.get(e.to)]);
  const good = pairs.filter(([a, b]) => a !== undefined && b !== undefined && a !== b);
  for (const [a, b] of good) {
    from[a].push(b);
    into[b].push(a);
  }
  if (!count) return { width: 0, height: 0, at: [], routes: pairs.map(() => null) };
  const layer = layersOf(count, into, from);
  const net = netOf(count, good, layer),
    rows = firstOrder(net);
  untangle(net, rows);
  const x = place(net, rows);
  let low = Infinity,
    high = -Infinity;
  for (let i = 0; i < x.length; i++) {
    low = Math.min(low, x[i]);
    high = Math.max(high, x[i]);
  }
  const shift = NODE.width / 2 + NODE.gapX - low,
    pitch = NODE.height + NODE.gapY;
  const where = (id) => [x[id] + shift, net.layer[id] * pitch + NODE.gapY + NODE.height / 2];
  const chains = new Map();
  good.forEach((pair, i) => chains.set(pair, net.chains[i]));
  return {
    width: high - low + NODE.width + 2 * NODE.gapX,
    height: rows.length * pitch + NODE.gapY,
    rows: rows.map((row) => row.filter((id) => id < count)),
    at: nodes.map((_, i) => where(i)),
    routes: pairs.map((pair) => chains.get(pair)?.map(where) || null),
  };
}
