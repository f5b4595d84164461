"""NEB on the command line: toy landscapes from nothing, a band that goes on, digits, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

import mgraph
from mgraph.methods.neb.picture import cycle_rows


def ring(commands: Any, tmp_path: Path) -> Any:
    run = commands(tmp_path)
    run("init", "ring.mgraph", "--arch", "toy?potential=ring", "--data", "toy")
    run("add-mode", "--at", "-1,0", "--name", "left")
    run("add-mode", "--at", "1,0", "--name", "right")
    return run


def peak(row: Any) -> float:
    (edge,) = [e for e in row["edges"] if e["split"] == "train"]
    return float(edge["peak"])


def test_a_band_on_the_ring_from_nothing(commands: Any, tmp_path: Path) -> None:
    run = ring(commands, tmp_path)
    settings = ["--pivots", 3, "--cycles", "2x60@0.02", "--weight-decay", 0]
    first = run("connect", "left", "right", "--neb", *settings, "--inner", 4, "--name", "band", "--json").row
    assert first["kind"] == "neb"
    assert first["settings"]["cycles"] == ["2x60@0.02"]
    assert peak(first) < 0.05
    assert first["sweeps"][0]["grid"] == [5 * (first["family"]["bends"] + 1) + 1]

    shown = run("show", "band").stdout
    lines = shown[shown.index("\ncycles\n") :].splitlines()
    assert lines[3].split() == ["cycle", "pivots", "saddle", "length", "train", "loss", "lr", "seconds"]
    assert [line.split()[:2] for line in lines[5:8]] == [["0", "3"], ["1", "3"], ["2", "5"]]
    assert "ended because all its cycles are done: saddle" in shown
    assert [r["cycle"] for r in first["cycles"]] == [0, 1, 2]

    more = run("connect", "left", "right", "--neb", *settings, "--init", "band", "--name", "more", "--json").row
    assert more["cycles"][0]["saddle"] == pytest.approx(first["cycles"][-1]["saddle"], rel=1e-5)
    assert peak(more) < peak(first)

    again = run("sweep", "band", "--inner", 9, "--json").row
    assert again["sweeps"][-1]["grid"] == [61]
    run("plot", "band", "--no-before", "-o", "band.png")
    assert imread(tmp_path / "band.png").shape[1] > 1300  # losses, and the saddle by cycle beside them


def test_presets_of_the_band_are_listed_and_taken(commands: Any, tmp_path: Path) -> None:
    run = ring(commands, tmp_path)
    assert "standard, fast and quick (neb)" in " ".join(run("connect", "--help").stdout.split())
    args = ["connect", "left", "right", "--neb", "--preset", "fast", "--cycles", "1x2@0.01", "--no-sweep", "--json"]
    settings = run(*args).row["settings"]
    assert (settings["pivots"], settings["insert"], settings["batch_size"]) == (15, 0, 512)


BAD = {
    "zero seconds": ("connect left right --neb --max-seconds 0", ("max_seconds must be above 0",)),
    "zero steps": ("connect left right --neb --max-steps 0", ("max_steps must be at least 1",)),
    "cycles that are none": ("connect left right --neb --cycles 5", ("CYCLESxSTEPS",)),
    "a cycle of no steps": ("connect left right --neb --cycles 5x0", ("at least one step",)),
    "an unknown stop": ("connect left right --neb --stop often", ("gaps and saddle",)),
    "three ends": ("connect left right top --neb", ("exactly 2 modes; 3 given",)),
    "one end": ("connect left --neb", ("exactly 2 modes; 1 given",)),
    "a target below the modes": ("connect left top --neb --target 1e-5", ("below the train loss of the modes",)),
    "identical modes": ("connect left twin --neb", ("the same point",)),
    "modes of two landscapes": ("connect left other --neb", ("different tasks", "--same-layout")),
    "grid and inner": ("sweep line --grid 5 --inner 2", ("either a grid or the number of inner points", "not both")),
    "inner points of a segment": ("sweep line --inner 2", ("no pieces",)),
    "no such init": ("connect left right --neb --init nothing", ("nothing",)),
    "no pivots": ("connect left right --neb --pivots 0", ("pivots must be at least 1",)),
    "coordinates and a file": ("add-mode x.pt --at 1,2", ("checkpoint file, or coordinates",)),
    "neither": ("add-mode", ("checkpoint file, or coordinates",)),
    "three coordinates": ("add-mode --at 1,2,3", ("has 2 coordinates; 3 given",)),
    "no coordinates": ("add-mode --at one,two", ("--at takes numbers",)),
}


@pytest.fixture(scope="module")
def landscapes(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("landscapes")
    run = ring(commands, path)
    for name, at in (("twin", "-1,0"), ("top", "0,1.1")):
        run("add-mode", "--at", at, "--name", name)
    run("add-space", "--arch", "toy?potential=valley", "--data", "toy", "--name", "valley")
    run("add-mode", "--space", "valley", "--at", "1,0", "--name", "other")
    run("connect", "left", "right", "--linear", "--name", "line")
    return run


@pytest.mark.parametrize("name", BAD)
def test_bad_input(landscapes: Any, snapshot: Callable[..., Any], refused: Callable[..., None], name: str) -> None:
    line, expect = BAD[name]
    args = line.split()
    if args[0] == "add-mode":
        args += ["--space", "toy-toy"]
    path = landscapes.directory / "ring.mgraph"
    before = snapshot(path)
    refused(landscapes, args, expect, programs=name == "three ends")
    assert snapshot(path) == before


@pytest.mark.stress
def test_quick_joins_two_modes_of_digits(tmp_path: Path) -> None:
    g = mgraph.create(tmp_path / "digits.mgraph", arch="mlp", data="digits", device="cpu")
    a, b = g.train(seed=0, name="a"), g.train(seed=1, name="b")
    line = g.connect(a, b, method=mgraph.Linear())
    band = g.connect(a, b, method=mgraph.NudgedElasticBand.preset("quick"), inner=4)
    assert line.swept().values["train", "loss"].max() > 0.3
    swept = band.swept()
    assert swept.values["train", "loss"].max() < 0.04
    assert swept.values["train", "accuracy"].min() > 0.98
    rows = band.describe()["cycles"]
    assert [row["pivots"] for row in rows][:2] == [3, 3]
    assert rows[-1]["saddle"] < 0.04 < rows[0]["saddle"]


def test_series_of_other_methods_make_no_cycles() -> None:
    assert cycle_rows([]) == []
