// Numbers, times and parameters as text. Numbers come rounded; what JSON cannot say comes as text ("nan", "inf").

function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") return numeral(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "–";
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${k} ${shown(v)}`).join(", ");
  return value;
}

function numeral(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e7 ? value.toExponential().replace("e+", "e") : String(value);
}

function short(value) {
  return typeof value === "number" ? numeral(Number(value.toPrecision(3))) : shown(value);
}

function moment(text) {
  return text ? text.slice(0, 16).replace("T", " ") : "–";
}

function spoken(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 60) return `${seconds < 10 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function parameter(at) {
  const names = at.length === 1 ? ["t"] : at.length === 2 ? ["u", "v"] : null;
  const numbers = at.map((x) => numeral(Number(x.toPrecision(6))));
  return names ? names.map((name, i) => `${name} = ${numbers[i]}`).join(", ") : `(${numbers.join(", ")})`;
}

const finite = (value) => typeof value === "number" && Number.isFinite(value);

function extent(values) {
  const known = values.filter(finite);
  return known.length ? [Math.min(...known), Math.max(...known)] : null;
}

// A logarithmic scale, where all is positive and spans a decade.
function spansDecades(values) {
  const range = extent(values);
  return range !== null && range[0] > 0 && range[1] / range[0] >= 10;
}

// The bounds of an axis: a logarithmic one would otherwise end at whole powers of ten.
function bounds(values, log) {
  const range = extent(values);
  return log ? { min: range[0] * 0.85, max: range[1] * 1.18 } : { scale: true };
}

// The entries of an object that say something.
function telling(row, without = []) {
  const empty = (value) => value === null || value === "" || (Array.isArray(value) && !value.length);
  return Object.entries(row ?? {}).filter(([key, value]) => !without.includes(key) && !empty(value));
}
