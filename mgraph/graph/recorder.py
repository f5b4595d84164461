"""The entrance for training done elsewhere: a recorder writes what a loop trains into a graph, as it runs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError, MGraphWarning, NameTakenError
from mgraph.graph.graph import Graph, PathLike, open_graph
from mgraph.graph.handles import Point
from mgraph_store import Node, new_id, validate_name

if TYPE_CHECKING:
    from torch import nn


class RecordedElsewhereWarning(MGraphWarning):
    """A name that a recorder was to give has been taken meanwhile, so the mode has none."""


class Recorder:
    """Writes modes of one training into a graph: ``recorder.save(network, epoch)`` and ``recorder.finish(network)``.

    ``graph`` is a graph, or its path; the last mode is called ``name``, and earlier ones NAME-EPOCH. With ``every``,
    :meth:`save` and the callbacks write only epochs that it divides; without, the callbacks write only the last.
    ``space`` is needed if the graph has several. A mode is stored before it is measured, and the loop's network is left
    as it is. Others may write to the graph meanwhile. If several processes train together, only the first one writes.

    >>> recorder = mgraph.Recorder("digits.mgraph", name="a", every=10)
    >>> for epoch in range(1, 31):
    ...     train_one_epoch(network)
    ...     recorder.save(network, epoch)  # a-10, a-20, a-30
    >>> recorder.finish(network)  # a

    Instead of these calls, use ``Trainer(callbacks=[recorder.lightning()])`` with Lightning, or
    ``Trainer(callbacks=[recorder.huggingface()])`` with transformers.

    Raises InputError for ``every`` below 1, and NameTakenError if modes with these names already exist.
    """

    def __init__(
        self,
        graph: Graph | PathLike,
        *,
        name: str,
        every: int | None = None,
        space: str | None = None,
        device: str = "auto",
        trust: bool = False,
    ) -> None:
        if every is not None and every < 1:
            raise InputError(f"every must be at least 1, not {every}.")
        self.graph = graph if isinstance(graph, Graph) else open_graph(graph, device=device, trust=trust)
        self.name, self.every = validate_name(name), every
        self.points: list[Point] = []
        self._space = self.graph.session.space(space).id
        self._trajectory = new_id("m")
        self._require_free()

    def save(self, network: nn.Module | Mapping[str, Any], epoch: int) -> Point | None:
        """Store a module, or its state dict, as the mode NAME-EPOCH; return None if ``every`` does not divide the
        epoch.

        Raises what :meth:`mgraph.Graph.add_mode` does, and InputError for a module whose parameters are spread over
        processes: give its full state dict.
        """
        return self.write(network, epoch, first=_is_first())

    def finish(self, network: nn.Module | Mapping[str, Any]) -> Point | None:
        """Store a module, or its state dict, as the mode NAME; None in a process that is not the first."""
        return self.write(network, None, first=_is_first())

    def lightning(self) -> Any:
        """Return a callback for Lightning's Trainer that saves at the end of epochs and finishes when training ends.

        The network is found in the LightningModule by the names of its tensors. Raises InputError if neither lightning
        nor pytorch_lightning is installed.
        """
        from mgraph.graph.callbacks import of_lightning

        return of_lightning(self)

    def huggingface(self) -> Any:
        """Return a callback for transformers' Trainer; raise InputError if transformers is not installed."""
        from mgraph.graph.callbacks import of_transformers

        return of_transformers(self)

    def write(self, network: nn.Module | Mapping[str, Any], epoch: int | None, *, first: bool) -> Point | None:
        """Save an epoch, or (None) finish, in the process that is the ``first``; what the callbacks call in each."""
        if epoch is not None and self.every is not None and epoch % self.every:
            return None
        _require_whole(network)  # in every process: gathering them in one would wait for the others for ever
        if not first:
            return None
        name = self.name if epoch is None else f"{self.name}-{epoch}"
        try:
            point = self._stored(network, name, epoch)
        except NameTakenError as error:  # taken by another writer: training continues
            warnings.warn(f"{error} It is stored without a name.", RecordedElsewhereWarning, stacklevel=3)
            point = self._stored(network, None, epoch)
        self.points.append(point)
        return point

    def _stored(self, network: nn.Module | Mapping[str, Any], name: str | None, epoch: int | None) -> Point:
        from mgraph.jobs.modes import AddObjectJob

        recorded = {"trajectory": self._trajectory} | ({} if epoch is None else {"epoch": epoch})
        job = AddObjectJob(space=self._space, name=name, weights_of=network, recorded=recorded)
        node, notes = job.run(self.graph.session)
        return Point(self.graph.session, node, notes)

    def _require_free(self) -> None:
        mine = re.compile(rf"{re.escape(self.name)}(-\d+)?")
        with self.graph.session.store.reading() as reader:
            taken = [node.name for node in reader.all(Node) if node.name and mine.fullmatch(node.name)]
        if taken:
            raise NameTakenError(f"There is a mode {min(taken)} already; give the recorder another name.")


def _require_whole(network: nn.Module | Mapping[str, Any]) -> None:
    """Raise InputError for a network of which each process holds a part, by FSDP, DeepSpeed's ZeRO-3 or the like."""
    if isinstance(network, Mapping):
        return
    kinds = {type(module).__name__ for module in network.modules()}
    spread = [n for n, p in network.named_parameters() if type(p.data).__name__ == "DTensor" or hasattr(p, "ds_id")]
    if spread or "FullyShardedDataParallel" in kinds:
        what = f"parameters of the network are spread over processes, first {spread[0]}" if spread else "it is of FSDP"
        raise InputError(
            f"The network cannot be recorded as it is: {what}. Gather its full state dict (torch's "
            f"get_model_state_dict with full_state_dict=True) in every process, and save that."
        )


def _is_first() -> bool:
    """Return whether this process is the one that writes."""
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
