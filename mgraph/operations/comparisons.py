"""Compare points of the graph, tensor by tensor (no torch)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from mgraph.alone import alone
from mgraph.errors import InputError, LayoutMismatchError
from mgraph.evaluate.similarity import Similarity, TensorSimilarity, same_numbers, similarities
from mgraph.notebook import InNotebook
from mgraph.session.members import label
from mgraph.session.session import Session
from mgraph_store import Layout, Node, Space

WHOLE = "(all)"
WHOLE_MISLEADS = (
    "The whole vector's cosine misleads where there is normalisation, whose factors are near 1 in every mode; look at "
    "the layers' weights."
)


@dataclass(frozen=True)
class Pair:
    """Two points compared: ``source`` and ``target`` are their names.

    ``permuted``: they differ, but every tensor holds the same numbers in both, in another order.
    """

    source: str
    target: str
    identical: bool
    similarity: Similarity
    permuted: bool = False

    @property
    def verdict(self) -> str:
        """Say in words what the cosines mean."""
        median = self.similarity.median_cosine
        if self.identical:
            return f"{self.source} and {self.target} have exactly the same parameters"
        if self.permuted:
            return (
                f"{self.source} and {self.target} are permuted copies of one mode: every tensor holds the same "
                "numbers, in another order"
            )
        if median is None:
            return f"{self.source} and {self.target} have no weights between which an angle is defined"
        found = f"the median cosine of {len(self.similarity.weights)} weight tensors is {median:.3g}"
        if self.similarity.same_run:
            return (
                f"{self.source} and {self.target} look like the same run: {found}, where independent runs have about 0"
            )
        return f"{self.source} and {self.target} look like independent runs: {found}"

    def describe(self) -> dict[str, Any]:
        """Return everything as plain data."""
        s = self.similarity
        return {
            "source": self.source,
            "target": self.target,
            "identical": self.identical,
            "permuted": self.permuted,
            "same_run": self.identical or self.permuted or s.same_run,
            "median_cosine": s.median_cosine,
            "variance_ratio": s.variance_ratio,
            "verdict": self.verdict,
            "layers": [_row(t) for t in s.tensors],
            "whole": _row(s.whole) | {"layer": WHOLE, "note": WHOLE_MISLEADS},
        }


@dataclass(frozen=True)
class Comparison(InNotebook):
    """The comparisons of all pairs of points; ``points`` are their names, ``graph`` is the name of theirs."""

    pairs: tuple[Pair, ...]
    points: tuple[str, ...] = ()
    graph: str = ""

    @override
    def _shown(self) -> dict[str, Any]:
        return {"verdicts": [pair.verdict for pair in self.pairs], "tensors": self.rows()}

    def describe(self) -> list[dict[str, Any]]:
        """Return one entry for each pair, as plain data, with its layers and the whole vector."""
        return [pair.describe() for pair in self.pairs]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each pair and tensor, and one for the whole vector."""
        return [
            {"source": pair["source"], "target": pair["target"]} | row
            for pair in self.describe()
            for row in (*pair["layers"], {k: v for k, v in pair["whole"].items() if k != "note"})
        ]

    def plot(self, path: str | Path, *, dark: bool = False) -> Path:
        """Draw cosine, relative distance and variances for every tensor (.png, .pdf or .svg): bars, or heat maps."""
        from mgraph.figures import Look
        from mgraph.report.measures import plot_comparison

        command = shlex.join(["mgraph", "compare", *self.points, *(["--dark"] if dark else [])])
        return plot_comparison(self.describe(), Path(path), look=Look(dark, {"command": command, "graph": self.graph}))

    def draw(self, ax: Any = None, *, what: str = "cosine") -> Any:
        """Draw cosine, relative (distance) or variance by tensor on a Matplotlib Axes (default: a new one), and return
        that: bars, or a heat map of more than three pairs.
        """
        from mgraph.figures import drawing_on
        from mgraph.report.measures import COMPARED, check_what, draw_compared

        check_what(what, COMPARED)
        with drawing_on(ax) as axes:
            return draw_compared(axes, self.describe(), what)


@alone
def compare(session: Session, nodes: Sequence[Node]) -> Comparison:
    """Compare all pairs of two or more points, with only a block of each in memory.

    Raises InputError for fewer than two points or the same one twice, and LayoutMismatchError, naming the first
    tensor, for networks that differ. Points of other tasks on the same network can be compared.
    """
    if len(nodes) < 2:
        raise InputError(f"A comparison needs at least 2 points; {len(nodes)} given.")
    for i, node in enumerate(nodes):
        if any(node.id == other.id for other in nodes[:i]):
            raise InputError(f"{label(node)} is given twice; compare different points.")
    with session.store.reading() as reader:
        spaces = {node.space_id: reader.get(Space, id=node.space_id) for node in nodes}
    layout = Layout.from_json(spaces[nodes[0].space_id].layout)
    for node in nodes[1:]:
        space = spaces[node.space_id]
        if difference := layout.first_difference(Layout.from_json(space.layout)):
            raise LayoutMismatchError(
                f"{label(nodes[0])} (space {spaces[nodes[0].space_id].name}) and {label(node)} (space {space.name}) "
                f"have different networks: {difference}; only points of one network can be compared."
            )
    found = similarities(layout.parameters, len(nodes), session.store.parameter_blocks(nodes))
    pairs = []
    for (i, j), s in found.items():
        identical = s.whole.distance == 0.0
        permuted = False
        if not identical and s.may_be_permuted:
            permuted = same_numbers(layout.parameters, session.store.parameter_blocks([nodes[i], nodes[j]]))
        pairs.append(Pair(label(nodes[i]), label(nodes[j]), identical, s, permuted))
    return Comparison(tuple(pairs), tuple(map(label, nodes)), session.store.path.name)


def _row(t: TensorSimilarity) -> dict[str, Any]:
    return {
        "layer": t.name,
        "shape": list(t.shape),
        "weight": t.is_weight,
        "cosine": t.cosine,
        "distance": t.distance,
        "relative": t.relative,
        "norm_source": t.norms[0],
        "norm_target": t.norms[1],
        "variance_source": t.variances[0],
        "variance_target": t.variances[1],
    }
