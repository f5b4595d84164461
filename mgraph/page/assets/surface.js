// The surface in three dimensions, on demand: quads or triangles, drawn from the farthest to the nearest.

function reliefOf(view) {
  const canvas = el("canvas", {
    class: "relief",
    tabindex: 0,
    role: "application",
    "aria-label": "The same values as heights over the plane; arrow keys turn it. The chosen point is marked.",
  });
  let yaw = recall("yaw", -0.7), pitch = recall("pitch", 0.9), held = null, moved = false;
  const places = placesOf(view), faces = facesOf(view);
  const spans = [0, 1].map((k) => extent(places.map((p) => p[k])));
  const ground = places.map((p) => p.map((x, k) => (x - spans[k][0]) / (spans[k][1] - spans[k][0] || 1) - 0.5));
  let projected = [];

  function heights() {
    const key = view.measure();
    const values = view.points.values[key];
    const scale = scaleOf(values, view.metricOf(key.slice(key.indexOf(" ") + 1)).better);
    return { key, values, scale, up: values.map((value) => (scale.share(value) ?? 0) * 0.62 - 0.31) };
  }

  function project([x, y], z, size) {
    const across = x * Math.cos(yaw) - y * Math.sin(yaw), away = x * Math.sin(yaw) + y * Math.cos(yaw);
    const flat = away * Math.sin(pitch) * 0.9 - z * Math.cos(pitch) * 0.9;
    const depth = away * Math.cos(pitch) + z * Math.sin(pitch);
    return [size.w / 2 + across * size.unit, size.h * 0.5 + flat * size.unit, -depth];
  }

  function redraw() {
    const width = canvas.clientWidth || 320, height = Math.round(width * 0.72), dots = devicePixelRatio || 1;
    canvas.width = width * dots;
    canvas.height = height * dots;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    const size = { w: width, h: height, unit: width * 0.62 };
    const { values, scale, up } = heights();
    projected = ground.map((p, i) => project([p[0], -p[1]], up[i], size));
    const order = faces.map((face) => [face.reduce((sum, i) => sum + projected[i][2], 0) / face.length, face]);
    order.sort((one, other) => one[0] - other[0]);
    pen.lineJoin = "round";
    pen.lineWidth = 0.7;
    pen.strokeStyle = _dark.matches ? "rgba(255,255,255,0.35)" : "rgba(0,0,0,0.35)";
    for (const [, face] of order) {
      if (!face.every((i) => finite(values[i]))) continue;
      pen.beginPath();
      face.forEach((i, k) => (k ? pen.lineTo(projected[i][0], projected[i][1]) : pen.moveTo(projected[i][0], projected[i][1])));
      pen.closePath();
      pen.fillStyle = faceColour(face, values, scale);
      pen.fill();
      pen.stroke();
    }
    name(pen, size, up);
    const [x, y] = projected[view.chosen()];
    pen.beginPath();
    pen.arc(x, y, 6, 0, 7);
    pen.lineWidth = 4;
    pen.strokeStyle = "#000";
    pen.stroke();
    pen.lineWidth = 2;
    pen.strokeStyle = "#fff";
    pen.stroke();
  }

  function name(pen, size, up) {
    pen.font = "bold 12px system-ui, sans-serif";
    pen.textAlign = "center";
    view.points.ends.forEach((end, k) => {
      const i = view.at.findIndex((p) => p.every((x, n) => Math.abs(x - end[n]) < 1e-9));
      if (i < 0) return;
      const [x, y] = projected[i];
      pen.lineWidth = 3;
      pen.strokeStyle = css("--paper");
      pen.fillStyle = css("--ink");
      const text = cut(view.names[k] ?? "", 14), left = Math.min(size.w - 24, Math.max(24, x));
      const high = Math.min(size.h - 6, y + (y > size.h / 2 ? 18 : -10));
      pen.strokeText(text, left, high);
      pen.fillText(text, left, high);
    });
  }

  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    moved = false;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const dx = event.clientX - held[0], dy = event.clientY - held[1];
    moved ||= Math.abs(dx) + Math.abs(dy) > 3;
    held = [event.clientX, event.clientY];
    turn(dx / 120, dy / 120);
  });
  canvas.addEventListener("pointerup", (event) => {
    held = null;
    if (moved) return;
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const far = projected.map((p) => Math.hypot(p[0] - x, p[1] - y));
    view.choose(far.indexOf(Math.min(...far)));
  });
  canvas.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!turns) return;
    event.preventDefault();
    turn(...turns);
  });

  function turn(dyaw, dpitch) {
    yaw += dyaw;
    pitch = Math.min(1.5, Math.max(0.1, pitch + dpitch));
    remember("yaw", yaw);
    remember("pitch", pitch);
    redraw();
  }

  const watcher = new ResizeObserver(redraw);
  watcher.observe(canvas);
  _dark.addEventListener("change", redraw);
  const stop = () => {
    watcher.disconnect();
    _dark.removeEventListener("change", redraw);
  };
  const hint = el("p", { class: "faint" }, "Drag it, or use the arrow keys, to turn it; click it to choose a point.");
  return { box: el("div", {}, canvas, hint), redraw, stop };
}

function faceColour(face, values, scale) {
  const mean = face.reduce((sum, i) => sum + scale.share(values[i]), 0) / face.length;
  return viridis(scale.turned ? 1 - mean : mean);
}

// Quads between the points of a grid, triangles between those of a simplex.
function facesOf({ points, at }) {
  if (points.shape === "surface") {
    const [us, vs] = points.axes.map((axis) => axis.length);
    const found = [];
    for (let u = 0; u + 1 < us; u += 1) {
      for (let v = 0; v + 1 < vs; v += 1) {
        const i = u * vs + v;
        found.push([i, i + 1, i + vs + 1, i + vs]);
      }
    }
    return found;
  }
  const steps = Math.round(-1.5 + Math.sqrt(0.25 + 2 * at.length)) || 1;
  const key = (a, b) => `${a} ${b}`;
  const index = new Map(at.map((p, i) => [key(Math.round(p[1] * steps), Math.round(p[2] * steps)), i]));
  const found = [];
  at.forEach((p) => {
    const a = Math.round(p[1] * steps), b = Math.round(p[2] * steps);
    for (const three of [[[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 1], [0, 1]]]) {
      const face = three.map(([da, db]) => index.get(key(a + da, b + db)));
      if (face.every((i) => i !== undefined)) found.push(face);
    }
  });
  return found;
}
