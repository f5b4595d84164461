"""Labelling nodes and connections: tag, note."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph_cli.completion import THINGS
from mgraph_cli.options import output_options, with_graph
from mgraph_cli.output import emit_one

if TYPE_CHECKING:
    from mgraph import Graph


@click.command()
@click.argument("what", shell_complete=THINGS)
@click.argument("tags", nargs=-1)
@click.option("--remove", is_flag=True, help="Remove these tags.")
@with_graph
@output_options
def tag(what: str, tags: tuple[str, ...], remove: bool, graph: Graph, form: str) -> None:
    """Add tags to a node or connection; without TAGS, print those it has.

    \b
    Example:
      mgraph tag a good baseline
      mgraph ls --where "tag = 'good'"
    """
    found = graph.find(what)
    _print(what, found.unlabel(*tags) if remove else found.tag(*tags), form)


@click.command("note")
@click.argument("what", shell_complete=THINGS)
@click.argument("pairs", nargs=-1, metavar="KEY=VALUE...")
@click.option("--remove", "keys", multiple=True, metavar="KEY", help="Remove this note; may be repeated.")
@with_graph
@output_options
def note(what: str, pairs: tuple[str, ...], keys: tuple[str, ...], graph: Graph, form: str) -> None:
    """Add notes (values by key) to a node or connection; without any, print those it has.

    \b
    Example:
      mgraph note a machine=gpu3 "remark=first with the new data"
      mgraph ls --where "note.machine = 'gpu3'"
    """
    notes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"A note is key=value, not {pair!r}; a word alone is a tag: mgraph tag {what} {pair}")
        notes[key] = value
    found = graph.find(what)
    labels = found.note(**notes)
    _print(what, found.unlabel(*keys) if keys else labels, form)


def _print(what: str, labels: dict[str, Any], form: str) -> None:
    emit_one({"what": what, **labels}, form=form)
