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
    from mgraph.bookkeeping.listed import KINDS
    from mgraph.bookkeeping.upkeep import UpkeepPlan, check, upgrade
    from mgraph.builtin import ARCHITECTURES, DATASETS
    from mgraph.data import tasks
    from mgraph.data.making import make_task
    from mgraph.data.task import Task
    from mgraph.demo import run_demo
    from mgraph.durations import spoken
    from mgraph.engines.pool import Pool
    from mgraph.errors import MGraphError
    from mgraph.evaluate.metrics import Measured
    from mgraph.evaluate.sharpness import SharpnessSettings
    from mgraph.explore.exploring import Done, Outlook
    from mgraph.explore.suggestions import Suggestion
    from mgraph.graph.graph import Graph, create, join, share, unpack
    from mgraph.graph.graph import open_graph as open
    from mgraph.graph.handles import Connected, Point
    from mgraph.graph.keywords import (
        Aims,
        AlignOptions,
        AutoOptions,
        Bounds,
        ConnectOptions,
        EnsembleOptions,
        EvaluateOptions,
        ExportOptions,
        ExportSetOptions,
        ImportOptions,
        Listing,
        MergeOptions,
        PlaneOptions,
        PlotOptions,
        PredictOptions,
        SoupOptions,
        SpaceOptions,
        SweepOptions,
    )
    from mgraph.graph.places import Place
    from mgraph.graph.recorder import Recorder
    from mgraph.jobs.base import Job
    from mgraph.jobs.connections import ComposeJob, CompositeLeg, ConnectJob, Following, PlaneJob, SweepJob
    from mgraph.jobs.modes import AddCurveJob, AddModeJob, AddObjectJob, AddPointJob, AlignJob, TrainJob
    from mgraph.jobs.points import (
        ArchiveJob,
        EnsembleJob,
        EvaluateJob,
        ExportEnsembleJob,
        ExportJob,
        MergeJob,
        PredictJob,
        SharpnessJob,
        SoupJob,
    )
    from mgraph.jobs.registry import read_job
    from mgraph.merge.compare import Difference
    from mgraph.methods.base import Method
    from mgraph.methods.curves.path import BezierCurve, PolygonalChain
    from mgraph.methods.curves.surface import BezierSurface
    from mgraph.methods.ladder import LADDER
    from mgraph.methods.linear import Linear, Simplex
    from mgraph.methods.llpf.method import LLPF
    from mgraph.methods.neb.method import NudgedElasticBand
    from mgraph.methods.registry import METHODS, method_named
    from mgraph.metric import Metric
    from mgraph.progress import Progress
    from mgraph.query.components import Components
    from mgraph.query.criterion import Criteria, Criterion
    from mgraph.query.edges import Link
    from mgraph.report.sizes import Size, size_of
    from mgraph.repro.registry import EXPERIMENTS
    from mgraph.repro.running import Reproduction
    from mgraph.shown import plain_cell, visible
    from mgraph.toydemo import run_toy_demo
    from mgraph.train.recipes import RECIPES
    from mgraph.train.settings import TrainSettings

_HOMES = {
    # Graphs
    "create": "mgraph.graph.graph",
    "open": "mgraph.graph.graph:open_graph",
    "join": "mgraph.graph.graph",
    "share": "mgraph.graph.graph",
    "unpack": "mgraph.graph.graph",
    "check": "mgraph.bookkeeping.upkeep",
    "upgrade": "mgraph.bookkeeping.upkeep",
    "Graph": "mgraph.graph.graph",
    "Point": "mgraph.graph.handles",
    "Connected": "mgraph.graph.handles",
    "Place": "mgraph.graph.places",
    "Recorder": "mgraph.graph.recorder",
    "KINDS": "mgraph.bookkeeping.listed",
    # Spaces: networks, data and how they are judged
    "ARCHITECTURES": "mgraph.builtin",
    "DATASETS": "mgraph.builtin",
    "Size": "mgraph.report.sizes",
    "size_of": "mgraph.report.sizes",
    "Task": "mgraph.data.task",
    "make_task": "mgraph.data.making",
    "tasks": "mgraph.data.tasks:",
    "Metric": "mgraph.metric",
    # Methods, and settings
    "Method": "mgraph.methods.base",
    "METHODS": "mgraph.methods.registry",
    "LADDER": "mgraph.methods.ladder",
    "method_named": "mgraph.methods.registry",
    "Linear": "mgraph.methods.linear",
    "Simplex": "mgraph.methods.linear",
    "PolygonalChain": "mgraph.methods.curves.path",
    "BezierCurve": "mgraph.methods.curves.path",
    "BezierSurface": "mgraph.methods.curves.surface",
    "NudgedElasticBand": "mgraph.methods.neb.method",
    "LLPF": "mgraph.methods.llpf.method",
    "TrainSettings": "mgraph.train.settings",
    "RECIPES": "mgraph.train.recipes",
    "SharpnessSettings": "mgraph.evaluate.sharpness",
    # Keywords that methods of a graph share
    "SpaceOptions": "mgraph.graph.keywords",
    "ImportOptions": "mgraph.graph.keywords",
    "ConnectOptions": "mgraph.graph.keywords",
    "AlignOptions": "mgraph.graph.keywords",
    "AutoOptions": "mgraph.graph.keywords",
    "SweepOptions": "mgraph.graph.keywords",
    "EvaluateOptions": "mgraph.graph.keywords",
    "ExportOptions": "mgraph.graph.keywords",
    "ExportSetOptions": "mgraph.graph.keywords",
    "Exported": "mgraph.exporting.writing",
    "MergeOptions": "mgraph.graph.keywords",
    "PlaneOptions": "mgraph.graph.keywords",
    "PlotOptions": "mgraph.graph.keywords",
    "EnsembleOptions": "mgraph.graph.keywords",
    "SoupOptions": "mgraph.graph.keywords",
    "PredictOptions": "mgraph.graph.keywords",
    "Listing": "mgraph.graph.keywords",
    "Aims": "mgraph.graph.keywords",
    "Bounds": "mgraph.graph.keywords",
    "Criteria": "mgraph.query.criterion",
    # Jobs
    "Job": "mgraph.jobs.base",
    "read_job": "mgraph.jobs.registry",
    "TrainJob": "mgraph.jobs.modes",
    "AddModeJob": "mgraph.jobs.modes",
    "AddObjectJob": "mgraph.jobs.modes",
    "AddPointJob": "mgraph.jobs.modes",
    "AddCurveJob": "mgraph.jobs.modes",
    "AlignJob": "mgraph.jobs.modes",
    "ConnectJob": "mgraph.jobs.connections",
    "SweepJob": "mgraph.jobs.connections",
    "Following": "mgraph.jobs.connections",
    "ComposeJob": "mgraph.jobs.connections",
    "PlaneJob": "mgraph.jobs.connections",
    "CompositeLeg": "mgraph.jobs.connections",
    "MergeJob": "mgraph.jobs.points",
    "SoupJob": "mgraph.jobs.points",
    "EnsembleJob": "mgraph.jobs.points",
    "PredictJob": "mgraph.jobs.points",
    "EvaluateJob": "mgraph.jobs.points",
    "SharpnessJob": "mgraph.jobs.points",
    "ArchiveJob": "mgraph.jobs.points",
    "ExportJob": "mgraph.jobs.points",
    "ExportEnsembleJob": "mgraph.jobs.points",
    "Pool": "mgraph.engines.pool",
    # What is answered
    "Components": "mgraph.query.components",
    "Criterion": "mgraph.query.criterion",
    "Link": "mgraph.query.edges",
    "Suggestion": "mgraph.explore.suggestions",
    "Outlook": "mgraph.explore.exploring",
    "Done": "mgraph.explore.exploring",
    "Measured": "mgraph.evaluate.metrics",
    "Difference": "mgraph.merge.compare",
    "UpkeepPlan": "mgraph.bookkeeping.upkeep",
    "Progress": "mgraph.progress",
    "MGraphError": "mgraph.errors",
    # Writing for people: a stranger's text, a cell of a spreadsheet, a length of time
    "visible": "mgraph.shown",
    "plain_cell": "mgraph.shown",
    "spoken": "mgraph.durations",
    # The papers' experiments
    "EXPERIMENTS": "mgraph.repro.registry",
    "Reproduction": "mgraph.repro.running",
    # Demonstrations
    "run_demo": "mgraph.demo",
    "run_toy_demo": "mgraph.toydemo",
}

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "EXPERIMENTS",
    "KINDS",
    "LADDER",
    "LLPF",
    "METHODS",
    "RECIPES",
    "AddCurveJob",
    "AddModeJob",
    "AddObjectJob",
    "AddPointJob",
    "Aims",
    "AlignJob",
    "AlignOptions",
    "ArchiveJob",
    "AutoOptions",
    "BezierCurve",
    "BezierSurface",
    "Bounds",
    "Components",
    "ComposeJob",
    "CompositeLeg",
    "ConnectJob",
    "ConnectOptions",
    "Connected",
    "Criteria",
    "Criterion",
    "Difference",
    "Done",
    "EnsembleJob",
    "EnsembleOptions",
    "EvaluateJob",
    "EvaluateOptions",
    "ExportEnsembleJob",
    "ExportJob",
    "ExportOptions",
    "ExportSetOptions",
    "Exported",
    "Following",
    "Graph",
    "ImportOptions",
    "Job",
    "Linear",
    "Link",
    "Listing",
    "MGraphError",
    "Measured",
    "MergeJob",
    "MergeOptions",
    "Method",
    "Metric",
    "NudgedElasticBand",
    "Outlook",
    "Place",
    "PlaneJob",
    "PlaneOptions",
    "PlotOptions",
    "Point",
    "PolygonalChain",
    "Pool",
    "PredictJob",
    "PredictOptions",
    "Progress",
    "Recorder",
    "Reproduction",
    "SharpnessJob",
    "SharpnessSettings",
    "Simplex",
    "Size",
    "SoupJob",
    "SoupOptions",
    "SpaceOptions",
    "Suggestion",
    "SweepJob",
    "SweepOptions",
    "Task",
    "TrainJob",
    "TrainSettings",
    "UpkeepPlan",
    "check",
    "create",
    "join",
    "make_task",
    "method_named",
    "open",
    "plain_cell",
    "read_job",
    "run_demo",
    "run_toy_demo",
    "share",
    "size_of",
    "spoken",
    "tasks",
    "unpack",
    "upgrade",
    "visible",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("mgraph")
    if name not in _HOMES:
        raise AttributeError(f"module 'mgraph' has no attribute {name!r}")
    module, whole, attribute = _HOMES[name].partition(":")  # "module:" is the module itself
    home = import_module(module)
    return home if whole and not attribute else getattr(home, attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
