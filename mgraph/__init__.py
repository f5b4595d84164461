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
    from mgraph.architectures.registry import ARCHITECTURES
    from mgraph.connect.base import Method
    from mgraph.connect.linear import Linear, Simplex
    from mgraph.connect.llpf import LLPF
    from mgraph.connect.neb import NudgedElasticBand
    from mgraph.connect.path import BezierCurve, PolygonalChain
    from mgraph.connect.registry import METHODS
    from mgraph.connect.surface import BezierSurface
    from mgraph.data.registry import DATASETS
    from mgraph.data.task import Task, make_task
    from mgraph.errors import MGraphError
    from mgraph.evaluate.sharpness import SharpnessSettings
    from mgraph.explore.components import Components
    from mgraph.graph.graph import Graph, create, unpack
    from mgraph.graph.graph import open_graph as open
    from mgraph.graph.handles import Connected, Point
    from mgraph.graph.upkeep import check
    from mgraph.metric import Metric
    from mgraph.train.settings import TrainSettings

_HOMES = {
    "create": "mgraph.graph.graph",
    "open": "mgraph.graph.graph:open_graph",
    "unpack": "mgraph.graph.graph",
    "check": "mgraph.graph.upkeep",
    "Graph": "mgraph.graph.graph",
    "Point": "mgraph.graph.handles",
    "Connected": "mgraph.graph.handles",
    "Components": "mgraph.explore.components",
    "TrainSettings": "mgraph.train.settings",
    "SharpnessSettings": "mgraph.evaluate.sharpness",
    "Method": "mgraph.connect.base",
    "Linear": "mgraph.connect.linear",
    "Simplex": "mgraph.connect.linear",
    "LLPF": "mgraph.connect.llpf",
    "PolygonalChain": "mgraph.connect.path",
    "BezierCurve": "mgraph.connect.path",
    "BezierSurface": "mgraph.connect.surface",
    "NudgedElasticBand": "mgraph.connect.neb",
    "METHODS": "mgraph.connect.registry",
    "ARCHITECTURES": "mgraph.architectures.registry",
    "DATASETS": "mgraph.data.registry",
    "Task": "mgraph.data.task",
    "make_task": "mgraph.data.task",
    "Metric": "mgraph.metric",
    "MGraphError": "mgraph.errors",
}

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "LLPF",
    "METHODS",
    "BezierCurve",
    "BezierSurface",
    "Components",
    "Connected",
    "Graph",
    "Linear",
    "MGraphError",
    "Method",
    "Metric",
    "NudgedElasticBand",
    "Point",
    "PolygonalChain",
    "SharpnessSettings",
    "Simplex",
    "Task",
    "TrainSettings",
    "check",
    "create",
    "make_task",
    "open",
    "unpack",
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
