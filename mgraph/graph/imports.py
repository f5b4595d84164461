"""Importing checkpoints from elsewhere: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError, MGraphError
from mgraph.graph.base import Opened
from mgraph.graph.handles import Connected, Point
from mgraph.graph.keywords import ImportOptions
from mgraph.keywords import refuse_unknown

if TYPE_CHECKING:
    from torch import nn

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImportedFile:
    """A checkpoint file, and the mode that it became, or what the problem was."""

    file: Path
    mode: Point | None
    problem: str | None = None

    def row(self) -> dict[str, Any]:
        """Return it as plain data, with the mode's test numbers."""
        row: dict[str, Any] = {"file": str(self.file), "name": None, "id": None}
        if self.mode is not None:
            row |= {"name": self.mode.name, "id": self.mode.id}
            row |= {f"test_{name}": m.value for name, m in self.mode.evaluate("test").items()}
        return row | {"notes": list(self.mode.notes) if self.mode else [], "problem": self.problem}


class Imports(Opened):
    """Modes, and trained curves, from files."""

    def add_mode(self, source: PathLike | nn.Module | Mapping[str, Any], **options: Unpack[ImportOptions]) -> Point:
        """Import a checkpoint as a mode and evaluate it: ``g.add_mode("last.ckpt", name="a", weights="ema")``.

        In place of a file, an nn.Module or a dict of tensors is taken: ``g.add_mode(module, name="a")``. ``notes`` of
        the point say what was done.

        Reads .safetensors, whatever ``torch.save`` writes (nothing in it is run), and shards by their index or
        directory, and accepts what the network's ``load_state_dict`` accepts. ``weights`` chooses among several sets in
        one file: "raw", "ema", or the key of one. ``ignore`` has patterns of entries to leave out, ``cast`` allows
        float64 tensors to be rounded to float32, and ``recompute_batchnorm`` stores statistics recomputed from the
        training data instead of the file's.

        Raises LayoutMismatchError or NonFiniteError naming the tensor that does not fit; InputError if the file leaves
        a choice; TrainedCurveError if it holds a trained curve (see :meth:`add_curve`). Warns when the mode is not
        independent of one that is already there, and when its BatchNorm statistics are stale.
        """
        from mgraph.jobs.modes import AddModeJob, AddObjectJob

        refuse_unknown("add_mode", options, ImportOptions)
        given: dict[str, Any] = {**options, "ignore": tuple(options.get("ignore", ()))}
        given["space"] = self.session.space(options.get("space")).id
        job = (
            AddModeJob(file=os.fspath(source), **given)
            if isinstance(source, str | os.PathLike)
            else AddObjectJob(weights_of=source, **given)
        )
        node, notes = job.run(self.session)
        return Point(self.session, node, notes)

    def add_modes(self, paths: Sequence[PathLike], **options: Unpack[ImportOptions]) -> list[ImportedFile]:
        """Import several checkpoints, one after another; those that cannot be added are reported, and the others kept.

        ``name`` is a pattern in which ``{stem}`` is the file's name without its ending, ``{parent}`` that of its
        directory, and ``{number}`` counts from 1: ``g.add_modes(Path("runs").glob("*/last.ckpt"), name="{parent}")``. A
        directory stands for all checkpoints in it. Other keywords are those of :meth:`add_mode`. Raises InputError,
        before anything is added, for an invalid pattern, or one that gives two files the same name.
        """
        refuse_unknown("add_modes", options, ImportOptions)
        files = [file for path in paths for file in _files(Path(path))]
        names = _names(files, options.get("name"))
        found = []
        for file, name in zip(files, names, strict=True):
            try:
                options["name"] = name
                point = self.add_mode(file, **options)
            except MGraphError as error:
                found.append(ImportedFile(file, None, str(error)))
            else:
                found.append(ImportedFile(file, point))
        return found

    def add_curve(
        self,
        path: PathLike,
        *,
        method: str | None = None,
        name: str | None = None,
        space: str | None = None,
        cast: bool = False,
    ) -> Connected:
        """Import a trained curve of the field's reference code (dnn-mode-connectivity): its ends, and its bends.

        The ends become modes NAME-start and NAME-end. ``method`` is "curve" (Bézier) or "chain" (polygonal), needed if
        the file does not say. BatchNorm statistics are recomputed. The curve is not swept yet. Raises InputError for a
        file that does not hold a curve of this network.
        """
        from mgraph.jobs.modes import AddCurveJob

        where = self.session.space(space).id
        job = AddCurveJob(space=where, file=str(path), method=method, name=name, cast=cast)
        connection, notes = job.run(self.session)
        return Connected(self.session, connection, notes)


def _files(path: Path) -> list[Path]:
    """Return the checkpoints in a directory; the path itself where that is none, or has none."""
    from mgraph.network.checkpoints import checkpoints_in

    try:
        return checkpoints_in(path) if path.is_dir() else [path]
    except InputError:  # reported with the others
        return [path]


def _names(files: Sequence[Path], pattern: str | None) -> list[str | None]:
    """Fill in a pattern for every file; raise InputError for an unknown field, and for a name that occurs twice."""
    if pattern is None:
        return [None] * len(files)
    names = []
    for number, file in enumerate(files, start=1):
        try:
            parent = file.absolute().parent.name
            names.append(pattern.format(stem=file.name.partition(".")[0], parent=parent, number=number))
        except (KeyError, IndexError, ValueError, AttributeError):
            raise InputError(
                f"The name {pattern!r} may hold {{stem}}, {{parent}} and {{number}}, and no other field."
            ) from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        both = ", ".join(str(file) for file, name in zip(files, names, strict=True) if name == twice[0])
        raise InputError(
            f"Two files would be called {twice[0]} ({both}); put {{parent}}, {{stem}} or {{number}} into the name."
        )
    return list(names)
