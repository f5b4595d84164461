"""Bad settings: methods, flags and grids that cannot be meant. One sentence, exit code 2, the graph as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Case = tuple[str, tuple[str, ...], str | bytes]


def case(args: str, expect: tuple[str, ...], config: str | bytes = "") -> Case:
    """A command line, what its message must contain, and what stands in x.toml."""
    return args, expect, config


CASES = {
    # Ends and methods
    "no end": case("connect --linear", ("ENDS", "--help")),
    "one end, linear": case("connect a --linear", ("--linear joins 2 modes", "1 given")),
    "three ends, linear": case("connect a b c --linear", ("4 (a bilinear surface)", "3 given")),
    "one end, curve": case("connect a --curve", ("exactly 2", "1 given")),
    "four ends, curve": case("connect a b c d --curve", ("exactly 2", "4 given")),
    "two ends, surface": case("connect a b --surface", ("exactly 4", "2 given")),
    "five ends, surface": case("connect a b c d m --surface", ("exactly 4", "5 given")),
    "no method": case("connect a b", ("exactly one method", "--linear, --simplex, --chain, --curve, --surface")),
    "two methods": case("connect a b --linear --curve", ("exactly one method",)),
    "unknown method": case("connect a b --curvy", ("--curvy", "See: mgraph connect --help")),
    "unknown method to describe": case(
        "methods curv", ("'curv'", "linear, simplex, chain, curve, surface", "Did you mean curve?")
    ),
    "two ends, simplex": case("connect a b --simplex", ("--simplex joins 3 or more modes", "2 given")),
    "three ends, chain": case("connect a b c --chain", ("--chain joins exactly 2", "3 given")),
    "three ends, surface": case("connect a b c --surface", ("exactly 4", "3 given")),
    "one end, simplex": case("connect a --simplex", ("3 or more modes", "1 given")),
    "start of other ends": case("connect a c --curve --init curve", ("c is not an end of curve", "joins its ends")),
    "a path as start of a surface": case("connect a b c d --surface --init line", ("c is not an end of line",)),
    "a mode as start": case("connect a b --curve --init a", ("a is a mode, not a connection",)),
    "unknown start": case("connect a b --curve --init curv", ("curv", "did you mean curve")),
    "start of a simplex": case("connect a b c d --simplex --init s", ("no control points besides its ends",)),
    "the same node twice": case("connect a b c a --linear", ("a is given twice",)),
    "buffers of a stranger": case("connect a b --linear --buffers-from c", ("c is not one",)),
    # Settings
    "unknown setting": case(
        "connect a b --curve -s bend=2", ("'bend'", "known are", "batch_size", "Did you mean bends?")
    ),
    "setting of another method": case("connect a b c d --surface --bends 2", ("'bends'", "degree")),
    "no number": case("train --epochs many", ("epochs must be a whole number", "'many'")),
    "no whole number": case("train --epochs 1.5", ("epochs must be a whole number",)),
    "epochs of 0": case("train --epochs 0", ("epochs must be at least 1",)),
    "learning rate 0": case("train --lr 0", ("lr must be above 0",)),
    "learning rate NaN": case("train --lr nan", ("lr must be a number",)),
    "learning rate infinite": case("train -s lr=inf", ("lr must be a number",)),
    "negative seed": case("train --seed -1", ("seed must be at least 0",)),
    "huge seed": case(f"train --seed {10**30}", ("seed must be at most",)),
    "momentum of 1": case("connect a b --curve --momentum 1", ("momentum must be below 1",)),
    "no bends": case("connect a b --curve --bends 0", ("bends must be at least 1",)),
    "degree of one number": case("connect a b c d --surface --degree 2", ("degree", "2 whole numbers")),
    "degree of 0": case("connect a b c d --surface --degree 0,2", ("degree must be at least 1",)),
    "negative epochs": case("connect a b c d --surface --epochs -1", ("epochs must be at least 0",)),
    "many bends": case("connect a b --chain --bends 101", ("bends must be at most 100, not 101",)),
    "half a bend": case("connect a b --chain --bends 1.5", ("bends must be a whole number",)),
    "high degree": case("connect a b c d --surface --degree 2,31", ("degree must be at most 30, not 31",)),
    "degree of three numbers": case("connect a b c d --surface --degree 2,2,2", ("degree must be 2 whole numbers",)),
    "no samples": case("connect a b --curve --samples 0", ("samples must be at least 1",)),
    "more samples than examples": case(
        "connect a b --curve --samples 40 --batch-size 64",
        ("batch of 64", "40 parameter values", "BatchNorm needs two"),
    ),
    "area of a path": case("connect a b --curve --measure area", ("uniform or arc, not area",)),
    "length of a surface": case("connect a b c d --surface --measure arc", ("uniform or area, not arc",)),
    "unknown measure": case("connect a b --chain --measure length", ("uniform, arc, area", "'length'")),
    "unknown draw": case("connect a b --chain --draw sobol", ("stratified, lattice, iid", "'sobol'")),
    "neither split nor whole": case("connect a b --chain --batch half", ("split, whole", "'half'")),
    "a row that is an end": case("connect a b --curve --fixed 0", ("row 0", "[1]")),
    "a row that is not there": case("connect a b c d --surface --fixed 9", ("row 9", "[1, 3, 4, 5, 7]")),
    "a pattern without a match": case("connect a b --curve --train-only 9.*,fc.*", ("'fc.*'", "there are 0.weight")),
    "tf32 on the CPU": case("connect a b --curve --precision tf32", ("TF32 needs an NVIDIA GPU", "fp32 or bf16")),
    "tf32 on the CPU, a mode": case("train --precision tf32", ("TF32 needs an NVIDIA GPU", "fp32 or bf16")),
    "tf32 on the CPU, a sweep": case("sweep line --precision tf32", ("TF32 needs an NVIDIA GPU", "fp32 or bf16")),
    "unknown precision": case("sweep line --precision fp8", ("fp8",)),
    "nesterov of nothing": case("connect a b --curve --nesterov true --momentum 0", ("nesterov", "momentum above 0")),
    "clipping to nothing": case("train --clip 0", ("clip must be above 0",)),
    "smoothing everything": case("train --label-smoothing 1", ("label_smoothing must be below 1",)),
    "unknown optimiser": case("train --optimizer adam", ("sgd, adamw", "'adam'")),
    "unknown schedule": case("train --schedule linear", ("curve, cosine, constant",)),
    "a phase of nothing": case("connect a b c d --surface --phases edges", ("SAMPLED:EPOCHS", "'edges'")),
    "a phase of the middle": case("connect a b c d --surface --phases middle:3", ("edges, columns, surface",)),
    "a phase with a bad rate": case("connect a b c d --surface --phases edges:3@0", ("learning rate", "above 0")),
    "a phase that moves a corner": case("connect a b c d --surface --phases surface:3/0", ("cannot move row 0",)),
    "a phase that moves what is not there": case("connect a b c d --surface --phases surface:3/99", ("row 99",)),
    "phases of a curve": case("connect a b --curve --phases surface:3", ("no setting 'phases'",)),
    "malformed phases in a config": case("connect a b c d --surface --config x.toml", ("phases",), "phases = 3"),
    "unknown preset": case("connect a b c d --surface --preset papers", ("'papers'", "three-phase, paper")),
    "preset of another method": case("connect a b --curve --preset paper", ("'paper'", "none")),
    "no loss": case("connect a b --curve --loss entropy", ("module:function or file.py:function", "'entropy'")),
    "copies without a name": case("train --epochs 3 --keep 1", ("keep needs a name", "NAME-EPOCH")),
    "copies after the end": case("train --epochs 3 --keep 1,3 --name e", ("below epochs=3",)),
    "a copy after no epoch": case("train --epochs 3 --keep 0 --name e", ("keep must be at least 1",)),
    "no such update": case("connect a b --curve --update fast", ("auto, eager, compiled",)),
    "pair without value": case("train -s lr", ("key=value", "'lr'")),
    "missing config": case("train --config none.toml", ("none.toml", "cannot be read")),
    "no TOML": case("train --config x.toml", ("is not TOML",), "lr = = 1"),
    "binary TOML": case("train --config x.toml", ("is not TOML",), b"\xff\xfe\x00"),
    "unknown key in config": case("train --config x.toml", ("'momentun'",), "momentun = 0.5"),
    "table in config": case("train --config x.toml", ("lr must be a number",), "[lr]\nvalue = 1"),
    "threads of 0": case("train --threads 0", ("--threads",)),
    "no such device": case("train --device tpu", ("'tpu'", "auto")),
    "device without numbers": case("train --device meta", ("'meta'", "auto")),
    "device that is not there": case("train --device cuda:99", ("cuda:99", "auto")),
    # Sweeps and questions
    "grid of 1": case("sweep line --grid 1", ("at least 2",)),
    "grid of words": case("sweep line --grid x", ("--grid takes whole numbers", "'x'")),
    "grid for a surface on a line": case("sweep line --grid 3,3", ("grid",)),
    "three-dimensional grid": case("sweep s --grid 3,3,3", ("grid",)),
    "bad grid, before training": case("connect a b --curve --grid 1", ("at least 2",)),
    "surface grid on a new curve": case("connect a b --curve --grid 3,3", ("grid",)),
    "two numbers for a simplex": case("connect a b c --simplex --grid 3,3", ("one whole number",)),
    "metric of one's own, unknown": case("sweep line --metric f1", ("'f1'", "top5")),
    "more of the top than classes": case("sweep line --metric top11", ("top11", "10")),
    "metric file missing": case("sweep line --metric none.py:f", ("none.py", "does not exist")),
    "refined to nothing": case("sweep line --refine 0", ("positive number, not 0",)),
    "refined below nothing": case("sweep line --refine -0.1", ("positive number, not -0.1",)),
    "refined to NaN": case("sweep line --refine nan", ("positive number",)),
    "refined on a split that is not measured": case(
        "sweep line --refine 0.1 --refine-on test:loss --splits train", ("test",)
    ),
    "refined on nothing": case("sweep line --refine 0.1 --refine-on train:f1", ("f1",)),
    "refined on a word": case("sweep line --refine 0.1 --refine-on loss", ("loss",)),
    "refinement without a bound": case("sweep line --max-points 99", ("--refine BOUND",)),
    "refined with fewer points than there are": case(
        "sweep line --refine 0.1 --grid 5 --max-points 4", ("max-points",)
    ),
    "table of a mode": case("show a --table", ("a is a mode",)),
    "table of what was never swept": case("show bare --table", ("mgraph sweep bare",)),
    "unknown split": case("sweep line --splits train,dev", ("'dev'", "train, valid, test")),
    "negative examples": case("sweep line --examples -5", ("at least 1 example", "-5")),
    "one example for BatchNorm": case("sweep line --bn-examples 1", ("at least 2 examples",)),
    "no threshold": case("components", ("exactly one of --max-barrier",)),
    "two thresholds": case("components --max-barrier 1 --max-peak 1", ("exactly one",)),
    "threshold NaN": case("components --max-barrier nan", ("finite",)),
    "unknown metric": case("components --max-barrier 1 --metric f1", ("'f1'", "measured by")),
    "unknown split asked for": case("components --max-barrier 1 --split dev", ("'dev'",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_settings(
    commands: Any, shared: Path, refused: Callable[..., None], snapshot: Callable[..., Any], name: str
) -> None:
    args, expect, config = CASES[name]
    if config:
        (shared.parent / "x.toml").write_bytes(config.encode() if isinstance(config, str) else config)
    before = snapshot(shared)
    refused(commands(shared.parent), args.split(" "), expect, programs=list(CASES).index(name) % 4 == 0)
    assert snapshot(shared) == before
