"""Exporting a sum of K = 9 nodes of 11 M parameters, beside loops that people write over the same files.

The nodes are the control points of a surface between four modes of an MLP, the sum is the middle of the surface, which
the graph knows as a recipe. Every contender reads nine nodes and writes one .safetensors file, in a process of its own,
which has imported what it needs. Time is CPU time from then on, with that of the fresh process that verifies (wall time
beside it); memory is what the process itself has more at its peak, without file pages that the system may drop.
``mergekit linear`` is that tool's linear merge, written out by hand from its method (a tensor of all models stacked,
the weighted sum, divided by the sum of the weights), since mergekit is not among this project's libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from harness import Peak, invocation, machine, quieten
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mgraph
from mgraph_store import NodeTerm

_ARCH = "mlp?hidden=3300,3300"


def make(scratch: Path) -> None:
    """Make the graph, and the nine nodes as files."""
    g = mgraph.create(scratch / "g.mgraph", arch=_ARCH, data="digits", device="cpu")
    for seed, name in enumerate("abcd"):
        g.train(seed=seed, max_steps=3, name=name)
    s = g.connect(*"abcd", method=mgraph.BezierSurface(max_steps=1), name="s", grid=3)
    middle = s.at(0.5, 0.5)
    with g.session.store.reading() as reader:
        terms = reader.all(NodeTerm, node_id=middle.id)
    for i, term in enumerate(terms):
        for suffix in (".pt", ".safetensors"):
            g.node(term.source_id).export(scratch / f"{i}{suffix}", verify=False)
    facts = {"node": middle.id, "coefficients": [term.coefficient for term in terms]}
    (scratch / "facts.json").write_text(json.dumps(facts))


def ours(scratch: Path, facts: dict[str, Any], out: Path, *, verify: bool = False) -> None:
    mgraph.open(scratch / "g.mgraph", device="cpu").node(facts["node"]).export(out, verify=verify)


def verified(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    ours(scratch, facts, out, verify=True)


def torch_whole(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    states = [torch.load(scratch / f"{i}.pt") for i in range(len(facts["coefficients"]))]
    save_file(
        {name: sum(c * s[name] for c, s in zip(facts["coefficients"], states, strict=True)) for name in states[0]}, out
    )


def torch_one_by_one(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    total: dict[str, torch.Tensor] = {}
    for i, c in enumerate(facts["coefficients"]):
        for name, value in torch.load(scratch / f"{i}.pt", mmap=True).items():
            total[name] = total[name].add_(value, alpha=c) if name in total else value * c
    save_file(total, out)


def safetensors_one_by_one(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    total: dict[str, torch.Tensor] = {}
    for i, c in enumerate(facts["coefficients"]):
        for name, value in load_file(scratch / f"{i}.safetensors").items():
            total[name] = total[name].add_(value, alpha=c) if name in total else value * c
    save_file(total, out)


def safetensors_by_tensor(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    opened = [safe_open(scratch / f"{i}.safetensors", "pt") for i in range(len(facts["coefficients"]))]
    total: dict[str, torch.Tensor] = {}
    for name in opened[0].keys():  # noqa: SIM118 (it is not a mapping)
        total[name] = opened[0].get_tensor(name) * facts["coefficients"][0]
        for c, file in zip(facts["coefficients"][1:], opened[1:], strict=True):
            total[name].add_(file.get_tensor(name), alpha=c)
    save_file(total, out)


def mergekit_linear(scratch: Path, facts: dict[str, Any], out: Path) -> None:
    opened = [safe_open(scratch / f"{i}.safetensors", "pt") for i in range(len(facts["coefficients"]))]
    merged: dict[str, torch.Tensor] = {}
    for name in opened[0].keys():  # noqa: SIM118 (it is not a mapping)
        tensors = torch.stack([file.get_tensor(name) for file in opened], dim=0)
        weights = torch.tensor(facts["coefficients"], dtype=tensors.dtype)
        while weights.ndim < tensors.ndim:
            weights = weights.unsqueeze(-1)
        merged[name] = (weights * tensors).sum(dim=0) / weights.sum(dim=0)
    save_file(merged, out)


CONTENDERS: dict[str, Callable[[Path, dict[str, Any], Path], None]] = {
    "mgraph export --no-verify": ours,
    "mgraph export": verified,
    "torch.load of all, then the sum": torch_whole,
    "torch.load, mmap, one at a time": torch_one_by_one,
    "safetensors, one file at a time": safetensors_one_by_one,
    "safetensors, tensor by tensor": safetensors_by_tensor,
    "mergekit linear, by hand": mergekit_linear,
}


def child(scratch: Path, name: str, out: Path) -> None:
    """Run one contender in this process, and print what it took."""
    facts = json.loads((scratch / "facts.json").read_text())
    quieten()
    mgraph.open(scratch / "g.mgraph").node(facts["node"]).describe()  # imports what it needs only now
    import_module("mgraph.exporting.writing")
    peak = Peak()
    wall, cpu = time.perf_counter(), cpu_time()
    CONTENDERS[name](scratch, facts, out)
    print(json.dumps({"cpu": cpu_time() - cpu, "wall": time.perf_counter() - wall, "peak": peak.stop()}))


def cpu_time() -> float:
    """Return the CPU time of this process and of those that it waited for, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        scratch, name, out = arguments.child
        child(Path(scratch), name, Path(out))
        return
    quieten()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        make(scratch)
        size = (scratch / "0.safetensors").stat().st_size
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        first: dict[str, torch.Tensor] = {}
        furthest = 0.0
        for _ in range(arguments.rounds):
            for name, taken in found.items():
                out = scratch / "out.safetensors"
                command = [sys.executable, __file__, "--child", str(scratch), name, str(out)]
                taken.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
                state = load_file(out)
                first = first or state
                furthest = max(furthest, *(float((state[key] - value).abs().max()) for key, value in first.items()))
                for written in scratch.glob("out.*"):
                    written.unlink()
    lines = [
        invocation(),
        machine(),
        f"{size / 4e6:.1f} M parameters, medians of {arguments.rounds} interleaved rounds; all files agree within "
        f"{furthest:.1g}",
        "mergekit is not installed: its linear merge is written out by hand",
        "",
        f"{'':34} {'CPU s':>7} {'wall s':>7} {'CPU ratio':>10} {'peak MB':>8} {'in nodes':>9}",
    ]
    base = statistics.median(t["cpu"] for t in next(iter(found.values())))
    for name, taken in found.items():
        cpu, wall, peak = (statistics.median(t[key] for t in taken) for key in ("cpu", "wall", "peak"))
        lines.append(f"{name:34} {cpu:7.2f} {wall:7.2f} {cpu / base:10.2f} {peak / 1e6:8.0f} {peak / size:9.2f}")
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
