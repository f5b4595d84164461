// Charts: drawn when they first have a size, again when the window or the reader's colours change.

const _charts = new Set();
const _dark = matchMedia("(prefers-color-scheme: dark)");
_dark.addEventListener("change", () => _charts.forEach((chart) => chart.redraw()));

// `option(width)` returns what ECharts draws; `height(width)` its height. Returns { box, redraw, chart() }.
function chartOf({ label, option, height, ready = () => {}, square = false }) {
  const canvas = el("div", { class: square ? "chart square" : "chart", role: "img", "aria-label": label });
  let chart = null;
  const handle = { box: canvas, redraw: draw, chart: () => chart };

  function draw() {
    const width = canvas.clientWidth;
    if (!width) return;
    canvas.style.height = `${height(width)}px`;
    if (chart === null) {
      chart = echarts.init(canvas, null, { renderer: "canvas" });
      ready(chart);
    } else {
      chart.resize();
    }
    chart.setOption({ ...basics(), ...option(width) }, { notMerge: true });
  }

  let last = 0;
  const watcher = new ResizeObserver(() => {
    if (canvas.clientWidth !== last) {
      last = canvas.clientWidth;
      draw();
    }
  });
  watcher.observe(canvas);
  handle.dispose = () => {
    watcher.disconnect();
    chart?.dispose();
    _charts.delete(handle);
  };
  _charts.add(handle);
  return handle;
}

function disposeCharts() {
  [..._charts].forEach((chart) => chart.dispose());
}

function basics() {
  return {
    animation: false,
    backgroundColor: "transparent",
    textStyle: { color: css("--ink"), fontFamily: "system-ui, sans-serif", fontSize: 12 },
  };
}

function axis(type, name, more = {}) {
  const ink = css("--ink"), line = css("--line");
  return {
    type,
    name,
    nameLocation: "middle",
    nameTextStyle: { color: ink },
    axisLine: { lineStyle: { color: css("--faint") } },
    axisLabel: { color: ink, hideOverlap: true, ...(more.axisLabel ?? {}) },
    splitLine: { lineStyle: { color: line } },
    axisTick: { lineStyle: { color: css("--faint") } },
    ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "axisLabel")),
  };
}

// A tooltip whose content is an element: whatever text it holds is text.
function tooltip(formatter, trigger = "item") {
  return {
    trigger,
    confine: true,
    transitionDuration: 0,
    backgroundColor: css("--paper"),
    borderColor: css("--faint"),
    textStyle: { color: css("--ink") },
    axisPointer: { type: "line", lineStyle: { color: css("--faint") } },
    formatter,
  };
}

function tip(title, rows) {
  return el("div", { class: "tip" }, el("strong", {}, title), el("table", {}, el("tbody", {}, rows.map(
    ([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, value))))));
}

// A name that is too long loses its middle, because names of a series differ at their ends.
function cut(text, most) {
  const letters = [...text], tail = Math.floor((most - 1) / 2);
  if (letters.length <= most) return text;
  return `${letters.slice(0, most - 1 - tail).join("")}…${letters.slice(-tail).join("")}`;
}
