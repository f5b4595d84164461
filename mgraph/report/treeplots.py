"""Trees of merges, upright as disconnectivity graphs: modes of a graph, or the basins of a surface."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mgraph.figures import LIGHT, Look, ink, style, write_figure
from mgraph.query.matrix import Floats, leaf_order
from mgraph.query.tree import Dendrogram
from mgraph.report.graphplots import LABELLED, canvas, measure
from mgraph.report.scales import is_wide, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d98c00", "#009e73", "#9a6fb8", "#c0392b", "#8a7d1f", "#2a8c8c", "#7f7f7f")
_GREY = "0.5"  # what merges above the limit
_LETTERS = 11  # of a name, an inch
_LEAST = 1 / 3  # the share of the picture that a tree keeps, wherever its limit is


def plot_dendrogram(tree: Dendrogram, limit: float | None, path: Path, *, look: Look = LIGHT) -> Path:
    """Draw the values at which groups of modes merge, upright, each mode's branch rising from its own value if known.

    A dashed line marks the ``limit``; clusters that merge below it get their own colours.
    """
    with style(dark=look.dark):
        figure, axes = canvas(float(np.clip(2.6 + 0.3 * len(tree.leaves), 4.2, 14.0)), 3.8)
        draw_dendrogram(axes, tree, limit)
        return write_figure(figure, path, look.about)


def draw_dendrogram(axes: Axes, tree: Dendrogram, limit: float | None = None, *, label: str | None = None) -> Axes:
    """Draw a tree of merges on an Axes, as :func:`plot_dendrogram` does, and return it; ``label`` is that of values."""
    n, order = len(tree.leaves), leaf_order(tree)
    known = np.flatnonzero(np.isfinite(tree.own))
    values = np.array([*tree.linkage[:, 2].tolist(), *tree.own[known].tolist()])
    wide = len(values) > 0 and is_wide(float(values.min()), float(values.max()))
    low, high, marked = _range(values, limit, wide=wide, from_zero=tree.criterion.quantity != "peak")
    bottom, top = _margins(low, high, wide=wide)
    across = {leaf: float(i) for i, leaf in enumerate(order)}
    level = {leaf: float(tree.own[leaf]) if leaf in known else bottom for leaf in range(n)}
    of, colours = _clusters(tree, order, limit)
    for k, (left, right, value, _) in enumerate(tree.linkage.tolist()):
        children = int(left), int(right)
        own = _GREY if n + k not in of else colours[of[n + k]]
        for child in children:
            mine = colours.get(of.get(child, -1), _GREY)
            axes.plot([across[child]] * 2, [level[child], value], color=mine, linewidth=1.4, solid_capstyle="butt")
        axes.plot([across[c] for c in children], [value] * 2, color=own, linewidth=1.4, solid_capstyle="projecting")
        across[n + k], level[n + k] = (across[children[0]] + across[children[1]]) / 2, value
    roots = tree.roots
    for root in roots if len(roots) > 1 else ():  # these never merge
        axes.plot([across[root]] * 2, [level[root], top], color=_GREY, linewidth=1, linestyle=(0, (2, 2)))
    axes.scatter([across[i] for i in known.tolist()], [level[i] for i in known.tolist()], s=14, color=ink(), zorder=3)
    if limit is not None and marked:
        axes.axhline(limit, color=ink(), linewidth=0.8, linestyle="dashed")
    names = [tree.leaves[leaf].label for leaf in order]
    room = axes.get_window_extent().width / axes.figure.dpi * _LETTERS / (n + 0.4)  # of each, in letters
    turned = any((len(one) + len(other)) / 2 + 1 > room for one, other in pairwise(names))
    axes.set_xticks(
        [across[leaf] for leaf in order], names, rotation=60 if turned else 0, ha="right" if turned else "center"
    )
    if n > LABELLED:
        axes.set_xticks([])
    if wide:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, low, high)
    axes.set(xlim=(-0.7, n - 0.3), ylim=(bottom, top))
    axes.set_ylabel(label or f"{measure(tree.criterion)} at which groups merge")
    own = "dots: the modes' own" if label is None else "dots: the lowest point of each"
    axes.set_title("; ".join(_said(tree, limit, own, marked=marked, high=high)), fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return axes


def _clusters(tree: Dendrogram, order: list[int], limit: float | None) -> tuple[dict[int, int], dict[int, str]]:
    """Return the largest cluster within the limit that each belongs to, and its colour; merges above it have none."""
    n = len(tree.leaves)
    top = {c: c for c in range(n)}
    for k, (left, right, value, _) in enumerate(tree.linkage.tolist()):
        if limit is None or value <= limit:
            top = {c: n + k if t in (int(left), int(right)) else t for c, t in top.items()} | {n + k: n + k}
    coloured = list(dict.fromkeys(top[leaf] for leaf in order if top[leaf] >= n))
    return top, {t: _COLOURS[i % len(_COLOURS)] for i, t in enumerate(coloured)}


def _range(values: Floats, limit: float | None, *, wide: bool, from_zero: bool) -> tuple[float, float, bool]:
    """Return what the axis must show, and whether the limit is on it: not if the tree would become too small."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if from_zero and not wide:
        low, high = min(low, 0.0), max(high, 0.0)
    if limit is None or (wide and limit <= 0):
        return low, high, False
    ends = min(low, limit), max(high, limit)
    if not high > low:
        return *ends, True
    share = np.log(high / low) / np.log(ends[1] / ends[0]) if wide else (high - low) / (ends[1] - ends[0])
    return (*ends, True) if share >= _LEAST else (low, high, False)


def _margins(low: float, high: float, *, wide: bool) -> tuple[float, float]:
    if wide:
        ratio = high / low
        return low / ratio**0.06, high * ratio**0.1
    span = max(high - low, 1e-3 * abs(high), 1e-12)
    return low - 0.06 * span, high + 0.1 * span


def _said(tree: Dendrogram, limit: float | None, own: str, *, marked: bool, high: float) -> list[str]:
    parts = [own] if np.isfinite(tree.own).any() else []
    if limit is not None:
        beyond = "above" if limit > high else "below"
        parts.append(f"dashed: {limit:g}" if marked else f"{limit:g} lies far {beyond} this")
    return parts
