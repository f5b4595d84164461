"""Plots of sweeps: heat maps of loss and accuracy over a surface, curves of them along t."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgraph.errors import InputError
from mgraph.explore.sweepdata import SweepData
from mgraph.families import Floats

FORMATS = (".png", ".pdf", ".svg")
_SPLIT_COLOURS = {"train": "#1b6ca8", "valid": "#e08a00", "test": "#b3263c"}
_TITLES = {"loss": "loss", "accuracy": "accuracy"}


def plot_sweep(
    data: SweepData, ends: Sequence[str], path: Path, *, title: str = "", before: SweepData | None = None
) -> Path:
    """Draw a sweep to ``path`` (.png, .pdf or .svg), the modes marked by name.

    A surface becomes one row of heat maps per stage (``before`` above, at the same colour scale) with train
    loss and test accuracy; a curve becomes two panels along t with every split. Raises InputError for another
    file type or a directory that cannot be written.
    """
    check_path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "mgraph", "font.size": 9}):
        draw = _draw_curve if data.family.dimension == 1 else _draw_surface
        figure: Figure = draw(data, ends, title, before)
        try:
            # No date in the file: the same numbers give the same picture.
            metadata = {".png": {"Software": "mgraph"}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
            figure.savefig(path, dpi=150, metadata=metadata[path.suffix])
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def check_path(path: Path) -> None:
    """Raise InputError for a picture that cannot be written: its type, or its directory."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name} must end in {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist; create it first.")


def _draw_surface(data: SweepData, ends: Sequence[str], title: str, before: SweepData | None) -> Any:
    from matplotlib.figure import Figure

    stages = [(label, sweep) for label, sweep in (("before", before), ("after", data)) if sweep is not None]
    split_of = {
        "loss": _shown_split(data, ("train", "valid", "test")),
        "accuracy": _shown_split(data, ("test", "valid")),
    }
    panels = [m for m in ("loss", "accuracy") if (split_of[m], m) in data.values]
    figure = Figure(figsize=(4.6 * len(stages), 3.9 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), len(stages), squeeze=False)
    for row, metric in zip(axes, panels, strict=True):
        key = (split_of[metric], metric)
        low, high = _finite_range([sweep.values[key] for _, sweep in stages if key in sweep.values])
        for axis, (stage, sweep) in zip(row, stages, strict=True):
            if key not in sweep.values:
                axis.set_axis_off()
                continue
            image = _heat_map(axis, sweep, key, ends, low, high)
            worst = sweep.values[key].max() if metric == "loss" else sweep.values[key].min()
            suffix = f"{stage} training: " if len(stages) > 1 else ""
            extreme = "max" if metric == "loss" else "min"
            axis.set_title(f"{suffix}{key[0]} {_TITLES[metric]}, {extreme} {worst:.3g}")
        figure.colorbar(image, ax=list(row), shrink=0.85)
    figure.suptitle(title)
    return figure


def _finite_range(arrays: Sequence[Floats]) -> tuple[float, float]:
    """Return the colour scale; a failed sweep's non-finite cells stay white."""
    values = np.concatenate(arrays)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _heat_map(axis: Any, sweep: SweepData, key: tuple[str, str], ends: Sequence[str], low: float, high: float) -> Any:
    values = sweep.values[key].reshape(tuple(sweep.sweep.grid))
    better_low = key[1] == "loss"
    du, dv = (0.5 / (n - 1) for n in values.shape)  # half a cell: every cell is centred on its point
    # Rows of the array are u: u runs upwards, v to the right.
    image = axis.imshow(
        values,
        origin="lower",
        extent=(-dv, 1 + dv, -du, 1 + du),
        cmap="viridis" if better_low else "viridis_r",
        vmin=low,
        vmax=high if high > low else low + 1e-12,
        interpolation="nearest",
        aspect="equal",
    )
    for (u, v), name in zip(sweep.family.end_parameters(), ends, strict=True):
        axis.plot(v, u, "o", color="white", markeredgecolor="black", clip_on=False, zorder=3)
        right, top = v > 0.5, u > 0.5
        axis.annotate(
            name,
            (v, u),
            xytext=(-7 if right else 7, -7 if top else 7),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if top else "bottom",
            color="white",
            weight="bold",
            path_effects=_outline(),
        )
    axis.set_xlabel("v")
    axis.set_ylabel("u")
    return image


def _outline() -> list[Any]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2, foreground="black")]


def _draw_curve(data: SweepData, ends: Sequence[str], title: str, before: SweepData | None) -> Any:
    from matplotlib.figure import Figure

    metrics = [m for m in ("loss", "accuracy") if any(metric == m for _, metric in data.values)]
    figure = Figure(figsize=(4.8 * len(metrics), 3.6), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    t = data.parameters[:, 0]
    for axis, metric in zip(axes, metrics, strict=True):
        for split, colour in _SPLIT_COLOURS.items():
            if (split, metric) not in data.values:
                continue
            values = data.values[split, metric]
            axis.plot(t, values, color=colour, label=split)
            axis.plot([0, 1], values[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
            if before is not None and (split, metric) in before.values:
                axis.plot(before.parameters[:, 0], before.values[split, metric], ":", color=colour, linewidth=1)
        axis.set_xlabel(f"t   ({ends[0]} at 0, {ends[1]} at 1)")
        axis.set_ylabel(_TITLES[metric])
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.3)
    if before is not None:
        axes[0].plot([], [], ":", color="grey", label="straight line")
    axes[0].legend()
    figure.suptitle(title)
    return figure


def _shown_split(data: SweepData, preference: Sequence[str]) -> str:
    present = {split for split, _ in data.values}
    return next((s for s in preference if s in present), preference[0])
