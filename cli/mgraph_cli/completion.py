"""What the shell completes: names in the graph, and the specs of networks and data that come with mgraph.

Completion must never get in the way of typing: whatever goes wrong, there is nothing to choose from, and nothing is
said. It reads the index alone, waits at most a second for its lock, and imports no torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from click import Context, Parameter

from mgraph import visible
from mgraph_cli.finding import find_graph

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Completer = Callable[[Context, Parameter, str], list[CompletionItem]]

_LIMIT, _WAIT = "MGRAPH_LOCK_TIMEOUT", "1"  # seconds for the index's lock
_MOST = 500  # names; nobody reads more


def _quietly(complete: Callable[[Context, str], Iterable[CompletionItem]]) -> Completer:
    """Return nothing, in silence, where completing fails."""

    @wraps(complete)
    def completed(ctx: Context, _param: Parameter, incomplete: str) -> list[CompletionItem]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return list(complete(ctx, incomplete))
            except Exception:
                return []

    return completed


def names_of(*kinds: str) -> Completer:
    """Complete the names of nodes, connections or spaces of the graph that the command line or the directory names."""

    def found(ctx: Context, incomplete: str) -> Iterable[CompletionItem]:
        from click.shell_completion import CompletionItem

        import mgraph

        path = ctx.params.get("graph_path") or find_graph(Path.cwd())
        with _impatient():
            names = mgraph.open(path).names(incomplete, of=kinds, limit=_MOST)
        # Shells read one line per word: a name that is none cannot be from mgraph, and is left out.
        return [CompletionItem(name, help=visible(kind)) for name, kind in names if name == visible(name).strip()]

    return _quietly(found)


@contextmanager
def _impatient() -> Iterator[None]:
    """Wait but a moment for the lock of a graph, whatever the user's own limit is."""
    before = os.environ.get(_LIMIT)
    os.environ[_LIMIT] = _WAIT
    try:
        yield
    finally:
        del os.environ[_LIMIT]
        os.environ.update({} if before is None else {_LIMIT: before})


def _specs_of(registry: str) -> Completer:
    """Complete the specs that come with mgraph, and files, because a spec may name one."""

    def found(_: Context, incomplete: str) -> Iterable[CompletionItem]:
        from click.shell_completion import CompletionItem

        import mgraph

        for entry in getattr(mgraph, registry).values():
            spec = f"{entry.name}:" if entry.argument else entry.name
            if spec.startswith(incomplete):
                yield CompletionItem(spec, help=entry.summary)
        yield CompletionItem(incomplete, type="file")

    return _quietly(found)


NODES = names_of("node")
CONNECTIONS = names_of("connection")
SPACES = names_of("space")
THINGS = names_of("node", "connection")
ANYTHING = names_of("node", "connection", "space")

BY_KIND = {"node": NODES, "connection": CONNECTIONS, "space": SPACES}
"""Completers by what an :class:`mgraph.settings.Option` says that its value names."""

ARCHS = _specs_of("ARCHITECTURES")
DATA = _specs_of("DATASETS")
