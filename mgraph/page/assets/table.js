// Tables that can be sorted by a column and filtered by words, or by comparisons such as barrier<0.1.

const ROWS_AT_ONCE = 200;

// columns: { key, label, number, cell(row) → what is shown, value(row) → what is sorted and filtered by }
function table({ id, label, columns, rows, filter = rows.length > 5, empty = "Nothing.", atOnce = ROWS_AT_ONCE }) {
  if (!rows.length) return el("p", { class: "faint" }, empty);
  const valueOf = (column, row) => (column.value ? column.value(row) : row[column.key]);
  let order = recall(`${id} order`, null);
  let words = recall(`${id} filter`, "");
  let most = atOnce;
  const body = el("tbody");
  const status = el("p", { class: "faint", role: "status" });
  const heads = columns.map((column) => {
    const button = el("button", { type: "button", click: () => turn(column.key) }, column.label);
    return el("th", { scope: "col", class: column.number ? "number" : null }, button);
  });
  const more = el("button", { type: "button", click: () => { most = Infinity; fill(); scroll.focus(); } }, "Show all rows");

  function turn(key) {
    order = order?.key === key ? { key, down: !order.down } : { key, down: false };
    remember(`${id} order`, order);
    fill();
  }

  function fill() {
    let found = rows.filter(matcher(words, columns, valueOf));
    const by = columns.find((column) => column.key === order?.key);
    if (by) {
      const sign = order.down ? -1 : 1;
      const keyed = found.map((row, i) => [valueOf(by, row), i, row]);
      keyed.sort((one, other) => missing(one[0]) - missing(other[0]) || sign * compare(one[0], other[0]) || one[1] - other[1]);
      found = keyed.map((entry) => entry[2]);
    }
    heads.forEach((head, i) => {
      const sorted = columns[i].key === order?.key;
      const arrow = sorted ? (order.down ? " ▾" : " ▴") : "";
      head.firstChild.textContent = columns[i].label + arrow;
      if (sorted) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    replace(body, found.slice(0, most).map((row) => el("tr", {}, columns.map((column) => {
      const content = column.cell ? column.cell(row) : shown(valueOf(column, row));
      return el("td", { class: column.number ? "number" : (column.class ?? null) }, content);
    }))));
    const left = found.length - Math.min(most, found.length);
    const count = found.length === rows.length ? `${rows.length} rows` : `${found.length} of ${rows.length} rows`;
    replace(status, left ? `${count}, the first ${most} are shown. ` : count, left ? more : null);
  }

  const search = el("input", { type: "search", value: words, "aria-label": `Filter: ${label}`, input: () => {
    words = search.value;
    remember(`${id} filter`, words);
    fill();
  } });
  const hint = "words, or a comparison: " + (columns.find((c) => c.number)?.key ?? columns[0].key) + "<0.5";
  search.placeholder = hint;
  const scroll = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", { id }, el("caption", {}, label), el("thead", {}, el("tr", {}, heads)), body));
  const box = el("div", {},
    filter ? el("div", { class: "tools" }, el("label", {}, "Filter ", search)) : null,
    scroll,
    filter || rows.length > atOnce ? status : null);
  fill();
  return box;
}

const missing = (value) => Number(value === null || value === undefined || value === "");

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(shown(one)).localeCompare(String(shown(other)), "en", { numeric: true });
}

const COMPARISONS = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
};

// Every word must be found in some cell; a comparison must hold in the column that it names.
function matcher(text, columns, valueOf) {
  const tests = text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const parts = /^([\w.-]+)(<=|>=|<|>|=)(.+)$/.exec(word);
    const column = parts && columns.find((c) => c.key === parts[1] || c.label.replaceAll(" ", "_") === parts[1]);
    if (column) {
      const number = Number(parts[3]);
      const holds = COMPARISONS[parts[2]];
      if (!Number.isNaN(number)) return (row) => finite(valueOf(column, row)) && holds(valueOf(column, row), number);
      return (row) => holds(String(shown(valueOf(column, row))).toLowerCase(), parts[3].toLowerCase());
    }
    const wanted = word.toLowerCase();
    return (row) => columns.some((c) => String(shown(valueOf(c, row))).toLowerCase().includes(wanted));
  });
  return (row) => tests.every((test) => test(row));
}
