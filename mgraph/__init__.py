"""mgraph: a checkpoint graph for mode connectivity.

    import mgraph
    g = mgraph.create("digits.mgraph", arch="cnn", data="digits")
    a, b, c, d = (g.train(seed=s, name=n) for s, n in enumerate("abcd"))
    s = g.connect(a, b, c, d, method=mgraph.BezierSurface(degree=(2, 2)))
    s.merge(name="m"); s.ensemble().evaluate("test"); g.components(max_barrier=0.1)

Everything the command line does, this package does, with the same names and defaults. Names are loaded when they
are first used: torch is imported only by what trains or evaluates.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgraph.bookkeeping.upkeep import check, upgrade
    from mgraph.builtin import ARCHITECTURES, DATASETS
    from mgraph.data.task import Task, make_task
    from mgraph.engines.pool import Pool
    from mgraph.errors import MGraphError
    from mgraph.evaluate.sharpness import SharpnessSettings
    from mgraph.graph.graph import Graph, create, unpack
    from mgraph.graph.graph import open_graph as open
    from mgraph.graph.handles import Connected, Point
    from mgraph.jobs.base import Job
    from mgraph.jobs.connections import ComposeJob, CompositeLeg, ConnectJob, Following, SweepJob
    from mgraph.jobs.modes import AddModeJob, TrainJob
    from mgraph.jobs.points import ArchiveJob, EnsembleJob, ExportEnsembleJob, ExportJob, MergeJob, SharpnessJob
    from mgraph.jobs.registry import read_job
    from mgraph.methods.base import Method
    from mgraph.methods.curves.path import BezierCurve, PolygonalChain
    from mgraph.methods.curves.surface import BezierSurface
    from mgraph.methods.linear import Linear, Simplex
    from mgraph.methods.llpf.method import LLPF
    from mgraph.methods.neb.method import NudgedElasticBand
    from mgraph.methods.registry import METHODS
    from mgraph.metric import Metric
    from mgraph.query.components import Components
    from mgraph.train.settings import TrainSettings

_HOMES = {
    "create": "mgraph.graph.graph",
    "open": "mgraph.graph.graph:open_graph",
    "unpack": "mgraph.graph.graph",
    "check": "mgraph.bookkeeping.upkeep",
    "upgrade": "mgraph.bookkeeping.upkeep",
    "Graph": "mgraph.graph.graph",
    "Point": "mgraph.graph.handles",
    "Connected": "mgraph.graph.handles",
    "Components": "mgraph.query.components",
    "TrainSettings": "mgraph.train.settings",
    "SharpnessSettings": "mgraph.evaluate.sharpness",
    "Method": "mgraph.methods.base",
    "Linear": "mgraph.methods.linear",
    "Simplex": "mgraph.methods.linear",
    "LLPF": "mgraph.methods.llpf.method",
    "PolygonalChain": "mgraph.methods.curves.path",
    "BezierCurve": "mgraph.methods.curves.path",
    "BezierSurface": "mgraph.methods.curves.surface",
    "NudgedElasticBand": "mgraph.methods.neb.method",
    "METHODS": "mgraph.methods.registry",
    "ARCHITECTURES": "mgraph.builtin",
    "DATASETS": "mgraph.builtin",
    "Task": "mgraph.data.task",
    "make_task": "mgraph.data.task",
    "Metric": "mgraph.metric",
    "Job": "mgraph.jobs.base",
    "ConnectJob": "mgraph.jobs.connections",
    "SweepJob": "mgraph.jobs.connections",
    "ComposeJob": "mgraph.jobs.connections",
    "Following": "mgraph.jobs.connections",
    "CompositeLeg": "mgraph.jobs.connections",
    "TrainJob": "mgraph.jobs.modes",
    "AddModeJob": "mgraph.jobs.modes",
    "MergeJob": "mgraph.jobs.points",
    "EnsembleJob": "mgraph.jobs.points",
    "SharpnessJob": "mgraph.jobs.points",
    "ArchiveJob": "mgraph.jobs.points",
    "ExportJob": "mgraph.jobs.points",
    "ExportEnsembleJob": "mgraph.jobs.points",
    "read_job": "mgraph.jobs.registry",
    "Pool": "mgraph.engines.pool",
    "MGraphError": "mgraph.errors",
}

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "LLPF",
    "METHODS",
    "AddModeJob",
    "ArchiveJob",
    "BezierCurve",
    "BezierSurface",
    "Components",
    "ComposeJob",
    "CompositeLeg",
    "ConnectJob",
    "Connected",
    "EnsembleJob",
    "ExportEnsembleJob",
    "ExportJob",
    "Following",
    "Graph",
    "Job",
    "Linear",
    "MGraphError",
    "MergeJob",
    "Method",
    "Metric",
    "NudgedElasticBand",
    "Point",
    "PolygonalChain",
    "Pool",
    "SharpnessJob",
    "SharpnessSettings",
    "Simplex",
    "SweepJob",
    "Task",
    "TrainJob",
    "TrainSettings",
    "check",
    "create",
    "make_task",
    "open",
    "read_job",
    "unpack",
    "upgrade",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("mgraph")
    if name not in _HOMES:
        raise AttributeError(f"module 'mgraph' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
