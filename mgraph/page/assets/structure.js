// The whole graph: modes and connections as nodes and links, the tree of merges, and the matrix of all pairs.

const QUANTITIES = [["peak", "peak"], ["barrier", "barrier"], ["drop", "drop"]];

// The best edge of each pair of ends on the train loss, over all connections; and connections without any.
function links(quantity) {
  const best = new Map(), bare = [];
  const column = Object.fromEntries(DATA.edge_columns.map((name, i) => [name, i]));
  for (const connection of DATA.connections) {
    const { ends = [], edges = [] } = DATA.connection_details[connection.id] ?? {};
    let measured = false;
    for (const edge of edges) {
      if (edge[column.split] !== "train" || edge[column.metric] !== "loss" || edge[column.chosen_on] === "oracle") continue;
      const value = edge[column[quantity]];
      const [source, target] = [ends[edge[column.source]], ends[edge[column.target]]];
      if (!finite(value) || !NODES.has(source) || !NODES.has(target) || connection.status === "failed") continue;
      measured = true;
      const key = [source, target].sort().join(" ");
      if (!(best.get(key)?.value <= value)) best.set(key, { source, target, value, connection });
    }
    if (!measured) {
      const known = ends.filter((end) => NODES.has(end));
      known.slice(1).forEach((end) => bare.push({ source: known[0], target: end, value: null, connection }));
    }
  }
  return [...best.values(), ...bare.filter((link) => !best.has([link.source, link.target].sort().join(" ")))];
}

// What a merged node was made on: the ends of that connection.
function madeOf(node) {
  const on = DATA.node_details[node.id]?.info?.connection;
  return DATA.connection_details[on]?.ends.filter((end) => NODES.has(end)) ?? [];
}

function network(quantity) {
  const found = links(quantity);
  const scale = scaleOf(found.map((link) => link.value), "lower", { costs: true });
  const chosen = DATA.nodes;
  const named = chosen.length <= 60;
  const made = chosen.flatMap((node) => madeOf(node).map((end) => ({ source: node.id, target: end })));
  const places = layout(chosen.map((node) => node.id), [
    ...found.map((link) => [link.source, link.target, link.value === null ? 1.5 : 1 + (scale.share(link.value) ?? 0)]),
    ...made.map((link) => [link.source, link.target, 0.9]),
  ]);
  // Off the middle of its ends, where their own lines cross.
  chosen.forEach((node, i) => {
    if (madeOf(node).length > 2) places[i] = [places[i][0] + 0.3, places[i][1] + 0.12];
  });
  const place = new Map(chosen.map((node, i) => [node.id, places[i]]));
  const tall = (width) => Math.min(chosen.length > 24 ? 640 : 460, Math.max(300, width * 0.8));
  const line = (link, style) => ({ coords: [place.get(link.source), place.get(link.target)], lineStyle: { opacity: 1, ...style } });
  const chart = chartOf({
    label: `${chosen.length} modes and merged nodes, with the best of ${DATA.connections.length} connections between each two; its lines are in the table`,
    height: tall,
    ready: (chart) => chart.on("click", ({ seriesId, dataIndex }) => {
      if (seriesId === "nodes") location.hash = `node/${chosen[dataIndex].id}`;
      if (seriesId === "links") location.hash = `connection/${found[dataIndex].connection.id}`;
    }),
    option: (width) => ({
      ...canvasOf(places, width, tall(width)),
      tooltip: tooltip(({ seriesId, dataIndex }) => {
        if (seriesId === "nodes") {
          const node = chosen[dataIndex];
          return tip(`${node.kind} ${node.name ?? node.id}`, numberColumns(node).map((key) => [key.replaceAll("_", " "), shown(node[key])]));
        }
        const { connection, value } = found[dataIndex];
        return tip(connection.name ?? connection.id, [["method", connection.kind], [`train loss ${quantity}`, shown(value)], ["ends", connection.ends.join(", ")]]);
      }),
      series: [
        {
          id: "made",
          type: "lines",
          coordinateSystem: "cartesian2d",
          silent: true,
          data: made.map((link) => line(link, { color: css("--faint"), width: 1, type: "dashed" })),
        },
        {
          id: "outlines", // so that the light end of the colours is seen on white paper
          type: "lines",
          coordinateSystem: "cartesian2d",
          silent: true,
          data: found.filter((link) => link.value !== null).map((link) => line(link, { color: css("--faint"), width: chosen.length > 24 ? 3.5 : 5.5 })),
        },
        {
          id: "links",
          type: "lines",
          coordinateSystem: "cartesian2d",
          data: found.map((link) => line(link, link.value === null
            ? { color: css("--faint"), width: 1.5, type: "dotted" }
            : { color: scale.colour(link.value), width: chosen.length > 24 ? 2.5 : 4 })),
          emphasis: { lineStyle: { width: 7 } },
        },
        {
          id: "nodes",
          type: "scatter",
          z: 5,
          symbolSize: chosen.length > 24 ? 9 : 16,
          labelLayout: { hideOverlap: true },
          data: chosen.map((node, i) => ({
            value: places[i],
            symbol: node.kind === "merged" ? "diamond" : "circle",
            itemStyle: { color: css("--paper"), borderColor: css("--ink"), borderWidth: 1.6, opacity: 1 },
            label: {
              show: named,
              position: "bottom",
              color: css("--ink"),
              textBorderColor: css("--paper"),
              textBorderWidth: 3,
              formatter: () => cut(node.name ?? node.id, 18),
            },
          })),
        },
      ],
    }),
  });
  const measured = found.some((link) => link.value !== null);
  return el("div", {}, chart.box, measured ? colourBar(scale, `train loss ${quantity}`) : null,
    el("p", { class: "faint" }, "Circles are modes, diamonds merged nodes, which dashed lines join to what they were made of; a dotted line was not measured. Click one for its page."),
    folded("Table of the lines", () => linkTable(found, quantity)));
}

function linkTable(found, quantity) {
  return table({
    id: `links-${quantity}`,
    label: `The best connection of each two modes by train loss ${quantity}`,
    columns: [
      { key: "source", label: "from", value: (r) => nameOf(r.source), cell: (r) => to("node", r.source, nameOf(r.source)) },
      { key: "target", label: "to", value: (r) => nameOf(r.target), cell: (r) => to("node", r.target, nameOf(r.target)) },
      { key: "value", label: quantity, number: true },
      { key: "connection", label: "connection", value: (r) => nameOf(r.connection.id), cell: (r) => to("connection", r.connection.id, nameOf(r.connection.id)) },
    ],
    rows: found,
    empty: "No two modes are connected.",
  });
}

// Axes without marks, on which places keep their proportions.
function canvasOf(places, width, height) {
  const margin = 44;
  const [xs, ys] = [0, 1].map((k) => extent(places.map((p) => p[k])));
  const unit = Math.max((xs[1] - xs[0]) / (width - 2 * margin), (ys[1] - ys[0]) / (height - 2 * margin)) || 1 / width;
  const range = ([low, high], size) => [(low + high - size * unit) / 2, (low + high + size * unit) / 2];
  const [x, y] = [range(xs, width), range(ys, height)];
  return {
    grid: { left: 0, right: 0, top: 0, bottom: 0 },
    xAxis: { type: "value", show: false, min: x[0], max: x[1] },
    yAxis: { type: "value", show: false, min: y[0], max: y[1] },
  };
}

// Places at which distances are about as wanted: stress is lowered from a circle on, the same each time.
function layout(ids, wanted, rounds = 150) {
  const n = ids.length, index = new Map(ids.map((id, i) => [id, i]));
  let places = ids.map((_, i) => [Math.cos((2 * Math.PI * i) / n) * 2, Math.sin((2 * Math.PI * i) / n) * 2]);
  if (n > 300) return places;
  const far = ids.map(() => new Float64Array(n).fill(Infinity));
  wanted.forEach(([one, other, distance]) => {
    const i = index.get(one), j = index.get(other);
    far[i][j] = far[j][i] = Math.min(far[i][j], distance);
  });
  for (let k = 0; k < n; k += 1) {
    for (let i = 0; i < n; i += 1) {
      for (let j = 0; j < n; j += 1) far[i][j] = Math.min(far[i][j], far[i][k] + far[k][j]);
    }
  }
  for (let round = 0; round < rounds; round += 1) {
    places = places.map((here, i) => {
      let x = 0, y = 0, sum = 0;
      places.forEach((there, j) => {
        if (i === j) return;
        const distance = Math.min(far[i][j], 4), weight = 1 / distance ** 2;
        const dx = here[0] - there[0], dy = here[1] - there[1], now = Math.hypot(dx, dy) || 1e-9;
        x += weight * (there[0] + (distance * dx) / now);
        y += weight * (there[1] + (distance * dy) / now);
        sum += weight;
      });
      return sum ? [x / sum, y / sum] : here;
    });
  }
  return places;
}

// The single-linkage tree, upright: each mode begins at its own value, groups merge at the level of their best edge.
function dendrogram(found) {
  const n = found.leaves.length, place = new Map(found.order.map((id, i) => [found.leaves.indexOf(id), i]));
  const levels = found.linkage.map((row) => row[2]).concat(found.own).filter(finite);
  if (!levels.length) return el("p", { class: "faint" }, "No two groups of modes merge.");
  const log = spansDecades(levels);
  const [low, high] = extent(levels);
  const floor = log ? low / 1.3 : Math.min(low, found.quantity === "peak" ? low : 0) - (high - low) * 0.05;
  const x = new Map(place), y = new Map(found.own.map((own, i) => [i, finite(own) ? own : floor]));
  const lines = [], tops = [];
  found.linkage.forEach(([a, b, value, size], k) => {
    const shownAt = log ? Math.max(value, floor) : value;
    lines.push([[x.get(a), y.get(a)], [x.get(a), shownAt], [x.get(b), shownAt], [x.get(b), y.get(b)]]);
    x.set(n + k, (x.get(a) + x.get(b)) / 2);
    y.set(n + k, shownAt);
    tops.push({ value: [x.get(n + k), shownAt], name: `${size} modes merge`, level: value });
  });
  const nameAt = (i) => nameOf(found.order[i]);
  const leaves = found.own.map((own, i) => ({ value: [place.get(i), finite(own) ? own : floor], name: nameOf(found.leaves[i]), id: found.leaves[i], level: own }));
  const chart = chartOf({
    label: `Tree of merges of ${n} modes by ${found.criterion}; its numbers are in the table`,
    height: () => 340,
    ready: (chart) => chart.on("click", ({ data }) => {
      if (data?.id) location.hash = `node/${data.id}`;
    }),
    option: (width) => ({
      grid: { left: 66, right: 14, top: 14, bottom: n > width / 70 ? 78 : 30 },
      tooltip: tooltip(({ data }) => tip(data.name, [[found.criterion, shown(data.level)]])),
      xAxis: axis("value", "", {
        min: -1, max: n, interval: 1, axisLine: { onZero: false, lineStyle: { color: css("--faint") } }, splitLine: { show: false }, axisTick: { show: false },
        axisLabel: { rotate: n > width / 70 ? 60 : 0, formatter: (i) => (Number.isInteger(i) && i >= 0 && i < n ? cut(nameAt(i), 12) : ""), hideOverlap: true },
      }),
      yAxis: axis(log ? "log" : "value", found.criterion, { nameGap: 48, min: floor, max: log ? high * 1.3 : high + (high - low || 1) * 0.06, axisLine: { onZero: false, lineStyle: { color: css("--faint") } }, axisLabel: { formatter: short, showMinLabel: false } }),
      series: [
        ...lines.map((data) => ({ type: "line", data, symbol: "none", silent: true, lineStyle: { color: css("--faint"), width: 1.6 } })),
        { type: "scatter", data: tops, symbolSize: 7, itemStyle: { color: css("--faint") } },
        { type: "scatter", data: leaves, symbolSize: 9, itemStyle: { color: css("--link") } },
      ],
    }),
  });
  return el("div", {}, chart.box, folded("Table of the merges", () => mergeTable(found, place)));
}

function mergeTable(found) {
  const n = found.leaves.length;
  const groups = found.leaves.map((id) => [nameOf(id)]);
  const rows = found.linkage.map(([a, b, value, size], k) => {
    groups[n + k] = [...groups[a], ...groups[b]];
    return { k, one: groups[a].join(", "), other: groups[b].join(", "), value, size };
  });
  return table({
    id: `merges-${found.space}-${found.quantity}`,
    label: `Merges by ${found.criterion}`,
    columns: [{ key: "one", label: "group" }, { key: "other", label: "merges with" }, { key: "value", label: found.quantity, number: true }, { key: "size", label: "modes", number: true }],
    rows,
    empty: "No two groups merge.",
  });
}

// Below the diagonal the best edge of each pair, above it the largest value on its best route.
function matrix(found) {
  const connected = found.order.map((_, i) => [...found.direct[i], ...found.best[i], ...found.direct.map((row) => row[i])]
    .some((value) => value !== null));
  const kept = found.order.map((_, i) => i).filter((i) => connected[i]);
  const n = kept.length, alone = found.order.length - n;
  const cells = [];
  for (let row = 0; row < n; row += 1) {
    for (let column = 0; column < n; column += 1) {
      const value = (row > column ? found.direct : found.best)[kept[row]][kept[column]];
      if (row !== column && value !== null) cells.push([column, row, value]);
    }
  }
  if (!cells.length) return el("p", { class: "faint" }, "No pair is connected.");
  const scale = scaleOf(cells.map((cell) => cell[2]), "lower", { costs: true });
  const label = `Matrix of ${n} modes by ${found.criterion}; its numbers are in the table`;
  const best = new Map(links(found.quantity).map((link) => [[link.source, link.target].sort().join(" "), link]));
  const of = ([column, row]) => [found.order[kept[row]], found.order[kept[column]]];
  const names = (i) => cut(nameOf(found.order[kept[i]]), 10);
  const axisOf = (rotate) => axis("category", "", {
    data: kept.map((_, i) => String(i)), splitLine: { show: false }, axisTick: { show: false },
    axisLabel: { formatter: (i) => names(Number(i)), rotate, interval: n > 30 ? "auto" : 0, hideOverlap: n > 12 },
  });
  const longest = Math.max(...kept.map((_, i) => [...names(i)].length));
  const chart = chartOf({
    label,
    square: true,
    height: (width) => Math.min(width, 544) * 0.9,
    ready: (chart) => chart.on("click", ({ data }) => {
      const link = data && best.get(of(data).sort().join(" "));
      if (link) location.hash = `connection/${link.connection.id}`;
    }),
    option: () => ({
      grid: { left: 18 + 7 * longest, right: 8, top: 6, bottom: longest > 4 ? 12 + 6 * longest : 26 },
      tooltip: tooltip(({ data }) => {
        const [one, other] = of(data);
        return tip(`${nameOf(one)} – ${nameOf(other)}`, [[data[1] > data[0] ? "best edge" : "best route", shown(data[2])]]);
      }),
      xAxis: axisOf(longest > 4 ? 60 : 0),
      yAxis: { ...axisOf(0), inverse: true },
      series: [{
        type: "custom",
        data: cells,
        encode: { x: 0, y: 1 },
        renderItem: (_, api) => {
          const [width, height] = api.size([1, 1]), [x, y] = api.coord([api.value(0), api.value(1)]);
          const colour = scale.colour(api.value(2));
          const box = { type: "rect", shape: { x: x - width / 2, y: y - height / 2, width: width - 1, height: height - 1 }, style: { fill: colour }, emphasis: { style: { stroke: css("--ink"), lineWidth: 2 } } };
          if (n > 12 || width < 30) return box;
          const share = scale.share(api.value(2));
          const text = { type: "text", silent: true, style: { text: brief(api.value(2)), x, y, fill: share > 0.6 ? "#000" : "#fff", font: "11px system-ui, sans-serif", align: "center", verticalAlign: "middle" } };
          return { type: "group", children: [box, text] };
        },
      }],
    }),
  });
  return el("div", {}, chart.box, colourBar(scale, found.criterion),
    el("p", { class: "faint" }, `Below the diagonal the best edge, above it the best route; click a cell for the connection.${alone ? ` Without any edge: ${found.order.filter((_, i) => !connected[i]).map(nameOf).join(", ")}.` : ""}`),
    folded("Table of the pairs", () => pairTable(found, best)));
}

function brief(value) {
  if (!finite(value)) return shown(value);
  return Math.abs(value) >= 0.01 || value === 0 ? String(Number(value.toPrecision(2))) : value.toExponential(0).replace("e+", "e");
}

function pairTable(found, best) {
  const rows = [];
  found.order.forEach((one, i) => found.order.forEach((other, j) => {
    if (i < j) rows.push({ one, other, direct: found.direct[i][j], best: found.best[i][j], link: best.get([one, other].sort().join(" ")) });
  }));
  return table({
    id: `pairs-${found.space}-${found.quantity}`,
    label: `Pairs by ${found.criterion}`,
    columns: [
      { key: "one", label: "mode", value: (r) => nameOf(r.one), cell: (r) => to("node", r.one, nameOf(r.one)) },
      { key: "other", label: "and", value: (r) => nameOf(r.other), cell: (r) => to("node", r.other, nameOf(r.other)) },
      { key: "direct", label: "best edge", number: true },
      { key: "best", label: "best route", number: true },
      { key: "link", label: "connection", value: (r) => r.link && nameOf(r.link.connection.id), cell: (r) => (r.link?.value !== undefined && r.link?.value !== null ? to("connection", r.link.connection.id, nameOf(r.link.connection.id)) : "–") },
    ],
    rows,
  });
}
