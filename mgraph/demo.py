"""The demonstration: four independently trained networks, the wall between them, and the surface that joins them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mgraph.errors import InputError, NameTakenError
from mgraph.graph.graph import create
from mgraph.methods.curves.surface import BezierSurface
from mgraph.methods.linear import Linear

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph
    from mgraph.graph.handles import Connected
    from mgraph.merge.compare import Difference
    from mgraph.progress import ProgressCallback

MODES = "abcd"


@dataclass
class Demo:
    """The results of the demonstration: one table, the components before and after, and the files it wrote."""

    columns: ClassVar[tuple[str, ...]] = (
        *("what", "max_train_loss", "min_train_accuracy", "test_accuracy", "standard_error", "compared"),
    )
    max_barrier: ClassVar[float] = 0.1

    rows: list[dict[str, Any]] = field(default_factory=list)
    components_before: int = 0
    components_after: int = 0
    files: list[Path] = field(default_factory=list)


def run_demo(
    directory: Path,
    *,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> Demo:
    """Train four modes on digits, connect them, merge and ensemble; write the graph, pictures and a model.

    Everything goes below ``directory``; raises NameTakenError if its graph already exists, unless told to overwrite.
    """
    path = directory / "digits.mgraph"
    if path.exists():
        if not overwrite:
            raise NameTakenError(f"{path} already exists; add --overwrite to replace it, or choose another -o.")
        shutil.rmtree(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made: {error.strerror}; choose another -o.") from None
    demo = Demo()
    graph = create(path, arch="cnn", data="digits", device="cpu")
    say("Training four independent modes: seeds 0 to 3.")
    for seed, name in enumerate(MODES):
        mode = graph.train(seed=seed, name=name, progress=progress)
        train, test = mode.evaluate("train"), mode.evaluate("test")["accuracy"]
        demo.rows.append(
            {
                "what": f"mode {name}",
                "max_train_loss": train["loss"].value,
                "min_train_accuracy": train["accuracy"].value,
                "test_accuracy": test.value,
                "standard_error": test.standard_error,
            }
        )
    say("Connecting all six pairs by straight lines, and all four by the bilinear surface.")
    for first, second in combinations(MODES, 2):
        line = graph.connect(first, second, method=Linear(), name=f"line-{first}{second}", progress=progress)
        demo.rows.append(_path_row(f"line {first}-{second}", line))
    wall = graph.connect(*MODES, method=Linear(), name="wall", progress=progress)
    demo.rows.append(_path_row("bilinear surface", wall))
    demo.components_before = len(graph.components(max_barrier=demo.max_barrier).groups)
    say("Training the Bézier surface.")
    surface = graph.connect(*MODES, method=BezierSurface(), name="surface", progress=progress)
    demo.rows.append(_path_row("trained Bézier surface", surface))
    demo.components_after = len(graph.components(max_barrier=demo.max_barrier).groups)
    say("Merging, ensembling, drawing, exporting.")
    _better_models(graph, surface, demo, directory, progress)
    line = graph.connection("line-ad")
    demo.files += [
        surface.plot(directory / "surface.png", before=wall),
        line.plot(directory / "line.png"),
        path,
    ]
    return demo


def _better_models(
    graph: Graph, surface: Connected, demo: Demo, directory: Path, progress: ProgressCallback | None
) -> None:
    merged = surface.merge(name="merged", progress=progress)
    single = merged.results["test"]["accuracy"]
    demo.rows.append(
        {
            "what": "merged point " + ",".join(f"{x:g}" for x in merged.parameter or ()),
            "test_accuracy": single.value,
            "standard_error": single.standard_error,
            **_against(f"corner {merged.baseline}", merged.difference),
        }
    )
    votes = surface.ensemble(progress=progress)
    assert votes.corners is not None, "a connection has ends"
    for what, measured, against, gain in (
        ("ensemble of the 4 corners", votes.corners, f"corner {votes.single_name}", votes.corners_gain),
        (f"ensemble of {votes.members} points", votes.whole, "the 4 corners", votes.grid_gain),
    ):
        accuracy = measured["test"]["accuracy"]
        demo.rows.append(
            {
                "what": what,
                "test_accuracy": accuracy.value,
                "standard_error": accuracy.standard_error,
                **_against(against, gain),
            }
        )
    exported = graph.node("merged").export(directory / "merged.safetensors", overwrite=True, verify=False)
    demo.files.append(exported.path)


def _path_row(what: str, connected: Connected) -> dict[str, Any]:
    data = connected.swept()
    return {
        "what": what,
        "max_train_loss": float(data.values["train", "loss"].max()),
        "min_train_accuracy": float(data.values["train", "accuracy"].min()),
    }


def _against(what: str, difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    return {
        "compared": f"{difference} than {what}" if difference.verdict != "even" else f"{difference} with {what}",
        "against": what,
        "difference": difference.value,
        "difference_error": difference.standard_error,
        "verdict": difference.verdict,
    }
