"""The graph of an experiment at one scale, in which every step is found again by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError, NotFoundError
from mgraph.graph.graph import create, open_graph
from mgraph.graph.handles import Connected, Point
from mgraph.operations.resume import interrupted_runs
from mgraph.progress import ProgressCallback, silent
from mgraph.query.sweepdata import SweepData, load_sweep
from mgraph.repro.data import DATA, write_words
from mgraph.repro.experiment import SCALES, Experiment, Net
from mgraph.specs import Spec
from mgraph_store import Sweep

if TYPE_CHECKING:
    from mgraph.graph.graph import Graph
    from mgraph.repro.steps import Join, Step


class Lab:
    """A graph for one paper at one scale; its experiments share modes and connections of equal names.

    Its spaces are called PAPER.SCALE.NETWORK, which says what the graph is. What is trained is trained in
    ``precision``, by default that of the newest row in the graph, and measured in fp32.
    """

    def __init__(
        self,
        experiment: Experiment,
        scale: str,
        path: Path,
        *,
        data: Path | None = None,
        device: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        progress: ProgressCallback = silent,
    ) -> None:
        self.experiment, self.scale, self.path, self.data = experiment, scale, path, data
        self.progress = progress
        self._opened: dict[str, Any] = {"device": device, "threads": threads}
        self._graph: Graph | None = None
        self._made: dict[str, Any] = {}
        self._spaces: dict[str, str] = {}  # by the network's key
        if path.exists():
            self._graph = open_graph(path, **self._opened)
            self._require_mine()
        self.precision = precision or self._precision_there() or "fp32"

    @property
    def exists(self) -> bool:
        """Whether there is a graph yet."""
        return self._graph is not None

    @property
    def graph(self) -> Graph:
        """The graph; InputError if there is none yet."""
        if self._graph is None:
            raise InputError(f"There is no graph {self.path} yet.")
        return self._graph

    def __getitem__(self, step: Step | str) -> Any:
        """Return what a step made."""
        return self._made[step if isinstance(step, str) else step.name]

    def do(self, step: Step) -> Any:
        """Do a step, unless its result is there; continue it if it was interrupted."""
        if step.name not in self._made:
            self.space(step.net)
            wanted = step.computing_in(self.precision)
            self._made[step.name] = self._found(wanted) or wanted.make(self)
        return self._made[step.name]

    def _found(self, step: Step) -> Any:
        found = step.find(self)
        if found is not None:
            return found
        for run in interrupted_runs(self.graph.session.store):
            if run.name == step.name:
                self.graph.resume(run.run.id, progress=self.progress)
                return step.find(self)
        return None

    def known(self, name: str) -> Any:
        """Return the node or connection of a name, or None."""
        try:
            found = self.graph.find(name)
        except NotFoundError:
            return None
        assert isinstance(found, Point | Connected)
        return found if found.name == name else None

    def space(self, net: Net) -> str:
        """Return the name of a network's space, and make it, or the graph with it, if it is not there.

        Raises NotFoundError if the data are missing, and InputError if the space has another network.
        """
        if net.key not in self._spaces:
            self._spaces[net.key] = self._space(net, f"{self.experiment.paper.lower()}.{self.scale}.{net.key}")
        return self._spaces[net.key]

    def _space(self, net: Net, name: str) -> str:
        there = {row["name"]: row for row in self.graph.spaces()} if self.exists else {}
        if name in there:
            if Spec.parse(there[name]["arch"]) != Spec.parse(net.arch):
                raise InputError(
                    f"{self.path} has a space {name} of the network {there[name]['arch']}, not {net.arch}; take "
                    f"another --graph."
                )
            return name
        data = self.find_data(net)
        if self._graph is None:
            self._graph = create(self.path, arch=net.arch, data=data, name=name, **self._opened)
            return name
        return self._graph.add_space(net.arch, data, name=name).name  # one that is the same may have another name

    def swept(self, joined: Join) -> SweepData:
        """Return the sweep of a connection that its step asks for, whatever others there are."""
        assert joined.grid is not None
        connection = self.graph.connection(joined.name)
        with self.graph.session.store.reading() as reader:
            for sweep in reversed(reader.all(Sweep, connection_id=connection.id, status="complete")):
                data = load_sweep(reader, connection.record, sweep)
                if joined.grid.is_of(data):
                    return data
        return connection.sweep(joined.grid.points, progress=self.progress, **joined.grid.options())

    def find_data(self, net: Net) -> str:
        """Return the spec of a network's data; NotFoundError, saying what to do, if they are missing."""
        if net.data == "words":
            return f"text:{write_words(self.path.absolute().parent / 'words')}?length={DATA['words'].shape[0]}"
        return DATA[net.data].spec(self.data, net.limit)

    def _precision_there(self) -> str | None:
        """Return the precision in which the newest row that is done was trained."""
        from mgraph.repro import ledger

        return ledger.precision(self) if self.exists else None

    def _require_mine(self) -> None:
        """Refuse a graph of another paper or scale, or of something else."""
        names = [str(row["name"]) for row in self.graph.spaces()]
        paper = self.experiment.paper.lower()
        if any(name.startswith(f"{paper}.{self.scale}.") for name in names):
            return
        other = _scale_in(names, paper)
        if other is not None:
            raise InputError(
                f"{self.path} holds this at the scale {other}, not {self.scale}; say --scale {other}, or take another "
                f"--graph."
            )
        raise InputError(
            f"{self.path} is a graph of something else (its spaces are {', '.join(names)}); name another --graph, "
            f"which is made if it does not exist."
        )


def scale_of(path: Path, experiment: Experiment) -> str | None:
    """Return the scale at which a graph holds experiments of a paper; None if it is none of these, or not there."""
    if not path.exists():
        return None
    names = [str(row["name"]) for row in open_graph(path).spaces()]
    return _scale_in(names, experiment.paper.lower())


def _scale_in(names: list[str], paper: str) -> str | None:
    return next((scale for scale in SCALES for name in names if name.startswith(f"{paper}.{scale}.")), None)
