"""``mgraph connect A B --auto``: the cheapest method that meets a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mgraph import LADDER, METHODS, AutoOptions
from mgraph.errors import InputError, UnconnectedError
from mgraph_cli.options import GivenSettings, SectionOption, given, keyword_options
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.progress import progress_bars

if TYPE_CHECKING:
    from mgraph import Graph

LIMITS = ("max_barrier", "max_peak", "max_drop", "split", "budget")
_TRIED = [name for name in LADDER if name in METHODS]
_USUAL = {"splits": ["train", "valid", "test"]}
_COLUMNS = ("method", "outcome", "name", "connection", "peak", "barrier", "drop", "seconds")


def auto_options(command: Any) -> Any:
    """Add ``--auto`` and its options."""
    command = keyword_options(AutoOptions, only=LIMITS, section="With --auto")(command)
    help = f"The cheapest of {', '.join(_TRIED)} that meets a limit, such as --max-barrier."
    return click.option(
        "--auto", "methods", cls=SectionOption, section="Methods", flag_value="auto", multiple=True, help=help
    )(command)


def connect_auto(
    graph: Graph,
    ends: Sequence[str],
    settings: GivenSettings,
    limits: Any,
    options: dict[str, Any],
    *,
    no_sweep: bool,
    form: str,
) -> None:
    """Try the methods, report the outcome of each, and print them all; UnconnectedError if none meets the limit."""
    for option, value in (("init", options.pop("init")), ("preset", settings.preset)):
        if value is not None:
            raise InputError(f"--{option} is for one method; name that instead of --auto.")
    if options.pop("align"):
        raise InputError("--align is for one method; give mgraph align first, and connect what it makes.")
    if options.pop("inner") is not None:
        raise InputError("--inner is for a chain or band; name that instead of --auto.")
    for name in ("splits", "examples", "bn_examples"):
        if options.pop(name) != _USUAL.get(name):
            raise InputError(f"--{name.replace('_', '-')} is for one method; name that instead of --auto.")
    metrics = options.pop("metrics")
    if len(metrics) > 1:
        raise InputError("With --auto, --metric is what the limit is about: give one.")
    limits |= {"metric": metrics[0]} if metrics else {}
    if no_sweep:
        raise InputError("--auto judges every attempt by its sweep, so it cannot be combined with --no-sweep.")
    with progress_bars("connect") as progress:
        result = graph.connect_auto(
            *ends,
            settings=settings.values(),
            say=note,
            progress=progress,
            **limits,
            **given(options),
        )
    row = result.describe()
    if form == "json":
        emit_one(row, form=form)
    else:
        emit(row["attempts"], _COLUMNS, form=form)
    if result.winner is None:
        raise UnconnectedError(result.reason)
    note(result.reason)
