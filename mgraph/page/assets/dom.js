// Elements. Text becomes text nodes, never markup: names and notes in a graph are a stranger's.

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  add(made, children);
  return made;
}

function add(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function replace(parent, ...children) {
  parent.replaceChildren();
  add(parent, children);
}

// A link to a view of this page; an id is escaped, so that it cannot become another address.
function to(view, id, ...children) {
  return el("a", { href: `#${view}${id === null ? "" : `/${encodeURIComponent(id)}`}` }, ...children);
}

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, shown.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function choice(label, options, chosen, change) {
  const select = el("select", { change: () => change(select.value) });
  for (const [value, text] of options) select.append(el("option", { value, selected: value === chosen }, text));
  return el("label", {}, label, select);
}

// What is not asked for is not built: tables behind a chart may have thousands of cells. What was opened stays open when
// the page reloads; `what` names it in its view.
function folded(title, build, what = title) {
  const key = `open ${address()} ${what}`;
  const box = el("details", {}, el("summary", {}, title));
  const fill = () => {
    if (box.open && box.childElementCount === 1) add(box, [build()]);
  };
  box.open = recall(key, false);
  fill();
  box.addEventListener("toggle", () => {
    if (box.open !== recall(key, false)) remember(key, box.open);
    fill();
  });
  return box;
}

function command(text, label) {
  const code = el("code", { tabindex: 0 }, text);
  const said = el("span", { role: "status", class: "faint" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = "Selected; copy it by Ctrl+C.";
    }
  };
  const button = el("button", { type: "button", click: copy, "aria-label": `Copy the command: ${label}` }, "Copy");
  return el("div", { class: "command" }, el("span", { class: "faint" }, label), code, button, said);
}
