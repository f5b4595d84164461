"""Two runs with the same seeds, versions and thread count are equal in every number and every tensor."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mgraph.operations.modes import SimilarModeWarning

_SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
import mgraph
from mgraph_store import Edge, Evaluation, Node, NodeBuffers, NodeTerm, Summary

torch.set_num_threads(1)
data = Path(sys.argv[1]).with_suffix(".npz")
with np.load(Path(mgraph.__file__).parent / "data" / "digits.npz") as digits:
    arrays = {"x": 15 * digits["images"][..., None], "y": digits["labels"]}
    few = {f"{k}_{s}": arrays[k][digits[s][::4]] for s in ("train", "valid", "test") for k in "xy"}
np.savez(data, **few)
g = mgraph.create(sys.argv[1], arch="cnn?bn=true&channels=4,8&hidden=16,", data=f"npz:{data}", device="cpu")
for seed, name in enumerate("abcd"):
    g.train(seed=seed, epochs=1, name=name)
s = g.connect(*"abcd", method=mgraph.BezierSurface(phases=("edges:1", "columns:1", "surface:1")), grid=3, name="s")
g.connect("a", "b", method=mgraph.BezierCurve(epochs=1, samples=2, weight_decay=1e-4), grid=4, name="k")
# Split batches, layers, rows that start elsewhere, and a sweep that refines.
chain = mgraph.PolygonalChain(bends=2, epochs=1, samples=2, batch_size=64)
g.connect("a", "b", method=chain, grid=4, name="chain")
split = dict(samples=4, batch_size=128, measure="area", gram_every=3, optimizer="adamw", lr=1e-3)
g.connect(*"abcd", method=mgraph.BezierSurface(epochs=1, **split), sweep=False, name="split")
layers = mgraph.BezierCurve(bends=2, epochs=1, train_only="9.*,11.*", draw="lattice")
g.connect("a", "b", method=layers, init="chain", sweep=False, name="layers")
g.connect(*"abc", method=mgraph.Simplex(), sweep=False, name="tri").sweep(3, refine=0.5, max_points=20)
s.merge(name="m")
s.merge(soup="greedy", name="g")
s.ensemble(grid=2)

def numbers(record, *left_out):
    found = {k: v for k, v in vars(record).items() if k not in left_out and not k.endswith("_id")}
    return sorted((k, repr(v)) for k, v in found.items())

with g.session.store.reading() as reader:
    print(json.dumps({
        "digests": sorted((n.kind, n.name or "", n.digest) for n in reader.all(Node) if n.digest),
        "buffers": sorted(b.digest for b in reader.all(NodeBuffers)),
        "terms": sorted((t.position, t.coefficient) for t in reader.all(NodeTerm)),
        "evaluations": sorted(numbers(e) for e in reader.all(Evaluation)),
        "edges": sorted(numbers(e, "route") for e in reader.all(Edge)),
        "summaries": sorted(numbers(e) for e in reader.all(Summary)),
    }))
"""


def test_the_same_seeds_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once in a process of its own, and once in this one, after whatever other tests did in it."""
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "0.mgraph")], stdout=subprocess.PIPE, text=True
    ) as child:
        monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "1.mgraph")])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(_SCRIPT, {"__name__": "__main__"})
        first, second = json.loads(child.communicate(timeout=120)[0]), json.loads(capsys.readouterr().out)
    assert len(first["digests"]) == 4 + 5 + 1 + (2 + 5 + 2) + 2
    assert len(first["buffers"]) == 4 + 2
    assert len(first["evaluations"]) >= 6 * (4 + 9 + 4 + 4 + 6 + 2)
    # Of six numbers (three splits, loss and error) each; on a surface and a simplex all but one have an oracle, too.
    assert len(first["edges"]) == (6 + 5) * (6 + 3) + 6 * (1 + 1)
    assert len({digest for *_, digest in first["digests"]}) >= 10
    for what in first:
        assert first[what] == second[what], what


def test_another_seed_gives_other_numbers(tmp_path: Path) -> None:
    import mgraph

    g = mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=8,", data="digits", device="cpu")
    one, other = (g.train(seed=seed, epochs=1) for seed in (1, 2))
    with pytest.warns(SimilarModeWarning, match="exactly the parameters"):
        same = g.train(seed=1, epochs=1)
    assert one.digest == same.digest
    assert one.digest != other.digest
