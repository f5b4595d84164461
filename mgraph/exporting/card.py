"""Model cards: where an exported file comes from and how good it is, in Markdown (no torch)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.bookkeeping.ancestry import tree_lines

if TYPE_CHECKING:
    from mgraph.exporting.verification import Verified

_NOBODY = "nothing was selected"


def write_card(path: Path, facts: Mapping[str, Any], name: str, file: str, *, verified: Verified | None) -> None:
    """Write the card of an exported file, which also says how the file was checked."""
    path.write_text(card(facts, name, file, verified=verified), encoding="utf-8")


def card(facts: Mapping[str, Any], name: str, file: str, *, verified: Verified | None = None) -> str:
    """Return the card of an exported file: use, recipe, selection, metrics, data, seeds and ancestry.

    ``facts`` are those that the file's metadata hold; what they do not say is left out.
    """
    parts = [
        [f"# {_plain(name)}", "", _what(facts, file)],
        _use(facts, file),
        _recipe(facts),
        _metrics(facts),
        _data(facts),
        _ancestry(facts),
        [] if verified is None else ["## Check", "", f"Reloaded in a fresh process without mgraph, {verified}."],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _what(facts: Mapping[str, Any], file: str) -> str:
    kind = {"mode": "A trained or imported network", "merged": "A merged network", "ensemble": "An ensemble"}
    what = kind.get(str(facts.get("kind")), "A point of the weight space")
    versions = facts["versions"]
    with_ = ", ".join(f"{name} {versions[name]}" for name in ("mgraph", "torch") if name in versions)
    return f"{what}, `{file}`, exported with {with_}."


def _use(facts: Mapping[str, Any], file: str) -> list[str]:
    program = facts.get("program")
    lines = ["## Use", "", "```python", *_loading(facts, file), "```"]
    if not program:
        return lines
    lines += ["", "It takes a batch of any size N, and gives a row for each example:", ""]
    for one in program["takes"]:
        shape = ", ".join(str(extent) for extent in one["shape"])
        lines.append(f"- takes `{_plain(one['name'])}`: {one['dtype']} ({shape}), {one['values']}")
    return [*lines, f"- gives {program['gives']}"]


def _loading(facts: Mapping[str, Any], file: str) -> list[str]:
    suffix = Path(file).suffix
    if facts.get("kind") == "ensemble" and not suffix:
        return [
            "import json",
            "from pathlib import Path",
            "from safetensors.torch import load_file",
            "",
            f'directory = Path("{file}")',
            'manifest = json.loads((directory / "manifest.json").read_text())',
            'states = [load_file(directory / member["file"]) for member in manifest["members"]]',
            f"# load each into the network; the prediction is the {facts.get('combine', 'mean of outputs')}",
        ]
    names = [one["name"] for one in facts.get("program", {}).get("takes", [])]
    if suffix == ".pt2":
        return [
            "import torch",
            "",
            f'model = torch.export.load("{file}").module()',
            f"outputs = model({', '.join(names)})",
        ]
    if suffix == ".onnx":
        given = ", ".join(f'"{name}": {name}' for name in names)
        return [
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{file}")',
            f"(outputs,) = session.run(None, {{{given}}})",
        ]
    if suffix == ".safetensors":
        return ["from safetensors.torch import load_file", "", f'network.load_state_dict(load_file("{file}"))']
    return ["import torch", "", f'network.load_state_dict(torch.load("{file}", weights_only=True))']


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    lines = ["## Recipe", ""]
    members = facts.get("members", [])
    if members:
        lines += [
            f"{len(members)} members, which give the {facts['combine']}; each is the sum of these nodes:",
            "",
        ]
        nodes = {t["node"]: t["name"] for m in members for t in m["terms"]}
        lines += _table(["member", *nodes.values()], [[m["name"], *_coefficients(m["terms"], nodes)] for m in members])
    elif facts.get("terms"):
        lines += ["The sum of these nodes, each times its coefficient:", ""]
        lines += _table(["node", "coefficient"], [[t["name"] or t["node"], f"{t['c']:.6g}"] for t in facts["terms"]])
    else:
        lines += ["Its own tensors, not a sum of others."]
    said = [f"- selected on: {_selected(facts)}"]
    info = facts.get("info", {})
    for key in ("origin", "parameter", "soup"):
        value = info.get(key, facts.get(key))
        if value is not None:
            said.append(f"- {key}: {_shown(value)}")
    policy = facts.get("batchnorm") or info.get("batchnorm")
    if policy:
        said.append(f"- BatchNorm statistics: {policy}")
    if facts.get("arch"):
        said.append(f"- network: `{facts['arch']}`")
    return [*lines, "", *said]


def _selected(facts: Mapping[str, Any]) -> str:
    split = facts.get("selected_on")
    return f"the {split} split" if split else _NOBODY


def _coefficients(terms: Sequence[Mapping[str, Any]], nodes: Mapping[str, Any]) -> list[str]:
    of = {term["node"]: term["c"] for term in terms}
    return [f"{of.get(node, 0.0):.6g}" for node in nodes]


def _metrics(facts: Mapping[str, Any]) -> list[str]:
    metrics = facts.get("metrics", [])
    if not metrics:
        return ["## Metrics", "", "None were measured at this very point."]
    rows = [
        [
            m["split"],
            m["metric"],
            f"{m['value']:.6g}",
            "" if m["standard_error"] is None else f"{m['standard_error']:.2g}",
            str(m["examples"]),
        ]
        for m in metrics
    ]
    return ["## Metrics", "", *_table(["split", "metric", "value", "standard error", "examples"], rows)]


def _data(facts: Mapping[str, Any]) -> list[str]:
    data = facts.get("data")
    if not data:
        return []
    examples = ", ".join(f"{name} {count}" for name, count in data.get("examples", {}).items())
    lines = ["## Data", "", f"- `{data['spec']}`, fingerprint `{data.get('fingerprint')}`"]
    if examples:
        lines.append(f"- examples: {examples}")
    if data.get("valid_seed") is not None:
        lines.append(f"- the validation split was carved from the training data by seed {data['valid_seed']}")
    lines.append(f"- shape of an input: {_shown(data['input_shape'])}")
    if "dtype" in data:
        low, high = data["range"]
        lines.append(f"- as the data have them: {data['dtype']}, {low:g} to {high:g}")
        lines.append(f"- normalisation: (x * {data['scale']:.8g} - {data['mean']}) / {data['std']}, by channel")
    return lines


def _ancestry(facts: Mapping[str, Any]) -> list[str]:
    tree = facts.get("ancestry")
    if not tree:
        return []
    trees = tree if isinstance(tree, list) else [tree]
    seeds = {name: seed for one in trees for name, seed in _seeds(one)}
    lines = ["## Ancestry and seeds", ""]
    if seeds:
        lines += [f"Seeds: {', '.join(f'{_plain(name)} {seed}' for name, seed in seeds.items())}.", ""]
    return [*lines, "```text", *(line for one in trees for line in tree_lines(one)), "```"]


def _seeds(branch: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    stack: list[Mapping[str, Any]] = [branch]
    while stack:
        item = stack.pop()
        seed = (item.get("run") or {}).get("seed")
        if seed is not None:
            yield str(item["name"] or item["id"]), seed
        stack += reversed(item.get("from", []))


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
        return ", ".join(f"{v:g}" for v in value)
    return value if isinstance(value, str) else json.dumps(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(_cell(text) for text in head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]


def _cell(text: Any) -> str:
    return _plain(str(text)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Keep a text on one line."""
    return " ".join(text.split())
