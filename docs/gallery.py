"""Draws the gallery, docs/gallery.md and its pictures: ``python docs/gallery.py``.

It runs the demo, adds a curve, and gives every command that the page shows, which takes a few minutes.
``python docs/gallery.py DIRECTORY`` takes the demo that is there.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
GRAPH = "digits.mgraph"


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery: what it shows, the command that draws it, and how to read it."""

    title: str
    command: str
    reads: str

    @property
    def file(self) -> str:
        """The name of its file, which is the command's last word but for the options."""
        words = shlex.split(self.command)
        return words[words.index("-o") + 1]


BEFORE = (
    "mgraph demo",
    f"mgraph connect a d --curve --epochs 40 --name curve --graph {GRAPH}",
)
"""What is in the graph before the pictures are drawn."""

PICTURES = (
    Picture(
        "A surface, before and after training",
        "mgraph plot surface -o surface.png",
        "Loss and accuracy on the bilinear surface of four modes, and on the trained one. Dark is good everywhere. The "
        "star is the point that is best on validation data, the cross the one that is best on test data, which nobody "
        "may choose.",
    ),
    Picture(
        "The same in three dimensions",
        "mgraph plot wall --3d --split test --metric accuracy -o relief.png",
        "The accuracy on the bilinear surface as a relief, as in figure 1 of [S].",
    ),
    Picture(
        "Basins",
        "mgraph plot wall --basins -o basins.png",
        "Where the loss has basins, and at which saddles they join; the tree on the right has each basin at its own "
        "loss.",
    ),
    Picture(
        "The plane through three points",
        "mgraph plot plane --path curve -o plane.png",
        "Loss and accuracy beyond the triangle, with the curve projected and its distance from the plane below: a "
        "projection alone may show a path where it never was.",
    ),
    Picture(
        "A curve, before and after training",
        "mgraph plot curve -o curve.png",
        "The loss rises to a wall on the segment, and stays below it on the Bézier curve. Bands are standard errors.",
    ),
    Picture(
        "Two ways between two modes",
        "mgraph plot line-ad curve -o paths.png",
        "The segment and the curve between the same two modes, on the same axes.",
    ),
    Picture(
        "Votes along a curve",
        "mgraph plot curve --ensemble -o votes.png",
        "On the left, an end and the point at t vote, as in figure 4 of [G]; on the right, more and more points of the "
        "curve, beside as many independent modes.",
    ),
    Picture(
        "Predictions that flip",
        "mgraph plot curve --flips -o flips.png",
        "Which test examples are predicted otherwise along the curve.",
    ),
    Picture(
        "All pairs of modes",
        "mgraph matrix --by barrier -o matrix.png",
        "Below the diagonal the best edge of each pair, above it the best route.",
    ),
    Picture(
        "How the modes are connected",
        "mgraph dendrogram --max-peak 1.5 -o dendrogram.png",
        "At which loss groups of modes merge; the line is the limit.",
    ),
    Picture(
        "Weight space and function space",
        "mgraph map --layout distance,disagreement -o map.png",
        "The modes by their distance in weight space, and by the share of test examples that they sort into different "
        "classes.",
    ),
    Picture(
        "How sharp minima are",
        "mgraph sharpness b merged --examples 500 -o sharpness.png",
        "How the train loss changes when all tensors move by a share of their norms: the merged point lies in a "
        "flatter place than the mode.",
    ),
    Picture(
        "How alike layers are",
        "mgraph compare a b c d -o compare.png",
        "The cosines of the layers of independent modes.",
    ),
    Picture(
        "A training",
        "mgraph plot long -o training.png",
        "Loss, accuracy, learning rate and distance from the start.",
    ),
)


def page() -> str:
    """Return the text of docs/gallery.md."""
    lines = [
        "# Gallery",
        "",
        "Every picture is of the graph that the demo makes, with one curve more:",
        "",
        "```sh",
        *(command.replace(f" --graph {GRAPH}", "") for command in BEFORE),
        "```",
        "",
        "Commands that draw take `.png`, `.pdf` or `.svg`, and `--dark`; [in Python](python.md#pictures), each panel",
        "can be drawn on an Axes of your own. `python docs/gallery.py` draws this page anew. The whole graph as a page",
        "in a browser is [the report](report.md).",
    ]
    for picture in PICTURES:
        lines += ["", f"## {picture.title}", "", "```sh", picture.command, "```", ""]
        lines += [f"![{picture.title}](gallery/{picture.file})", "", picture.reads]
    return "\n".join(lines) + "\n"


def draw(directory: Path, to: Path) -> None:
    """Draw all pictures of the demo in a directory, as files of few colours."""
    mgraph = [sys.executable, "-m", "mgraph_cli"]
    if not (directory / GRAPH).exists():
        subprocess.run([*mgraph, "demo", "-o", str(directory)], check=True)
    commands = [*BEFORE[1:], *(picture.command for picture in PICTURES)]
    known = subprocess.run(
        [*mgraph, "show", "curve", "--graph", GRAPH], cwd=directory, capture_output=True, check=False
    )
    for command in commands[known.returncode == 0 :]:
        print(command, flush=True)
        subprocess.run([*mgraph, *shlex.split(command)[1:]], cwd=directory, check=True, stdout=subprocess.DEVNULL)
    to.mkdir(exist_ok=True)
    for picture in PICTURES:
        with Image.open(directory / picture.file) as image:
            small = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
            small.save(to / picture.file, optimize=True)


def main() -> None:
    """Write the page and its pictures."""
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]).resolve(), DOCS / "gallery")
    else:
        directory = Path(tempfile.mkdtemp())
        draw(directory, DOCS / "gallery")
        shutil.rmtree(directory)
    (DOCS / "gallery.md").write_text(page())


if __name__ == "__main__":
    main()
