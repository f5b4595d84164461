"""Random stacks of odd layers: every number holds when it is measured again, or a refusal names the part."""

from __future__ import annotations

import importlib.util
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mgraph
from mgraph.errors import InputError, MGraphWarning
from mgraph_store import Edge, Evaluation, assert_consistent

SOURCE = Path(__file__).parents[1] / "data" / "odd_networks.py"
_spec = importlib.util.spec_from_file_location("odd_networks", SOURCE)
assert _spec is not None
assert _spec.loader is not None
odd = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(odd)

# A module, a parameter or a buffer by name, or the network itself.
NAMES = r"module \d|the network's own forward|\d+\.\w+|steps"


def stored(g: Any, node_id: str) -> dict[tuple[str, str], float]:
    with g.session.store.reading() as reader:
        rows = reader.all(Evaluation, node_id=node_id, sweep_id=None)
    return {(e.split, e.metric): e.value for e in rows}


def measured(node: Any) -> dict[tuple[str, str], float]:
    return {(s, m): v.value for s in ("train", "valid", "test") for m, v in node.evaluate(s).items()}


def refusal(action: Callable[[], Any]) -> tuple[Any, str]:
    """Return what an action gives, or the sentence of its refusal."""
    try:
        return action(), ""
    except InputError as error:
        return None, str(error)


def check(path: Path, recipe: int) -> str:
    """Take a recipe through all of mgraph; return where it ended."""
    kinds = odd.parts(recipe)
    must = set(kinds) & set(odd.REFUSED)

    def train() -> Any:
        g = mgraph.create(path, arch=f"odd_networks.py:net?recipe={recipe}", data="odd_networks.py:data", device="cpu")
        return g, *(g.train(seed=seed, epochs=2, lr=0.05, batch_size=16) for seed in range(2))

    made, why = refusal(train)
    if "in place" in kinds and "its backward pass fails" in why:  # what autograd needs was overwritten
        return "refused"
    assert bool(must) == bool(why), (recipe, kinds, why)
    if why:
        assert re.search(NAMES, why), why
        if path.exists():
            assert_consistent(mgraph.open(path).session.store)
        return "refused"
    g, a, b = made
    for node in (a, b):
        assert measured(node) == stored(g, node.id), (recipe, kinds)
    again = mgraph.open(path, device="cpu")
    assert measured(again.node(a.id)) == stored(g, a.id), (recipe, kinds)
    line, why = refusal(lambda: again.connect(a.id, b.id, method=mgraph.Linear(), grid=3))
    if why:
        assert set(kinds) & {*odd.OWN_BUFFERS, "unused buffer"}, (recipe, kinds, why)
        assert re.search(r"buffer \d+\.\w+ differs between", why), why
        return "own buffers"
    with again.session.store.reading() as reader:
        doubted = any(e.doubt for e in reader.all(Edge))
    swept = line.swept()
    exact = swept.sweep.batchnorm in ("none", "frozen")
    for place, node in ((0, a), (-1, b)):
        for key, value in stored(g, node.id).items():
            here = swept.values[key][place]
            if exact:
                assert here == pytest.approx(value, rel=1e-5), (recipe, kinds, key)
            elif key[1] == "loss":  # recomputed statistics may be better than the averages of two epochs
                assert doubted or here < 1.2 * value + 0.5, (recipe, kinds, key)
    assert_consistent(again.session.store)
    return "connected"


def run(tmp_path: Path, recipes: range) -> set[str]:
    shutil.copy(SOURCE, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MGraphWarning)
        return {check(tmp_path / f"{recipe}.mgraph", recipe) for recipe in recipes}


def test_a_sample_of_odd_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, range(3)) >= {"refused", "connected"}


@pytest.mark.stress
@pytest.mark.parametrize("block", range(10))
def test_odd_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, range(30 * block, 30 * (block + 1)))
