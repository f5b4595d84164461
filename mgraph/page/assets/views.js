// The views of the page, each by its hash: #graph, #nodes, #node/ID, #connections, #connection/ID, #runs, #run/ID, #provenance.

const NODES = new Map(DATA.nodes.map((node) => [node.id, node]));
const CONNECTIONS = new Map(DATA.connections.map((connection) => [connection.id, connection]));
const RUNS = new Map(DATA.runs.rows.map((run) => [run.id, run]));

function nameOf(id) {
  const found = NODES.get(id) ?? CONNECTIONS.get(id);
  return found?.name ?? id;
}

function numberColumns(node) {
  return Object.keys(node).filter((key) => /^(train|valid|test)_/.test(key) && node[key] !== null);
}

const VIEWS = {
  graph: { title: "Graph", show: graphView },
  nodes: { title: "Nodes", show: nodesView },
  connections: { title: "Connections", show: connectionsView },
  runs: { title: "Runs", show: runsView },
  provenance: { title: "Provenance", show: provenanceView },
};
const SINGLE = {
  node: { of: "nodes", all: NODES, show: nodeView },
  connection: { of: "connections", all: CONNECTIONS, show: connectionView },
  run: { of: "runs", all: RUNS, show: runView },
};

function graphView() {
  const counts = [[DATA.nodes.filter((n) => n.kind === "mode").length, "mode"], [DATA.nodes.filter((n) => n.kind === "merged").length, "merged node"], [DATA.connections.length, "connection"], [DATA.spaces.length, "space"], [DATA.runs.rows.length, "run"]];
  const said = counts.filter(([count, what]) => count || what !== "merged node").map(([count, what]) => `${count} ${what}${count === 1 ? "" : "s"}`).join(", ");
  const views = DATA.under_way.length ? [el("h2", {}, "Under way"), DATA.under_way.map(runningBox)] : [];
  if (!DATA.nodes.length) return [el("p", {}, `${said}. Nothing to draw yet: add modes with mgraph train or mgraph add-mode.`), views];
  const box = el("div"), trees = el("div");
  let quantity = recall("quantity", "peak");
  const fill = () => {
    replace(box, network(quantity === "drop" ? "barrier" : quantity));
    const found = DATA.structures.filter((one) => one.quantity === quantity);
    replace(trees, found.map((one) => [
      el("h2", {}, DATA.spaces.length > 1 ? `Space ${one.space}` : "How the modes are connected"),
      one.left_out
        ? el("p", {}, `With ${one.modes} modes there is no room for a tree and a matrix here: mgraph dendrogram and mgraph matrix print them.`)
        : [one.notes.map((note) => el("p", { class: "faint" }, `Note: ${note}`)), el("div", { class: "panels" }, el("section", { "aria-label": "Tree of merges" }, dendrogram(one)), el("section", { "aria-label": "Matrix" }, matrix(one)))],
    ]));
    if (!found.length) replace(trees, el("p", { class: "faint" }, "No edge was measured yet: mgraph sweep measures a connection."));
  };
  fill();
  return [
    el("p", {}, `${said}.`), views,
    el("div", { class: "tools" }, choice("Compare edges by", QUANTITIES, quantity, (value) => {
      quantity = value;
      remember("quantity", value);
      disposeCharts();
      fill();
    })),
    box, trees,
  ];
}

function progressOf({ headway: h }) {
  if (!h) return "nothing reported yet";
  const left = h.seconds_left !== null ? `, about ${spoken(h.seconds_left)} left of this phase` : "";
  const loss = h.loss !== null ? `, loss ${short(h.loss)}` : "";
  return `${h.phase} ${h.done} of ${h.total}${loss}${left}`;
}

function runningBox(run) {
  const h = run.headway;
  const name = run.name ? ` ${run.name}` : "";
  const losses = h ? h.losses.filter((entry) => finite(entry[2])) : [];
  const phases = [...new Set(losses.map((entry) => entry[0]))];
  return el("section", { class: "running", "aria-label": `Run ${run.id}` },
    el("p", {}, el("strong", {}, `${run.command}${name}`), " ", to("run", run.id, run.id), `: ${progressOf(run)}; under way for ${spoken(run.seconds)}`),
    run.reason ? el("p", { class: "faint" }, run.reason) : null,
    h ? el("progress", { max: Math.max(1, h.total), value: h.done, "aria-label": `${h.done} of ${h.total}` }) : null,
    losses.length > 2 ? lineChart(`Losses of run ${run.id} so far`, "steps of the phase", phases.map((phase) => ({ name: phase, points: losses.filter((e) => e[0] === phase).map((e) => [e[1], e[2]]) }))).box : null,
    losses.length > 2 ? folded("Table of its losses so far", () => table({
      id: `losses-${run.id}`,
      label: `Losses of run ${run.id} so far`,
      columns: [{ key: "phase", label: "phase" }, { key: "step", label: "step", number: true }, { key: "loss", label: "loss", number: true }],
      rows: losses.map(([phase, step, loss]) => ({ phase, step, loss })),
    }), `losses ${run.id}`) : null);
}

function lineChart(label, name, lines, mayBeLog = true) {
  const values = lines.flatMap((line) => line.points.map((p) => p[1])).filter(finite);
  const log = mayBeLog && spansDecades(values);
  return chartOf({
    label,
    height: () => 200,
    option: () => ({
      grid: { left: 62, right: 14, top: lines.length > 1 ? 30 : 10, bottom: 42 },
      legend: lines.length > 1 ? { textStyle: { color: css("--ink") } } : undefined,
      tooltip: tooltip((found) => tip(`${name} ${short(found[0]?.value[0])}`, found.map((one) => [one.seriesName, shown(one.value[1])])), "axis"),
      xAxis: axis("value", name, { nameGap: 26, max: "dataMax" }),
      yAxis: axis(log ? "log" : "value", "", { ...(values.length ? bounds(values, log) : {}), axisLabel: { formatter: short } }),
      series: lines.map((line) => ({ name: line.name, type: "line", data: line.points.filter((p) => finite(p[1])), showSymbol: line.points.length < 3, lineStyle: { width: 2 } })),
    }),
  });
}

function nodesView() {
  const metrics = [...new Set(DATA.nodes.flatMap(numberColumns))];
  const usual = DATA.node_columns.filter((key) => metrics.includes(key));
  return [table({
    id: "nodes",
    label: "Modes and merged nodes",
    filter: true,
    columns: [
      { key: "name", label: "name", value: (r) => r.name ?? r.id, cell: (r) => to("node", r.id, r.name ?? r.id) },
      { key: "kind", label: "kind" },
      ...(DATA.spaces.length > 1 ? [{ key: "space", label: "space" }] : []),
      ...[...usual, ...metrics.filter((key) => !usual.includes(key))].map((key) => ({ key, label: key.replaceAll("_", " "), number: true })),
      { key: "seed", label: "seed", number: true },
      { key: "tags", label: "tags" },
      { key: "created", label: "created (UTC)", class: "when", cell: (r) => moment(r.created) },
      { key: "id", label: "id", class: "id" },
    ],
    rows: DATA.nodes,
    empty: "No nodes yet; add one with mgraph train or mgraph add-mode.",
  })];
}

function connectionsView() {
  const out = new Set(DATA.left_out);
  return [
    out.size ? el("p", {}, `To keep the page small, the points of ${out.size} connections are left out; their numbers are here, and mgraph plot draws them.`) : null,
    table({
      id: "connections",
      label: "Connections; peak, barrier and drop are those of the worst pair of ends, on the train loss",
      filter: true,
      columns: [
        { key: "name", label: "name", value: (r) => r.name ?? r.id, cell: (r) => to("connection", r.id, r.name ?? r.id) },
        { key: "kind", label: "method" },
        { key: "ends", label: "ends" },
        { key: "status", label: "status", cell: (r) => (r.status === "complete" ? r.status : el("span", { class: "bad" }, r.status)) },
        { key: "peak", label: "peak", number: true },
        { key: "barrier", label: "barrier", number: true },
        { key: "drop", label: "drop", number: true },
        { key: "length", label: "length", number: true },
        { key: "tags", label: "tags" },
        { key: "created", label: "created (UTC)", class: "when", cell: (r) => moment(r.created) },
        { key: "id", label: "id", class: "id" },
      ],
      rows: DATA.connections,
      empty: "No connections yet.",
    }),
  ];
}

function labelsOf(row) {
  const notes = Object.entries(row.notes ?? {}).map(([key, value]) => `${key}: ${value}`);
  return [["tags", row.tags?.length ? row.tags.join(", ") : null], ["notes", notes.length ? notes.join("; ") : null]];
}

function runLink(id) {
  return id && RUNS.has(id) ? to("run", id, `${RUNS.get(id).command} ${id}`) : id;
}

function connectionView(connection) {
  const detail = DATA.connection_details[connection.id] ?? { ends: [], edges: [], sweeps: [] };
  const names = detail.ends.map(nameOf);
  const column = Object.fromEntries(DATA.edge_columns.map((name, i) => [name, i]));
  const edges = detail.edges.map((edge) => Object.fromEntries(Object.entries(column).map(([name, i]) => [name, edge[i]])));
  const parts = [facts([
    ["method", connection.kind],
    ["ends", detail.ends.flatMap((id, i) => [i ? ", " : "", NODES.has(id) ? to("node", id, nameOf(id)) : nameOf(id)])],
    ["status", connection.status],
    ["reason", detail.reason],
    ["family", detail.family ? [detail.family.family, ...telling(detail.family, ["family"]).map(([key, value]) => `${key.replaceAll("_", " ")} ${shown(value)}`)].join(", ") : null],
    ["control points", detail.control_points],
    ["space", connection.space],
    ["run", runLink(detail.run)],
    ["created", `${moment(connection.created)} UTC`],
    ...labelsOf(connection),
    ["id", el("code", {}, connection.id)],
  ])];
  if (detail.damaged) parts.push(el("p", { class: "bad" }, `It cannot be read: ${detail.damaged}`));
  parts.push(el("h2", {}, "Along it"));
  if (detail.points) parts.push(explorer(connection, detail.points, names));
  else if (detail.left_out) parts.push(el("p", {}, "Its points are left out to keep the page small; draw them with"), command(`mgraph plot ${connection.id} -o ${connection.id}.png --graph ${DATA.beside}`, "Draw it:"));
  else parts.push(el("p", {}, "It has not been swept yet; measure it with"), command(`mgraph sweep ${connection.id} --graph ${DATA.beside}`, "Measure it:"));
  if (detail.summary?.length) {
    const keys = [...new Set(detail.summary.flatMap(Object.keys))].filter((key) => key !== "split" && key !== "metric");
    parts.push(el("h2", {}, "Over all of it"), table({
      id: `summary-${connection.id}`,
      label: "Statistics of the finest sweep",
      columns: [{ key: "split", label: "split" }, { key: "metric", label: "metric" }, ...keys.map((key) => ({ key, label: key.replaceAll("_", " "), number: true }))],
      rows: detail.summary,
      filter: false,
    }));
  }
  if (edges.length) {
    parts.push(el("h2", {}, "Edges"), table({
      id: `edges-${connection.id}`,
      label: "How well each pair of its ends is connected, by the finest sweep",
      columns: [
        { key: "source", label: "from", value: (r) => names[r.source] ?? r.source },
        { key: "target", label: "to", value: (r) => names[r.target] ?? r.target },
        { key: "split", label: "split" },
        { key: "metric", label: "cost" },
        ...["peak", "barrier", "drop", "length", "resolution", "examples"].map((key) => ({ key, label: key, number: true })),
        { key: "chosen_on", label: "route chosen on" },
        ...(edges.some((r) => r.doubt) ? [{ key: "doubt", label: "doubt" }] : []),
      ],
      rows: edges,
      filter: edges.length > 8,
      atOnce: 12,
    }));
  }
  parts.push(el("h2", {}, "Sweeps"), table({
    id: `sweeps-${connection.id}`,
    label: "Its complete sweeps; the finest one is shown",
    columns: [{ key: "id", label: "id", class: "id" }, { key: "grid", label: "grid", value: (r) => r.grid.join("×"), cell: (r) => r.grid.join("×") }, { key: "batchnorm", label: "BatchNorm" }, { key: "precision", label: "precision" }, { key: "created", label: "when (UTC)", class: "when", cell: (r) => moment(r.created) }],
    rows: detail.sweeps,
    filter: false,
    empty: "It has not been swept.",
  }));
  if (detail.settings) parts.push(el("h2", {}, "Settings"), settingsOf(detail.settings));
  return parts;
}

const HISTORY = { train_loss: "train loss", train_accuracy: "train accuracy", learning_rate: "learning rate", distance: "distance from the start" };

function nodeView(node) {
  const detail = DATA.node_details[node.id] ?? { evaluations: [], measures: [], history: [] };
  const joined = DATA.connections.filter((c) => DATA.connection_details[c.id]?.ends.includes(node.id));
  const parts = [facts([
    ["kind", node.kind],
    ["space", node.space],
    ["seed", node.seed],
    ["chosen on", detail.selected_on],
    ["run", runLink(node.run_id)],
    ["connections", joined.length ? joined.flatMap((c, i) => [i ? ", " : "", to("connection", c.id, nameOf(c.id))]) : null],
    ["created", `${moment(node.created)} UTC`],
    ["size", `${node.nbytes} bytes`],
    ["digest", detail.digest ? el("code", {}, detail.digest) : null],
    ...labelsOf(node),
    ...telling(detail.info, ["settings"]).map(([key, value]) => [key.replaceAll("_", " "), shown(value)]),
    ["id", el("code", {}, node.id)],
  ]), command(exportCommand(node.id), "Export it:")];
  const number = (key) => ({ key, label: key.replaceAll("_", " "), number: true });
  parts.push(el("h2", {}, "Numbers"), table({ id: `evaluations-${node.id}`, label: "Measured with its own statistics", columns: [{ key: "split", label: "split" }, { key: "metric", label: "metric" }, number("value"), number("standard_error"), number("count")], rows: detail.evaluations, filter: false, empty: "Nothing was measured." }));
  if (detail.measures.length) parts.push(el("h2", {}, "Its surroundings"), table({ id: `measures-${node.id}`, label: "Sharpness and flatness", columns: [{ key: "quantity", label: "quantity" }, number("radius"), { key: "statistic", label: "statistic" }, number("value"), number("standard_error"), number("samples"), { key: "split", label: "split" }], rows: detail.measures, filter: false }));
  const drawn = (detail.history ?? []).filter((series) => series.quantity in HISTORY);
  if (detail.history === null) parts.push(el("p", {}, "Its training is left out to keep the page small: mgraph plot draws it."));
  if (drawn.length) {
    parts.push(el("h2", {}, "Its training"), el("div", { class: "panels" }, drawn.map((series) => el("section", { "aria-label": HISTORY[series.quantity] }, el("p", {}, HISTORY[series.quantity]), lineChart(`${HISTORY[series.quantity]} by step`, "step", [{ name: HISTORY[series.quantity], points: series.at.map((at, i) => [at, series.values[i]]) }], ["train_loss", "learning_rate"].includes(series.quantity)).box))),
      folded("Table of its training", () => table({ id: `history-${node.id}`, label: "Training by step", columns: [{ key: "step", label: "step", number: true }, ...drawn.map((series) => ({ key: series.quantity, label: HISTORY[series.quantity], number: true }))], rows: drawn[0].at.map((step, i) => ({ step, ...Object.fromEntries(drawn.map((series) => [series.quantity, series.values[series.at.indexOf(step)] ?? null])), i })) })));
  }
  if (detail.ancestry === null) parts.push(el("p", {}, "What it was made from is left out to keep the page small; it is printed by"), command(`mgraph show ${node.id} --ancestry --graph ${DATA.beside}`, "Its ancestry:"));
  if (detail.ancestry?.length) parts.push(el("h2", {}, "What it was made from"), el("pre", { tabindex: 0 }, detail.ancestry.join("\n")));
  return parts;
}

function runsView() {
  return [DATA.under_way.map(runningBox), table({
    id: "runs",
    label: "Everything that was run",
    filter: true,
    columns: [
      { key: "command", label: "command", cell: (r) => to("run", r.id, r.command) },
      { key: "name", label: "name" },
      { key: "status", label: "status", cell: (r) => (["complete", "running"].includes(r.status) ? r.status : el("span", { class: "bad" }, r.status)) },
      { key: "seconds", label: "seconds", number: true, cell: (r) => (r.seconds === null ? "–" : numeral(Number(r.seconds.toPrecision(3)))) },
      { key: "started", label: "started (UTC)", class: "when", cell: (r) => moment(r.started) },
      { key: "seed", label: "seed", number: true },
      { key: "device", label: "device" },
      { key: "reason", label: "reason" },
      { key: "id", label: "id", class: "id" },
    ],
    rows: DATA.runs.rows,
    empty: "Nothing was run yet.",
  })];
}

function runView(run) {
  const place = DATA.runs.places[run.place] ?? {};
  const { host, device, runs: _, ...versions } = place;
  return [
    facts([["command", run.command], ["name", run.name], ["status", run.status], ["reason", run.reason], ["started", `${moment(run.started)} UTC`], ["took", run.seconds === null ? null : spoken(run.seconds)], ["seed", run.seed], ["device", run.device], ["threads", run.threads], ["machine", host], ["versions", shown(versions)], ["resumed", run.resumed ? `${run.resumed} times` : null], ["id", el("code", {}, run.id)]]),
    run.resumable ? command(`mgraph resume ${run.id} --graph ${DATA.beside}`, "Continue it:") : null,
    el("h2", {}, "Settings"),
    run.settings
      ? settingsOf(run.settings)
      : [el("p", {}, "Its settings are left out to keep the page small; read them with"), command(`mgraph sql "SELECT settings FROM runs WHERE id = '${run.id}'" --graph ${DATA.beside}`, "Settings:")],
  ];
}

function settingsOf(settings) {
  const rows = Object.entries(settings).map(([key, value]) => ({ key, value: Array.isArray(value) ? value.map((one) => (NODES.has(one) ? nameOf(one) : shown(one))).join(", ") : shown(value) }));
  return table({ id: "settings", label: "Settings, defaults included", columns: [{ key: "key", label: "setting" }, { key: "value", label: "value" }], rows, filter: false, empty: "None." });
}

function provenanceView() {
  const from = DATA.nodes.map((node) => {
    const info = DATA.node_details[node.id]?.info ?? {};
    return { node, origin: info.origin ?? node.kind, facts: telling(info, ["settings", "origin"]).map(([key, value]) => `${key.replaceAll("_", " ")}: ${typeof value === "string" ? nameOf(value) : shown(value)}`).join("; ") };
  });
  return [
    el("h2", {}, "Spaces"),
    DATA.spaces.map((space) => el("section", { "aria-label": `Space ${space.name}` }, el("h3", {}, space.name), facts([
      ["network", el("code", {}, space.arch)], ["data", el("code", {}, space.data)], ["loss", space.loss],
      ["metrics", space.metrics.map((m) => `${m.name} (${m.better ? `${m.better} is better` : "no direction"})`).join(", ")],
      ["parameters", space.parameters], ["tensors", space.tensors], ["modes", space.modes], ["codec", space.codec],
      ["hash of the data", el("code", {}, space.data_hash)], ["hash of the layout", el("code", {}, space.layout_hash)],
      ["code", Object.keys(space.code ?? {}).length ? shown(space.code) : null], ["created", `${moment(space.created)} UTC`], ["id", el("code", {}, space.id)],
    ]))),
    el("h2", {}, "Where it was computed"),
    table({ id: "places", label: "Machines and versions of all runs", columns: [...new Set(DATA.runs.places.flatMap(Object.keys))].map((key) => ({ key, label: key, number: key === "runs" })), rows: DATA.runs.places, filter: false, empty: "Nothing was run yet." }),
    el("h2", {}, "Where its nodes came from"),
    table({ id: "origins", label: "How each node was made; of a file, its hash", columns: [{ key: "node", label: "node", value: (r) => nameOf(r.node.id), cell: (r) => to("node", r.node.id, nameOf(r.node.id)) }, { key: "origin", label: "origin" }, { key: "facts", label: "of what" }, { key: "run", label: "run", value: (r) => r.node.run_id, cell: (r) => runLink(r.node.run_id) ?? "–" }], rows: from, empty: "No nodes yet." }),
    el("h2", {}, "This page"),
    facts([["graph", DATA.graph], ["made", `${moment(DATA.made)} UTC`], ["mgraph", DATA.mgraph], ["ECharts", `${DATA.echarts} (Apache License 2.0), see mgraph/page/echarts`]]),
    el("p", { class: "faint" }, "Numbers are rounded to five significant digits, those of swept points to four. The page requests nothing from anywhere."),
  ];
}
