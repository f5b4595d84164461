"""``mgraph connect A B --auto``: the cheapest method that meets a limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError, UnconnectedError
from mgraph.methods.ladder import LADDER
from mgraph.methods.registry import METHODS
from mgraph_cli.options import SectionOption, setting_values
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph

LIMITS = ("max_barrier", "max_peak", "max_drop", "metric", "split", "budget")
_TRIED = [name for name in LADDER if name in METHODS]
_COLUMNS = ("method", "outcome", "name", "connection", "peak", "barrier", "drop", "seconds")


def auto_options(command: Any) -> Any:
    """Add ``--auto`` and its options."""
    text = {
        "max_barrier": (float, "Largest loss above the chord of the two ends."),
        "max_peak": (float, "Largest loss along the path."),
        "max_drop": (float, "Largest drop below the mean of the two ends (primary metric)."),
        "metric": (str, "Any metric of the task. [default: loss; the primary one for --max-drop]"),
        "split": (str, "train, valid or test. [default: train]"),
        "budget": (
            str,
            "Time to spend, such as 90s, 30m, 1h30m: a method that would surely exceed it is not "
            "started, and one that has started stops then.",
        ),
    }
    for name, (kind, help) in reversed(text.items()):
        command = click.option(
            f"--{name.replace('_', '-')}", cls=SectionOption, section="With --auto", type=kind, help=help
        )(command)
    help = f"The cheapest of {', '.join(_TRIED)} that meets a limit, such as --max-barrier."
    return click.option(
        "--auto", "methods", cls=SectionOption, section="Methods", flag_value="auto", multiple=True, help=help
    )(command)


def connect_auto(
    graph: Graph,
    ends: Sequence[str],
    limits: dict[str, Any],
    flags: dict[str, Any],
    pairs: Sequence[str],
    config: Path | None,
    form: str,
    **options: Any,
) -> None:
    """Try the methods, report the outcome of each, and print them all; UnconnectedError if none meets the limit."""
    for option in ("init", "preset"):
        if options.pop(option) is not None:
            raise InputError(f"--{option} is for one method; name that instead of --auto.")
    if options.pop("no_sweep"):
        raise InputError("--auto judges every attempt by its sweep, so it cannot be combined with --no-sweep.")
    given = {key: value for key, value in limits.items() if value is not None}
    with progress_bars("connect") as progress:
        result = graph.connect_auto(
            *ends, settings=setting_values(flags, pairs, config), say=note, progress=progress, **given, **options
        )
    row = result.describe()
    if form == "json":
        emit_one(row, form=form)
    else:
        emit(row["attempts"], _COLUMNS, form=form)
    if result.winner is None:
        raise UnconnectedError(result.reason)
    note(result.reason)
