"""Settings on their way from the command line to the run: phases, presets, losses, learning rates that were lowered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOSSES = """
import torch
from torch.nn import functional as F

def plain(outputs, targets):
    return F.cross_entropy(outputs, targets)

def harsher(outputs, targets):
    return 3 * F.cross_entropy(outputs, targets)

def each(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")

def number(outputs, targets):
    return F.cross_entropy(outputs, targets).item()

def detached(outputs, targets):
    return F.cross_entropy(outputs, targets).detach()

def broken(outputs, targets):
    return outputs[:, 99].mean()

calls = 0

def stumbling(outputs, targets):
    \"\"\"NaN at calls 5 and 12; the first call is the check before training.\"\"\"
    global calls
    calls += 1
    return F.cross_entropy(outputs, targets) * (torch.nan if calls in (5, 12) else 1.0)
"""
SURFACE = ("connect", *"abcd", "--surface", "--no-sweep", "--json")


@pytest.fixture
def own(beside: Any) -> Path:
    path = beside.directory / "own.py"
    path.write_text(LOSSES)
    return Path(path)


def digests(g: Any, row: dict[str, Any]) -> list[str]:
    return [g.node(p["node"]).digest for p in row["control_points"]]


# Phases and presets


def test_phases_come_from_a_config_file(g: Any, beside: Any) -> None:
    still = digests(g, beside(*SURFACE, "--epochs", 0).row)
    (beside.directory / "p.toml").write_text('phases = ["edges:1@0.05", "surface:1@0.01/4"]\nsamples = 2\n')
    row = beside(*SURFACE, "--config", "p.toml").row
    assert row["settings"]["phases"] == ["edges:1@0.05", "surface:1@0.01/4"]
    assert row["settings"]["samples"] == 2
    moved = [k for k, (one, other) in enumerate(zip(digests(g, row), still, strict=True)) if one != other]
    assert moved == [1, 4, 7]  # the middles of the edges u = 0 and u = 1, and the row of the second phase
    again = beside(*SURFACE, "--config", "p.toml", "--phases", "columns:1").row  # flags win
    moved = [k for k, (one, other) in enumerate(zip(digests(g, again), still, strict=True)) if one != other]
    assert moved == [3, 4, 5]


def test_presets_are_settings_to_begin_with(g: Any, beside: Any) -> None:
    from mgraph.methods.curves.surface import BezierSurface

    everything = "1,3,4,5,7"  # nothing moves, so that the many epochs cost nothing
    for preset in BezierSurface.presets:
        settings = beside(*SURFACE, "--preset", preset, "--fixed", everything).row["settings"]
        wanted = {key: list(v) if isinstance(v, tuple) else v for key, v in BezierSurface.presets[preset].items()}
        assert {key: settings[key] for key in wanted} == wanted
        assert settings["momentum"] == 0.9
    own = ("--preset", "paper", "--phases", "edges:1", "--batch-size", 128, "-s", "samples=2")
    settings = beside(*SURFACE, *own).row["settings"]
    assert (settings["phases"], settings["batch_size"], settings["samples"]) == (["edges:1"], 128, 2)
    assert (settings["optimizer"], settings["lr"], settings["draw"]) == ("adamw", 1e-4, "iid")


# Losses


def test_a_loss_of_ones_own_is_trained_on(g: Any, beside: Any, own: Path) -> None:
    curve = ("connect", "a", "b", "--curve", "--epochs", 1, "--no-sweep", "--json")
    default, plain, harsher = (
        beside(*curve, *loss).row for loss in ((), ("--loss", "own.py:plain"), ("--loss", "own.py:harsher"))
    )
    assert digests(g, plain) == digests(g, default)  # the task's own, written once more
    assert digests(g, harsher)[1] != digests(g, default)[1]
    assert harsher["settings"]["loss"] == "own.py:harsher"
    one = beside("train", "--seed", 8, "--epochs", 1, "--loss", "own.py:harsher", "--name", "h", "--json").row
    # 3 losses at a third of the learning rate are the same steps, up to rounding, but for weight decay.
    other = beside(
        *("train", "--seed", 8, "--epochs", 1, "--lr", 0.15, "--weight-decay", 0, "--name", "i", "--json")
    ).row
    third = beside(
        *("train", "--seed", 8, "--epochs", 1, "--loss", "own.py:harsher", "--weight-decay", 0, "--name", "j", "--json")
    ).row
    assert one["info"]["settings"]["loss"] == "own.py:harsher"
    # Reported is the task's loss, whatever was trained on.
    value = {k["name"]: k["evaluations"][0]["value"] for k in (other, third)}
    assert value["i"] == pytest.approx(value["j"], rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("own.py:each", "must return a scalar tensor, the batch's mean, not shape [2]"),
        ("own.py:number", "must return a scalar tensor, the batch's mean, not float"),
        ("own.py:detached", "has no gradient"),
        ("own.py:broken", "failed on two examples: IndexError"),
        ("own.py:plan", "did you mean 'plain'?"),
        ("none.py:plain", "none.py does not exist"),
        ("plain", "module:function or file.py:function"),
    ],
)
@pytest.mark.parametrize("command", [("train", "--name", "new"), ("connect", "a", "b", "--curve", "--name", "new")])
def test_a_loss_that_cannot_be_trained_on_costs_no_run(
    g: Any, beside: Any, own: Path, snapshot: Callable[..., Any], command: tuple[str, ...], loss: str, said: str
) -> None:
    before = snapshot(g.path)
    error = beside(*command, "--epochs", 1, "--loss", loss, code=2).stderr
    assert said in error
    assert error.count("\n") == 1
    assert snapshot(g.path) == before


# Divergence


def test_a_run_that_lowers_its_learning_rate_says_so(g: Any, beside: Any, own: Path) -> None:
    own.write_text(LOSSES.replace("calls = 0", "calls = 0  # for the curve"))
    options = ("--epochs", 1, "--lr", 0.08, "--loss", "own.py:stumbling", "--json")
    done = beside("connect", "a", "b", "--curve", *options, "--samples", 1, "--no-sweep")
    said = "begins again with half the learning rate"
    assert done.stderr.splitlines() == [
        f"Warning: The loss became nan at step 4 of 17 (curve): the phase {said}, 0.04.",
        f"Warning: The loss became nan at step 7 of 17 (curve): the phase {said}, 0.02.",
    ]
    told = [f"phase curve diverged and began again at learning rate {lr}" for lr in (0.04, 0.02)]
    assert done.row["reason"] == "; ".join(["curve finished", *told])
    assert told[1] in beside("show", done.row["id"]).stdout
    own.write_text(LOSSES.replace("calls = 0", "calls = 0  # for the mode"))
    done = beside("train", "--seed", 9, *options, "--name", "n")
    assert len(done.stderr.splitlines()) == 2
    assert done.row["info"]["notes"] == [text.replace("curve", "train") for text in told]
    assert "began again at learning rate 0.02" in beside("show", "n").stdout
    assert [r["status"] for r in g.runs()[-2:]] == ["complete"] * 2
