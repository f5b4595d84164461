"""Graphs of streamed data: every operation gives the bits that it gives of data in memory; changes are refused."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mgraph
from mgraph.errors import InputError
from mgraph.session.runs import RunInterrupted

# What is compared is made twice.
pytestmark = pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")

ARCH = "cnn?bn=true&channels=4,&hidden=8,"
METHODS = {
    "curve": mgraph.BezierCurve(epochs=1, batch_size=16),
    "neb": mgraph.METHODS["neb"](pivots=1, cycles=("1x4",), batch_size=16, dense=1, dense_examples=20),
    "llpf": mgraph.METHODS["llpf"](ticks=3, min_iters=2, max_iters=2, batch_size=16, check_examples=20, groups="all"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images, a graph of them held in memory and one of them streamed, each with two modes."""
    base = tmp_path_factory.mktemp("streamed")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for number, name in enumerate(("cat", "dog")):
            (base / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                pixels[..., number] += 55
                Image.fromarray(pixels).save(base / "photos" / split / name / f"{i}.png")
    with contextlib.chdir(base):  # so that a copy of the directory has its own data
        for name, stream in (("held", "false"), ("streamed", "true")):
            data = f"imagefolder:photos?size=8&stream={stream}"
            g = mgraph.create(f"{name}.mgraph", arch=ARCH, data=data, device="cpu", workers=1)
            for seed, mode in enumerate("ab"):
                g.train(seed=seed, epochs=1, batch_size=16, augment="crop1+flip", name=mode)
    return base


def opened(base: Path, **options: Any) -> dict[str, Any]:
    return {n: mgraph.open(base / f"{n}.mgraph", device="cpu", **options) for n in ("held", "streamed")}


def same(graphs: dict[str, Any], read: Any) -> None:
    held, streamed = (read(graph) for graph in graphs.values())
    assert held == streamed
    assert held


def test_modes_and_their_numbers_are_the_same(base: Path, commands: Any) -> None:
    graphs = opened(base)
    for mode in "ab":
        same(graphs, lambda g, mode=mode: g.node(mode).digest)
    of_a = [
        commands(base)("evaluate", "a", "--graph", f"{name}.mgraph", "--workers", workers, "--json").document
        for name, workers in (("held", 0), ("streamed", 0), ("streamed", 1))
    ]
    assert of_a[0]["rows"] == of_a[1]["rows"] == of_a[2]["rows"] != []
    with pytest.raises(InputError, match="There must be at least 0 workers, not -1"):
        mgraph.open(base / "held.mgraph", workers=-1)


@pytest.mark.parametrize(
    "method", ["curve", *(pytest.param(name, marks=pytest.mark.stress) for name in ("llpf", "neb"))]
)
def test_paths_their_sweeps_and_what_is_merged_of_them(base: Path, method: str) -> None:
    graphs, swept = opened(base, workers=1), method == "curve"
    made = [g.connect("a", "b", method=METHODS[method], name=method, grid=3, sweep=swept) for g in graphs.values()]
    same(graphs, lambda g: [g.node(p["node"]).digest for p in g.connection(method).describe()["control_points"]])
    if swept:
        one, other = (c.swept() for c in made)
        for key in one.values:
            np.testing.assert_array_equal(one.values[key], other.values[key])
        same(graphs, lambda g: g.connection(method).merge(name="m").node.digest)
        same(graphs, lambda g: str(g.connection(method).ensemble().evaluate("test")))


def test_an_interrupted_run_goes_on_to_the_same_bits(
    base: Path, monkeypatch: pytest.MonkeyPatch, reporter: Any
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    settings: dict[str, Any] = {"seed": 5, "epochs": 1, "batch_size": 16, "augment": "flip"}
    g = mgraph.open(base / "streamed.mgraph", device="cpu", workers=1)
    with pytest.raises(RunInterrupted):
        g.train(name="stopped", progress=reporter(3), **settings)
    resumed = mgraph.open(base / "streamed.mgraph", device="cpu", workers=0).resume()
    whole = mgraph.open(base / "held.mgraph", device="cpu").train(name="whole", **settings)
    assert resumed.digest == whole.digest


def test_changed_data_are_refused_by_whatever_needs_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Any
) -> None:
    monkeypatch.setenv("MGRAPH_SAVE_SECONDS", "0")
    shutil.copytree(base, tmp_path / "copy")
    path = tmp_path / "copy" / "streamed.mgraph"
    g = mgraph.open(path, device="cpu")
    g.connect("a", "b", method=mgraph.Linear(), name="line", sweep=False)
    with pytest.raises(RunInterrupted):
        g.train(seed=3, epochs=1, batch_size=16, progress=reporter(3))
    image = tmp_path / "copy" / "photos" / "train" / "dog" / "7.png"
    kept = image.read_bytes()
    Image.new("RGB", (8, 8)).save(image)
    says = r"The data .*photos.* are not those that space \S+ was made with \(their content or normalisation changed\)"
    for operation in (
        lambda: mgraph.open(path).connect("a", "b", method=mgraph.BezierCurve(epochs=1)),
        lambda: mgraph.open(path).connection("line").sweep(3),
        lambda: mgraph.open(path).resume(),
        lambda: mgraph.open(path).node("a").evaluate("test"),
    ):
        with pytest.raises(InputError, match=says):
            operation()
    image.write_bytes(kept)
    assert mgraph.open(path).resume().evaluate("test")
