"""Choose among the sets of weights in a file: those that the network accepts, and of several, the one asked for.

A set is never chosen silently if another would fit as well: raw and averaged weights have the same names and shapes,
and the wrong ones look right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from mgraph.errors import InputError
from mgraph.network.checkpoints.names import Reading, TensorNames
from mgraph.network.checkpoints.search import Candidate, is_averaged
from mgraph_store.rows.layout import Layout

RAW, AVERAGED = "raw", "ema"


@dataclass(frozen=True)
class View:
    """One way of reading a candidate: ``state`` has its entries under the network's names."""

    candidate: Candidate
    reading: Reading
    state: dict[str, Any]
    twice: tuple[str, ...] = ()  # names in the file that become the same, so that one would hide the other

    @property
    def key(self) -> str:
        """What ``--weights`` calls it; empty for the file as it is."""
        return ".".join(part for part in (self.candidate.label, self.reading.prefix.rstrip(".")) if part)

    @property
    def averaged(self) -> bool:
        """Whether its names indicate an average of weights."""
        return self.candidate.averaged or is_averaged(self.reading.prefix)

    @property
    def described(self) -> str:
        """Its key and a description, for a list of choices."""
        return f"{self.key or '.'} ({'averaged' if self.averaged else 'raw'})"


def views_of(candidates: Sequence[Candidate], names: TensorNames, ignore: Sequence[str] = ()) -> list[View]:
    """List every way to read every candidate, leaving out entries whose name in the file matches ``ignore``."""
    found = []
    for candidate in candidates:
        kept = {k: v for k, v in candidate.entries.items() if not any(fnmatchcase(k, p) for p in ignore)}
        candidate = replace(candidate, entries=kept)
        for reading in names.readings(kept) if kept else ():
            state: dict[str, Any] = {}
            twice: list[str] = []
            for name, spelled in reading.renamed.items():
                if spelled in state and not _alike(state[spelled], kept[name]):
                    twice.append(name)
                state.setdefault(spelled, kept[name])
            found.append(View(candidate, reading, state, tuple(twice)))
    return found


def covers(view: View, layout: Layout) -> bool:
    """Return whether a view has every trainable parameter, under one of its names and with its shape."""
    named: dict[str, list[str]] = {}
    for alias, name in layout.aliases.items():
        named.setdefault(name, []).append(alias)
    for t in layout.parameters:
        value = next((view.state[n] for n in (t.name, *named.get(t.name, ())) if n in view.state), None)
        if not isinstance(value, Tensor) or not _fits(value, t.shape):
            return False
    return True


def _fits(value: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(value.shape) == shape or (shape == () and tuple(value.shape) == (1,))


def closest(views: Sequence[View], layout: Layout) -> list[View]:
    """Order views by how many of the network's tensors they name."""
    wanted = {t.name for t in layout.tensors} | set(layout.aliases)
    return sorted(views, key=lambda v: (-len(wanted & set(v.state)), len(v.candidate.key), len(v.reading.prefix)))


def choose(
    views: Sequence[View], layout: Layout, asked: str | None, where: str, takes: Callable[[View], bool]
) -> View | None:
    """Choose the view to import from a file called ``where``: the one ``asked`` for, or the only one that fits.

    ``takes`` tries the network itself on a view with foreign names (old ones that its hooks know). Returns None if
    nothing fits. Raises InputError if several different ones fit and nothing says which, or if the one asked for does
    not exist.
    """
    fitting = [view for view in views if covers(view, layout)]
    if not fitting:
        likely = [view for view in closest(views, layout) if 3 * len(view.state) >= len(layout.parameters)]
        fitting = [view for view in likely[:4] if takes(view)]
    distinct = sorted(_distinct(closest(fitting, layout)), key=lambda view: view.averaged)
    if asked is not None:
        return _apart(_asked_for(asked, distinct, views, where), fitting, layout)
    if len(distinct) > 1:
        raise InputError(f"{where} holds several sets of weights that fit: {_listed(distinct)}; {_how(distinct)}.")
    if distinct and distinct[0].reading.prefix and len(distinct[0].reading.outside) > len(distinct[0].state):
        only = distinct[0]
        raise InputError(
            f"{where} is of a larger network: {len(only.state)} of its {len(only.candidate.entries)} tensors fit, "
            f"those under {only.reading.prefix}; if you mean these, say so with --weights {only.key}."
        )
    return _apart(distinct[0], fitting, layout) if distinct else None


def _apart(view: View, fitting: Sequence[View], layout: Layout) -> View:
    """Drop from a view the entries that another view finds under a longer prefix: {"0.weight", "ema.0.weight"}."""
    mine = view.reading
    theirs = {
        name
        for other in fitting
        if other.candidate.key == view.candidate.key
        and other.reading.prefix != mine.prefix
        and other.reading.prefix.startswith(mine.prefix)
        for name in other.reading.renamed
    }
    own = {t.name for t in layout.tensors} | set(layout.aliases)
    apart = {name: spelled for name, spelled in mine.renamed.items() if name in theirs and spelled not in own}
    if not apart:
        return view
    state = {spelled: value for spelled, value in view.state.items() if spelled not in apart.values()}
    renamed = {name: spelled for name, spelled in mine.renamed.items() if name not in apart}
    return replace(view, state=state, reading=replace(mine, renamed=renamed, outside=(*mine.outside, *apart)))


def _asked_for(asked: str, fitting: Sequence[View], views: Sequence[View], where: str) -> View:
    if asked in (RAW, AVERAGED) and not any(v.key == asked for v in fitting):
        found = [v for v in fitting if v.averaged == (asked == AVERAGED)]
    else:
        found = [v for v in fitting if asked in (v.key or ".", v.candidate.label)]
        found = found or [v for v in views if asked == (v.key or ".")][:1]  # so that the error names what does not fit
    if len(found) == 1:
        return found[0]
    offered = fitting or views
    if found:
        raise InputError(f"{where} holds several: {_listed(found)}; choose one with --weights KEY.")
    raise InputError(f"{where} holds no weights {asked!r}; it has {_listed(offered) or 'none'}.")


def _how(views: Sequence[View]) -> str:
    ways = []
    for word, averaged in ((RAW, False), (AVERAGED, True)):
        if sum(view.averaged == averaged for view in views) == 1:
            ways.append(f"--weights {word}")
    keyed = [f"--weights {view.key}" for view in views if view.key]
    return "say which with " + " or ".join(ways if len(ways) == len(views) else [*ways, *keyed[:3]])


def _listed(views: Sequence[View]) -> str:
    shown = list(dict.fromkeys(view.described for view in views))
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _distinct(views: Sequence[View]) -> list[View]:
    """Drop views whose tensors are those of an earlier one; of equal views, keep the one with the most entries."""
    kept: list[View] = []
    for view in views:
        if not any(_same(view, other) for other in kept):
            kept.append(view)
    return kept


def _same(a: View, b: View) -> bool:
    shared = [n for n in a.state if n in b.state]
    return bool(shared) and all(_alike(a.state[n], b.state[n]) for n in shared)


def _alike(x: Any, y: Any) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and _same_tensor(x, y)


def _same_tensor(x: Tensor, y: Tensor) -> bool:
    if x.dtype != y.dtype or x.shape != y.shape or x.layout != y.layout or x.is_quantized or y.is_quantized:
        return False
    return (x.data_ptr() == y.data_ptr() and x.stride() == y.stride()) or torch.equal(x, y)
