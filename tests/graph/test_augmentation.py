"""Augmentation in runs: recorded, resumed bit for bit, trusted like other code, and seen by training alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph
from mgraph.errors import InputError, UntrustedError
from mgraph.session.runs import ResumedWithOtherCodeWarning, RunInterrupted
from mgraph_store import Run

# What is compared is made twice.
pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")

ARCH = "cnn?bn=true&channels=4,&hidden=8,"
METHODS = {
    "curve": mgraph.BezierCurve(epochs=1, batch_size=128),
    "neb": mgraph.METHODS["neb"](pivots=1, cycles=("1x6",), dense=1, dense_examples=50),
    "llpf": mgraph.METHODS["llpf"](ticks=3, min_iters=2, max_iters=2, check_examples=50, groups="all"),
}
OWN = """
import torch

def noisy(x):
    return x + 0.1 * torch.randn_like(x)
"""


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> Any:
    graph = mgraph.create(tmp_path_factory.mktemp("augmented") / "g.mgraph", arch=ARCH, data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        graph.train(seed=seed, epochs=1, name=name)
    return graph


def stop_after(steps: int) -> Any:
    seen = []

    def progress(_: Any) -> None:
        seen.append(1)
        if len(seen) == steps:
            raise KeyboardInterrupt

    return progress


def resumed(g: Any, begin: Any, steps: int) -> Any:
    """Begin something, interrupted after some steps; go on with it."""
    with pytest.raises(RunInterrupted) as caught:
        begin(stop_after(steps))
    return g.resume(caught.value.run_id)


def run_of(g: Any, thing: Any) -> Run:
    with g.session.store.reading() as reader:
        run: Run = reader.get(Run, id=thing.record.run_id)
    return run


def weights(point: Any) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for _, array in sorted(point.tensors().items()))


@pytest.mark.stress  # with its average it does so in every run
def test_a_mode_goes_on_bit_for_bit(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    how: dict[str, Any] = {"seed": 5, "epochs": 2, "batch_size": 128, "augment": "crop1+rotate5+cutout2"}
    whole = g.train(name="whole", **how)
    parted = resumed(g, lambda progress: g.train(name="parted", progress=progress, **how), 13)
    assert weights(whole) == weights(parted)
    assert whole.evaluate("test") == parted.evaluate("test")
    assert weights(g.train(**how | {"augment": None})) != weights(whole)
    assert json.loads(run_of(g, whole).settings)["augment"] == "crop1+rotate5+cutout2"


@pytest.mark.parametrize("name", ["curve", "llpf", pytest.param("neb", marks=pytest.mark.stress)])
def test_connections_see_it_too_and_go_on_bit_for_bit(g: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    plain = METHODS[name]
    method = type(plain).parse({**vars(plain), "augment": "cutout3"})

    def points(made: Any) -> list[str | None]:
        return [g.node(p["node"]).digest for p in made.describe()["control_points"]]

    without = g.connect("a", "b", method=plain, sweep=False)
    whole = g.connect("a", "b", method=method, sweep=False)
    begin = lambda progress: g.connect("a", "b", method=method, sweep=False, progress=progress)  # noqa: E731
    parted = resumed(g, begin, 2 if name == "llpf" else 6)
    assert points(whole) == points(parted) != points(without)


def test_a_function_of_ones_own_is_recorded_with_its_hash(
    g: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    how: dict[str, Any] = {"seed": 6, "epochs": 2, "batch_size": 128, "augment": "own.py:noisy"}
    whole = g.train(**how)
    assert set(json.loads(run_of(g, whole).versions)["code"]) == {"augmentation"}
    begun = []
    for _ in range(2):
        with pytest.raises(RunInterrupted) as caught:
            g.train(progress=stop_after(5), **how)
        begun.append(caught.value.run_id)
    with pytest.raises(UntrustedError, match=r"own\.py:noisy; if you know it"):  # named by the graph, not typed
        g.resume(begun[0])
    trusting = mgraph.open(g.path, device="cpu", trust=True)
    assert weights(trusting.resume(begun[0])) == weights(whole)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(InputError, match=r"runs own\.py:noisy from"):
        trusting.resume(begun[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace("0.1", "0.2"))
    with pytest.warns(ResumedWithOtherCodeWarning, match=r"own\.py:noisy"):
        trusting.resume(begun[1])


def test_what_does_not_suit_leaves_nothing_behind(g: Any) -> None:
    before = len(g.runs())
    for method in METHODS.values():
        with pytest.raises(InputError, match="too large for images of 8×8"):
            g.connect("a", "b", method=type(method).parse({**vars(method), "augment": "crop9"}))
    with pytest.raises(InputError, match="Did you mean crop4"):
        g.train(augment="crap4")
    assert len(g.runs()) == before


def test_on_the_command_line(g: Any, commands: Any) -> None:
    run = commands(g.path.parent)
    made = run("train", "--seed", "9", "--epochs", "1", "--augment", "crop1+flip", "--name", "c", "--json")
    assert made.row["info"]["settings"]["augment"] == "crop1+flip"
    refused = run("train", "--augment", "flop", code=2)
    assert "Did you mean flip" in refused.stderr
