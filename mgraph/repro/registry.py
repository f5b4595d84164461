"""The experiments by name (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

from mgraph.errors import InputError
from mgraph.repro.experiment import SCALES, Experiment, Row
from mgraph.repro.experiments import g_figures, g_table1, g_table2, l_paths, n_minima, s_figures, s_tables

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        experiment.name: experiment
        for module in (s_tables, s_figures, g_table1, g_table2, g_figures, n_minima, l_paths)
        for experiment in module.EXPERIMENTS
    }
)


def experiment_named(name: str) -> Experiment:
    """Return an experiment; InputError, with the closest names, if there is none."""
    if name not in EXPERIMENTS:
        raise InputError(
            f"There is no experiment {name!r}.{_closest(name, list(EXPERIMENTS))} mgraph repro lists them."
        )
    return EXPERIMENTS[name]


def rows_named(experiment: Experiment, names: Sequence[str]) -> list[Row]:
    """Return these rows of an experiment, in its order, or all; InputError, with the closest, for one it has not."""
    known = [row.name for row in experiment.rows]
    for name in names:
        if name not in known:
            raise InputError(
                f"{experiment.name} has no row {name!r}.{_closest(name, known)} Its rows are {', '.join(known)}."
            )
    return [row for row in experiment.rows if not names or row.name in names]


def check_scale(experiment: Experiment, scale: str, rows: Sequence[Row]) -> None:
    """Raise InputError for a scale that does not exist, or at which none of these rows can be run."""
    if scale not in SCALES:
        raise InputError(f"The scale is {', '.join(SCALES)}, not {scale!r}.{_closest(scale, SCALES)}")
    if not any(scale in row.setups for row in rows):
        can = [s for s in SCALES if any(s in row.setups for row in rows)]
        raise InputError(
            f"{', '.join(row.name for row in rows)} of {experiment.name} cannot be run at the scale {scale}, only at "
            f"{', '.join(can)}."
        )


def _closest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 3, 0.4)
    return f" Did you mean {', '.join(close)}?" if close else ""
