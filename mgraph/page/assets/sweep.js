// The points of one connection: a heat map or a curve, the chosen point with its numbers and commands, and their table.

function explorer(connection, points, names) {
  const at = parametersOf(points);
  const flat = points.shape === "surface" || (points.shape === "simplex" && points.ends.length === 3);
  const keys = Object.keys(points.values);
  const metricNames = [...new Set(keys.map((key) => key.slice(key.indexOf(" ") + 1)))];
  const metricOf = (name) => points.metrics.find((m) => m.name === name) ?? { name, better: null, unit: "" };
  const place = `connection ${connection.id}`;
  let chosen = recall(`${place} point`, points.best ?? 0);
  if (!(chosen in at)) chosen = 0;
  const options = flat ? keys : metricNames;
  let what = recall(`${place} measure`, options[0]);
  if (!options.includes(what)) what = options[0];

  let basins = recall("basins", true);
  const said = el("div", { "aria-live": "polite", "aria-atomic": true });
  const offered = el("div");
  const panel = el("div", { class: "point" }, said, offered);
  const bar = el("div");
  const relief = el("div"), listed = el("div");
  let chart = null, surface = null;
  const view = { points, at, names, metricOf, measure: () => what, chosen: () => chosen, choose, basins: () => (basins ? basinsOf(points, what) : null) };

  function choose(i) {
    if (!(i in at)) return;
    chosen = i;
    remember(`${place} point`, i);
    describe();
    chart?.redraw();
    surface?.redraw();
  }

  function describe() {
    const node = points.nodes[chosen];
    const marks = [chosen === points.best ? "best on validation data" : null, endName(points, at[chosen], names)];
    const known = marks.filter(Boolean);
    const splits = [...new Set(keys.map((key) => key.slice(0, key.indexOf(" "))))];
    replace(said,
      el("h3", {}, `${parameter(at[chosen])}${known.length ? ` (${known.join("; ")})` : ""}`),
      el("table", { "aria-label": "Numbers of the chosen point" }, el("thead", {}, el("tr", {}, el("td", {}), metricNames.map((m) => el("th", { scope: "col" }, m)))),
        el("tbody", {}, splits.map((split) => el("tr", {}, el("th", { scope: "row" }, split),
          metricNames.map((m) => el("td", { class: "number" }, shown(points.values[`${split} ${m}`]?.[chosen])))))),
      ));
    replace(offered,
      node ? command(exportCommand(node), "Export this point:") : el("p", { class: "faint" }, "This point was not stored."),
      command(mergeCommand(connection.id, at[chosen]), "Keep it as a node:"));
  }

  function draw() {
    chart?.dispose();
    chart = flat ? heatMap(view) : points.shape === "path" ? curve(view) : null;
    const scale = flat ? scaleOf(points.values[what], metricOf(what.slice(what.indexOf(" ") + 1)).better) : null;
    const found = flat ? basinsOf(points, what) : null;
    replace(bar, scale ? colourBar(scale, what) : null, found && basins ? el("p", { class: "faint" }, MARKS) : null);
    replace(listed, found ? folded(`Table of the ${basinsSaid(found)}`, () => basinTable(connection, view, found), "basins") : null);
    replace(stage, chart?.box ?? el("p", {}, "This shape has no picture here; its points are in the table below."));
    surface?.redraw();
  }

  const stage = el("div", {
    tabindex: chart === null && !flat && points.shape !== "path" ? null : 0,
    role: "application",
    "aria-label": `${flat ? "Heat map" : "Curve"} of ${connection.name ?? connection.id}: arrow keys choose a point`,
    keydown: (event) => {
      const next = neighbour(points, at, chosen, event.key);
      if (next !== null) {
        event.preventDefault();
        choose(next);
      }
    },
  });

  const box = el("div", {},
    el("div", { class: "tools" },
      choice("Show", options.map((o) => [o, o]), what, (value) => {
        what = value;
        remember(`${place} measure`, value);
        draw();
      }),
      flat ? el("button", { type: "button", "aria-pressed": "false", click: (event) => toggle(event.currentTarget) }, "3-D view") : null,
      flat ? el("button", { type: "button", "aria-pressed": String(basins), click: (event) => mark(event.currentTarget) }, "Basins") : null),
    el("p", { class: "faint" }, `Move over it to read the numbers; click a point, or choose one with the arrow keys, `
      + `for the command that exports it.`),
    el("div", { class: "panels" }, el("div", {}, stage, bar, relief), panel),
    listed,
    folded(`Table of the ${at.length} points`, () => pointTable(connection, points, at), "points"));

  function mark(button) {
    basins = !basins;
    remember("basins", basins);
    button.setAttribute("aria-pressed", String(basins));
    draw();
  }

  function toggle(button) {
    if (surface) {
      surface.stop();
      surface = null;
      replace(relief);
    } else {
      surface = reliefOf(view);
      replace(relief, surface.box);
      surface.redraw();
    }
    button.setAttribute("aria-pressed", String(surface !== null));
  }

  describe();
  draw();
  return box;
}

function parametersOf(points) {
  if (points.parameters) return points.parameters;
  return points.axes.reduce((found, axis) => found.flatMap((head) => axis.map((x) => [...head, x])), [[]]);
}

function endName(points, at, names) {
  const i = points.ends.findIndex((end) => end.every((x, k) => Math.abs(x - at[k]) < 1e-9));
  return i < 0 ? null : (names[i] ?? null);
}

function exportCommand(node) {
  return `mgraph export ${node} -o ${node}.safetensors --graph ${DATA.beside}`;
}

function mergeCommand(connection, at) {
  return `mgraph merge ${connection} --at ${at.map((x) => String(x)).join(",")} --graph ${DATA.beside}`;
}

// The point that an arrow key leads to; u runs upwards and v to the right, as in the pictures.
function neighbour(points, at, chosen, key) {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
  if (key === "Home") return 0;
  if (key === "End") return at.length - 1;
  if (!(key in steps)) return null;
  const [up, right] = points.page ? steps[key].toReversed() : steps[key];
  if (points.shape === "surface") {
    const [us, vs] = points.axes.map((axis) => axis.length);
    const u = Math.floor(chosen / vs) + up, v = (chosen % vs) + right;
    return u < 0 || v < 0 || u >= us || v >= vs ? chosen : u * vs + v;
  }
  if (points.shape === "simplex" && points.ends.length === 3) {
    const here = corner(at[chosen]);
    let best = chosen, least = Infinity;
    at.forEach((point, i) => {
      const there = corner(point), dx = there[0] - here[0], dy = there[1] - here[1];
      const along = right ? dx * right : dy * up, across = right ? dy : dx;
      if (along > 1e-9 && Math.abs(across) <= along * 1.8 && along + 2 * Math.abs(across) < least) {
        least = along + 2 * Math.abs(across);
        best = i;
      }
    });
    return best;
  }
  const next = chosen + (up || right);
  return next in at ? next : chosen;
}

// Barycentric coordinates in an equilateral triangle.
function corner(at) {
  return [at[1] + at[2] / 2, at[2] * Math.sqrt(0.75)];
}

// Where a parameter lies in the picture: u upwards and v to the right, but on a plane u to the right and v upwards.
function placeOf({ shape, page }, at) {
  if (shape === "simplex") return corner(at);
  const along = ([low, high], share) => low + share * (high - low);
  return page ? [along(page.x, at[0]), along(page.y, at[1])] : [at[1], at[0]];
}

function placesOf({ points, at }) {
  return at.map((p) => placeOf(points, p));
}

// The cell of each point, in the coordinates of its place.
function cellsOf({ points, at }) {
  if (points.shape === "simplex") {
    const steps = Math.round(-1.5 + Math.sqrt(0.25 + 2 * at.length)) || 1;
    const radius = 1 / steps / Math.sqrt(3);
    return placesOf({ points, at }).map(([x, y]) => Array.from({ length: 6 }, (_, k) => {
      const angle = Math.PI / 6 + (k * Math.PI) / 3;
      return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
    }));
  }
  const [us, vs] = points.axes.map(borders);
  const count = points.axes[1].length;
  return at.map((_, i) => {
    const u = Math.floor(i / count), v = i % count;
    return [[u, v], [u, v + 1], [u + 1, v + 1], [u + 1, v]].map(([k, l]) => placeOf(points, [us[k], vs[l]]));
  });
}

function borders(axis) {
  if (axis.length === 1) return [axis[0] - 0.5, axis[0] + 0.5];
  const middles = axis.slice(1).map((x, i) => (x + axis[i]) / 2);
  return [2 * axis[0] - middles[0], ...middles, 2 * axis.at(-1) - middles.at(-1)];
}

const MARKS = "▼ lowest point of a basin, × saddle at which it joins a deeper one, ◆ best on validation data, ○ the chosen point.";
const CROSS = "path://M2,0L5,3L8,0L10,2L7,5L10,8L8,10L5,7L2,10L0,8L3,5L0,2Z";

function basinsOf(points, key) {
  return points.basins?.[key] ?? null;
}

function basinsSaid({ rows }) {
  const saddles = rows.filter(([, saddle]) => saddle >= 0).length;
  return `${rows.length} basin${rows.length === 1 ? "" : "s"} and ${saddles} saddle${saddles === 1 ? "" : "s"}`;
}

// Every basin, deepest first: its lowest point, its saddle, and the basin that it joins there; a button chooses a point.
function basinTable(connection, { points, at, names, measure, choose }, { rows, left }) {
  const values = points.values[measure()];
  const said = (i) => endName(points, at[i], names) ?? parameter(at[i]);
  const button = (i) => (i < 0 ? "–" : el("button", { type: "button", click: () => choose(i) }, said(i)));
  const list = rows.map(([basin, saddle, joins, depth]) => ({ basin, saddle, joins, depth }));
  return el("div", {}, table({
    id: `basins-${connection.id}`,
    label: `Basins of the ${measure()}, deepest first; the depth is from the lowest point to the saddle`,
    columns: [
      { key: "basin", label: "basin", value: (r) => said(r.basin), cell: (r) => button(r.basin) },
      { key: "value", label: "value", number: true, value: (r) => values[r.basin] },
      { key: "saddle", label: "saddle", value: (r) => (r.saddle < 0 ? null : parameter(at[r.saddle])), cell: (r) => button(r.saddle) },
      { key: "at", label: "value there", number: true, value: (r) => (r.saddle < 0 ? null : values[r.saddle]) },
      { key: "depth", label: "depth", number: true },
      { key: "joins", label: "joins", value: (r) => (r.joins < 0 ? null : said(r.joins)) },
    ],
    rows: list,
    filter: false,
  }), left ? el("p", { class: "faint" }, `${left} more ${left === 1 ? "is" : "are"} left out: shallower than 1 % of the range of the values, or beyond the deepest 30.`) : null);
}

function numbersAt({ points, at }, i) {
  return Object.entries(points.values).map(([key, values]) => [key, shown(values[i])]);
}

function heatMap(view) {
  const { points, at, names } = view;
  const key = view.measure();
  const values = points.values[key];
  const scale = scaleOf(values, view.metricOf(key.slice(key.indexOf(" ") + 1)).better);
  const cells = cellsOf(view), places = placesOf(view);
  const all = cells.flat(), xs = extent(all.map((p) => p[0])), ys = extent(all.map((p) => p[1]));
  const simplex = points.shape === "simplex";
  const ends = points.ends.map((end, i) => ({ place: placeOf(points, end), name: names[i] ?? "" }));
  const found = view.basins()?.rows ?? [];
  const lowest = found.map(([basin]) => ({ value: places[basin], name: "lowest of a basin" }));
  const saddles = found.filter(([, saddle]) => saddle >= 0);
  const best = points.best === null ? [] : [{ value: places[points.best], name: "best on validation data" }];
  const pointOf = (series, i) => ({ best: points.best, basins: found[i]?.[0], saddles: saddles[i]?.[1] })[series] ?? i;
  const margin = { left: 52, right: 10, top: 8, bottom: 40 };
  const range = extent(values), shape = Math.min(1.6, Math.max(0.4, (ys[1] - ys[0]) / (xs[1] - xs[0])));
  const label = `Heat map of the ${key}${range ? `, from ${short(range[0])} to ${short(range[1])}` : ""}`;
  return chartOf({
    label,
    square: true,
    height: (width) => (Math.min(width, 544) - margin.left - margin.right) * shape + margin.top + margin.bottom,
    ready: (chart) => chart.on("click", ({ seriesId, dataIndex }) => view.choose(pointOf(seriesId, dataIndex))),
    option: () => ({
      grid: margin,
      tooltip: tooltip(({ seriesId, dataIndex, name }) => {
        const i = pointOf(seriesId, dataIndex);
        return tip(`${parameter(at[i])}${seriesId === "cells" ? "" : ` (${name})`}`, numbersAt(view, i));
      }),
      xAxis: axis("value", simplex ? "" : (points.page?.unit ?? "v"), { min: xs[0], max: xs[1], nameGap: 24, show: !simplex, splitLine: { show: false }, axisLabel: { showMinLabel: false, showMaxLabel: false, formatter: short } }),
      yAxis: axis("value", simplex ? "" : (points.page?.unit ?? "u"), { min: ys[0], max: ys[1], nameGap: 34, show: !simplex, splitLine: { show: false }, axisLabel: { showMinLabel: false, showMaxLabel: false } }),
      series: [
        {
          id: "cells",
          type: "custom",
          data: places,
          clip: true,
          renderItem: (_, api) => {
            const i = api.value(0) === undefined ? 0 : _.dataIndex;
            const colour = scale.colour(values[i]);
            return {
              type: "polygon",
              shape: { points: cells[i].map((point) => api.coord(point)) },
              style: { fill: colour, stroke: colour, lineWidth: 1 },
              emphasis: { style: { stroke: css("--ink"), lineWidth: 2 } },
            };
          },
        },
        marker("ends", ends.map(({ place, name }) => ({ value: place, name })), {
          symbol: "circle",
          symbolSize: 10,
          silent: true,
          label: {
            show: true,
            formatter: ({ name }) => cut(name, 14),
            color: "#fff",
            fontWeight: "bold",
            textBorderColor: "#000",
            textBorderWidth: 3,
          },
          data: ends.map(({ place, name }) => ({ value: place, name, label: { position: towards(place, xs, ys), distance: 7 } })),
        }),
        marker("basins", lowest, { symbol: "triangle", symbolRotate: 180, symbolSize: [12, 10] }),
        marker("saddles", saddles.map(([, saddle]) => ({ value: places[saddle], name: "saddle" })), { symbol: CROSS, symbolSize: 11 }),
        marker("best", best, { symbol: "diamond", symbolSize: 13 }),
        marker("chosen", [{ value: places[view.chosen()], name: "the chosen point" }], {
          symbol: "circle", symbolSize: 17, silent: true, itemStyle: { color: "transparent", borderColor: "#fff", borderWidth: 2, shadowColor: "#000", shadowBlur: 3 },
        }),
      ],
    }),
  });
}

function marker(id, data, more) {
  return { id, type: "scatter", data, z: 5, itemStyle: { color: "#fff", borderColor: "#000", borderWidth: 1.2 }, ...more };
}

// Where the name of an end stands: inside the picture.
function towards([x, y], xs, ys) {
  const right = (x - xs[0]) / (xs[1] - xs[0]), up = (y - ys[0]) / (ys[1] - ys[0]);
  if (right > 0.3 && right < 0.7) return up > 0.5 ? "bottom" : "top";
  return right < 0.5 ? "right" : "left";
}

function curve(view) {
  const { points, at, names } = view;
  const metric = view.metricOf(view.measure());
  const t = at.map((p) => p[0]);
  const lines = SPLITS.concat(Object.keys(points.values).map((key) => key.split(" ")[0]).filter((s) => !SPLITS.includes(s)))
    .filter((split, i, some) => some.indexOf(split) === i && points.values[`${split} ${metric.name}`]);
  const log = metric.better !== "higher" && spansDecades(lines.flatMap((split) => points.values[`${split} ${metric.name}`]));
  const known = lines.flatMap((split) => points.values[`${split} ${metric.name}`]).filter(finite);
  const vertical = (x, dash, colour) => ({ xAxis: x, lineStyle: { color: colour, type: dash, width: 1 } });
  const ranges = lines.map((s) => [s, extent(points.values[`${s} ${metric.name}`])]).filter(([, range]) => range);
  const label = `Curve of the ${metric.name} along t; ${ranges.map(([s, r]) => `${s} from ${short(r[0])} to ${short(r[1])}`).join("; ")}`;
  const nearest = (x) => t.reduce((best, here, i) => (Math.abs(here - x) < Math.abs(t[best] - x) ? i : best), 0);
  const edges = points.ends.map((end) => end[0]);
  return chartOf({
    label,
    height: (width) => Math.min(360, Math.max(240, width * 0.6)),
    ready: (chart) => chart.getZr().on("click", (event) => {
      const [x] = chart.convertFromPixel({ gridIndex: 0 }, [event.offsetX, event.offsetY]) ?? [];
      if (finite(x)) view.choose(nearest(x));
    }),
    option: () => ({
      grid: { left: 62, right: 16, top: 34, bottom: 44 },
      legend: { top: 2, textStyle: { color: css("--ink") }, data: lines },
      tooltip: tooltip((shown) => {
        const i = shown[0]?.dataIndex ?? 0;
        return tip(parameter(at[i]), numbersAt(view, i));
      }, "axis"),
      xAxis: axis("value", `t   (${cut(names[0] ?? "", 16)} at ${short(edges[0])}, ${cut(names[1] ?? "", 16)} at ${short(edges.at(-1))})`, { min: t[0], max: t.at(-1), nameGap: 26 }),
      yAxis: axis(log ? "log" : "value", `${metric.name}${metric.unit ? ` (${metric.unit})` : ""}`, { nameGap: 44, ...(known.length ? bounds(known, log) : {}), axisLabel: { formatter: short } }),
      series: lines.map((split, i) => ({
        id: split,
        name: split,
        type: "line",
        showSymbol: at.length <= 30,
        symbolSize: 5,
        data: points.values[`${split} ${metric.name}`].map((value, k) => [t[k], finite(value) ? value : null]),
        lineStyle: { color: splitColour(split), type: DASHES[split] ?? "solid", width: 2 },
        itemStyle: { color: splitColour(split) },
        markLine: i > 0 ? undefined : {
          symbol: "none",
          silent: true,
          label: { show: false },
          data: [...points.marks.map((x) => vertical(x, "dashed", css("--faint"))), vertical(t[view.chosen()], "solid", css("--ink"))],
        },
      })),
    }),
  });
}

function pointTable(connection, points, at) {
  const rows = at.map((p, i) => ({ i, at: p, node: points.nodes[i] }));
  const columns = [
    ...at[0].map((_, k) => ({
      key: at[0].length === 1 ? "t" : at[0].length === 2 ? "uv"[k] : `p${k}`,
      label: at[0].length === 1 ? "t" : at[0].length === 2 ? "uv"[k] : `p${k}`,
      number: true,
      value: (row) => row.at[k],
      cell: (row) => short(row.at[k]),
    })),
    ...Object.entries(points.values).map(([key, values]) => ({
      key: key.replaceAll(" ", "_"), label: key, number: true, value: (row) => values[row.i], cell: (row) => shown(values[row.i]),
    })),
    { key: "node", label: "node", class: "id" },
  ];
  return table({ id: `points-${connection.id}`, label: `Points of ${connection.name ?? connection.id}`, columns, rows });
}
