// From the hash to a view, and reloading while the page is written again.

function address() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // a malformed address, which somebody typed
  }
}

function show(event) {
  const [view, ...rest] = address().split("/");
  const id = rest.join("/");
  disposeCharts();
  document.querySelectorAll("nav a").forEach((link) => {
    const of = SINGLE[view]?.of ?? (view in VIEWS ? view : "graph");
    if (link.getAttribute("href") === `#${of}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  const single = Object.hasOwn(SINGLE, view) ? SINGLE[view] : null;
  const found = single?.all.get(id);
  let title, parts;
  if (single) {
    title = found ? `${view === "run" ? `${found.command} ${id}` : nameOf(id)}` : "Not here";
    parts = found ? single.show(found) : el("p", {}, `There is no ${view} ${id} on this page; it may have been removed.`);
  } else {
    const chosen = Object.hasOwn(VIEWS, view) ? VIEWS[view] : VIEWS.graph;
    title = chosen.title;
    parts = chosen.show();
  }
  const content = document.getElementById("content");
  replace(content, el("h1", {}, title), parts);
  content.dataset.view = address();
  document.title = `${title} – ${DATA.graph} – mgraph report`;
  if (event) {
    content.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function header() {
  const banner = DATA.seconds === null ? null : watching(DATA.seconds);
  add(document.getElementById("header"), [
    el("div", { class: "title" }, el("strong", {}, DATA.graph), el("span", {}, `as of ${moment(DATA.made)} UTC`), banner),
    el("nav", { "aria-label": "Views" }, el("ul", {}, Object.entries(VIEWS).map(([view, { title }]) => el("li", {}, to(view, null, title))))),
  ]);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("content").focus();
  });
  add(document.getElementById("footer"), [`Written by mgraph ${DATA.mgraph}; charts by Apache ECharts ${DATA.echarts}. Commands are to be given in the directory that holds ${DATA.graph}.`]);
}

// The page reloads itself, but not under the reader's hands, and not while it is paused.
function watching(seconds) {
  const said = el("span", { role: "status" });
  const button = el("button", { type: "button", click: () => set(!paused) });
  let paused = recall("paused", false), busy = 0;
  const set = (value) => {
    paused = value;
    remember("paused", value);
    button.textContent = paused ? "Go on reloading" : "Pause";
    said.textContent = paused ? "Reloading is paused." : `Reloads every ${spoken(seconds)}.`;
  };
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => { busy = Date.now(); }, { passive: true });
  set(paused);
  const due = Date.now() + seconds * 1000;
  setInterval(() => {
    const reading = Date.now() - busy < Math.min(3000, seconds * 1000) || document.querySelector("input:focus, select:focus");
    if (paused || reading || Date.now() < due) return;
    const at = document.activeElement, place = reachable().indexOf(at);
    remember("focus", place < 0 ? null : { place, tag: at.tagName, text: at.textContent });
    location.reload();
  }, 250);
  return [said, button];
}

// The elements that the keyboard reaches, in order.
function reachable() {
  return [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")];
}

// What a reader who does not see the page should know of runs under way: when one begins or ends, and else once a minute.
function news() {
  const said = el("p", { role: "status", class: "unseen" });
  document.getElementById("footer").append(said);
  const runs = DATA.under_way.map((run) => run.id).join(" "), before = recall("told", null);
  if (before?.runs === runs && Date.now() - before.when < 60000) return;
  remember("told", { runs, when: Date.now() });
  const ended = before && before.runs && !runs;
  const text = DATA.under_way.map((run) => `${run.command} ${run.name ?? ""}: ${progressOf(run)}`).join("; ");
  // A moment later: a region is read out when it changes, not as it was when the page was loaded.
  setTimeout(() => { said.textContent = text || (ended ? "Nothing is under way any more." : ""); }, 500);
}

// Somebody who uses the keyboard goes on where they were before the page reloaded itself.
function returnTo(focus) {
  remember("focus", null);
  const found = focus && reachable()[focus.place];
  if (found && found.tagName === focus.tag && found.textContent === focus.text) found.focus({ preventScroll: true });
}

header();
addEventListener("hashchange", show);
show(null);
if (DATA.seconds !== null) {
  returnTo(recall("focus", null));
  news();
}
