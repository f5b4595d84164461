// One meaning of colours everywhere: the dark side of viridis is good, a low loss or a high accuracy.

const VIRIDIS = [
  "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));

function viridis(share) {
  const at = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((c, i) => Math.round(c + (VIRIDIS[low + 1][i] - c) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

// A scale of values: `share` in [0, 1], 0 for the lowest; `colour`, dark for the good end; `log` where decades are spanned.
// Costs of edges begin at 0, unless they span a decade, as in the pictures: what hardly differs has hardly other colours.
function scaleOf(values, better, { costs = false } = {}) {
  const range = extent(values) ?? [0, 1];
  const log = better !== "higher" && spansDecades(values);
  if (costs && !log) range[0] = Math.min(range[0], 0);
  const [low, high] = log ? range.map(Math.log) : range;
  const share = (value) => {
    if (!finite(value)) return null;
    return high > low ? ((log ? Math.log(value) : value) - low) / (high - low) : 0.5;
  };
  const turned = better === "higher";
  const colour = (value) => {
    const at = share(value);
    return at === null ? css("--shade") : viridis(turned ? 1 - at : at);
  };
  const at = (part) => (log ? Math.exp(low + part * (high - low)) : low + part * (high - low));
  return { range, log, share, colour, at, turned };
}

function colourBar(scale, label) {
  const stops = Array.from({ length: 11 }, (_, i) => viridis(scale.turned ? 1 - i / 10 : i / 10));
  const strip = el("div", { role: "presentation" });
  strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const marks = el("p", {}, [0, 0.5, 1].map((part) => el("span", {}, short(scale.at(part)))));
  const how = `${label}${scale.log ? ", logarithmic" : ""}; dark is good, grey was not finite`;
  return el("div", { class: "bar" }, strip, marks, el("p", { class: "faint" }, how));
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const SPLITS = ["train", "valid", "test"];
const DASHES = { train: "solid", valid: "dashed", test: "dotted" };

function splitColour(split) {
  return SPLITS.includes(split) ? css(`--${split}`) : css("--ink");
}
