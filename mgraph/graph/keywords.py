"""Keywords that several methods of :class:`mgraph.Graph` and its handles share, each written once.

Those with an :class:`~mgraph.settings.Option` are options of the commands too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from mgraph.evaluate.known import HOW_TO_NAME
from mgraph.keywords import refuse_unknown
from mgraph.query.criterion import PathLimit
from mgraph.settings import Option

if TYPE_CHECKING:
    from mgraph.engines.base import Engine
    from mgraph.engines.pool import Executor
    from mgraph.graph.handles import Connected, Point
    from mgraph.jobs.points import EvaluateJob
    from mgraph.methods.base import Method
else:  # read at run time for the command line, which passes names
    Connected = Engine = Executor = Method = Point = str

_INNER = "Instead of --grid, for a chain or band: its control points and this many points on every piece."
_BN_EXAMPLES = "Examples for BatchNorm statistics (default: at most 2000)."

MetricNames = Annotated[
    Sequence[str | Callable[..., Any]],
    Option(f"Measure this too: {HOW_TO_NAME}; may be repeated.", flag="--metric", shown="NAME", many="repeated"),
]
SubsetSize = Annotated[int | None, Option("Use a fixed random subset of this many examples per split.")]
SpaceName = Annotated[str | None, Option("Name or id of the space (needed if there are several).", names="space")]


class SpaceOptions(TypedDict, total=False):
    """Options of a new space: its evaluation ``loss``, its ``name`` and its ``codec`` ("none" or "blosc").

    ``loss`` is a function (outputs, targets) → scalar mean, or names one, to train and evaluate by instead of the
    data's loss.
    """

    loss: Annotated[
        str | Callable[..., Any] | None,
        Option("Your own evaluation loss, pkg.module:fn or file.py:fn (default: the data's)."),
    ]
    name: Annotated[str | None, Option("Name of the space (default: made from the two specs).")]
    codec: Annotated[str, Option("Tensor codec: none or blosc.", default="none")]


class ImportOptions(TypedDict, total=False):
    """How a checkpoint is read: the fields of :class:`mgraph.AddModeJob` with these names."""

    name: Annotated[str | None, Option("Name of the mode.")]
    weights: Annotated[str | None, Option("Which weights of a file with several sets.", shown="raw|ema|KEY")]
    ignore: Annotated[
        Sequence[str], Option("Leave out entries of the file, e.g. 'aux.*'.", shown="PATTERN", many="repeated")
    ]
    cast: Annotated[bool, Option("Round float64 tensors to float32.")]
    recompute_batchnorm: Annotated[bool, Option("Store BatchNorm statistics recomputed from training data.")]
    space: SpaceName


class Listing(TypedDict, total=False):
    """Which rows are listed, and in which order.

    ``where`` is an expression over the columns of ``mgraph ls --list-columns`` (:mod:`mgraph_store.index.filters`),
    ``sort`` names columns, with ``-`` before those to sort in descending order, ``limit`` is the largest number of
    rows.
    """

    where: Annotated[
        str | None,
        Option("Only those for which this is true, e.g. \"test_accuracy > 0.9 and tag = 'x'\".", shown="EXPR"),
    ]
    sort: Annotated[
        str | Sequence[str],
        Option("Sort by columns; - before one: descending. [default: created]", shown="COLUMN,…"),
    ]
    limit: Annotated[int | None, Option("At most this many nodes, and this many connections.", shown="N")]
    space: SpaceName


class Joining(TypedDict, total=False):
    """How modes are joined: the ``name`` of the connection, and what to do about ends that differ.

    Ends of different tasks are refused, unless ``same_layout`` says to use the first one's. ``buffers_from`` is the end
    whose buffers to use where they differ.
    """

    name: Annotated[str | None, Option("Name of the connection.")]
    same_layout: Annotated[bool, Option("Connect across tasks, on the first end's task.")]
    buffers_from: Annotated[Point | str | None, Option("The end whose buffers to use where they differ.", names="node")]


class SweepGrid(TypedDict, total=False):
    """Where a path is measured: ``grid`` points along each parameter."""

    grid: Annotated[
        int | Sequence[int] | None,
        Option(
            "Points of the sweep: n or n,m (default: 61 on a path, 11,11 on a surface, at most 11 along an edge of a "
            "simplex; of a band its pivots and 9 points in every gap).",
            many="commas",
        ),
    ]


class SweepMeasures(TypedDict, total=False):
    """What of a connection is measured, and on how many examples."""

    splits: Annotated[Sequence[str], Option("Splits to measure.", default="train,valid,test", many="commas")]
    examples: SubsetSize
    bn_examples: Annotated[int | None, Option(_BN_EXAMPLES)]
    metrics: MetricNames


class ConnectOptions(Joining, SweepGrid, SweepMeasures, total=False):
    """Further options of connecting by one method: where control points start, and how the result is swept.

    With ``align``, every end but the last is first permuted to lie close to that (:meth:`mgraph.Graph.align`). Control
    points start from those of the connection ``init``. The sweep is on ``grid``, or on ``inner`` points on every piece
    of a chain; what it measures is said as for a sweep of its own.
    """

    init: Annotated[
        Connected | str | None,
        Option("Start from the control points of this connection of the same ends.", shown="CONN", names="connection"),
    ]
    align: Annotated[bool, Option("Align every other end to the last one first, and connect what comes out.")]
    inner: Annotated[int | None, Option(_INNER, low=0)]


class AutoOptions(Joining, SweepGrid, PathLimit, total=False):
    """Further options of connecting by the cheapest method: the limit that a path must meet, and the time available."""

    budget: Annotated[
        str | float | None,
        Option(
            "Time to spend, such as 90s, 30m, 1h30m: a method that would surely exceed it is not "
            "started, and one that has started stops then."
        ),
    ]


class AlignOptions(TypedDict, total=False):
    """How a mode is aligned: fields of :class:`mgraph.AlignJob`."""

    name: Annotated[str | None, Option("Name of the aligned mode.")]
    restarts: Annotated[int, Option("Further starts of the search, in random orders.", default="3", low=0)]
    seed: Annotated[int, Option("Seed of these orders.", default="0", low=0)]


class EvaluateOptions(TypedDict, total=False):
    """What of a point is measured: fields of :class:`mgraph.EvaluateJob`."""

    metrics: MetricNames
    examples: SubsetSize
    save: Annotated[bool, Option("Store with the node what it has not yet.")]


def evaluation(node: str, splits: Sequence[str], options: EvaluateOptions) -> EvaluateJob:
    """Make the job of keywords; TypeError for one that is none."""
    from mgraph.jobs.points import EvaluateJob

    refuse_unknown("evaluate", options, EvaluateOptions)
    metrics = options.get("metrics", ())
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    return EvaluateJob(
        node=node,
        splits=tuple(splits),
        metrics=tuple(metrics),
        examples=options.get("examples"),
        save=options.get("save", False),
    )


class SweepOptions(SweepMeasures, total=False):
    """How a connection is measured: fields of :class:`mgraph.SweepJob`, and what the sweep is refined on."""

    inner: Annotated[int | None, Option(_INNER, low=0)]
    precision: Annotated[str, Option("Compute in fp32, tf32 or bf16.", default="fp32")]
    refine: Annotated[float | None, Option("Add points until the interpolation error is below this.", shown="BOUND")]
    refine_on: Annotated[str, Option("What --refine looks at. [default: train:loss]", shown="SPLIT:METRIC")]
    max_points: Annotated[int, Option("Largest number of points with --refine. [default: 2000]")]
    route_on: Annotated[
        str,
        Option(
            "train or valid: whose loss chooses the route between two ends of a surface or simplex.",
            default="train",
            shown="SPLIT",
        ),
    ]
    reuse: Annotated[bool, Option("Measure everything again, even what is already stored.", flag="--no-reuse")]


class PlaneOptions(SweepMeasures, total=False):
    """Which plane is meant: fields of :class:`mgraph.PlaneJob`, and how it is measured."""

    random: Annotated[bool, Option("Around one node, along two filter-normalised random directions.")]
    pca: Annotated[bool, Option("The two principal components of three or more nodes, through the last.")]
    margin: Annotated[float, Option("Around the nodes, as a share of their rectangle. [default: 0.2]", shown="SHARE")]
    radius: Annotated[
        float, Option("With --random: so many times a direction to both sides. [default: 1]", shown="TIMES")
    ]
    seed: Annotated[int, Option("With --random: seed of the directions.", default="0", low=0)]
    name: Annotated[str | None, Option("Name of the plane.")]
    grid: Annotated[
        int | Sequence[int] | None,
        Option("Points along x and y: n or n,m; the nodes lie on them. [default: 21,21]", many="commas"),
    ]


class PlotOptions(TypedDict, total=False):
    """What of a sweep is drawn (default: the loss, and the primary metric if it is a different one)."""

    splits: Annotated[
        Sequence[str],
        Option("Draw this split only; may be repeated.", flag="--split", shown="SPLIT", many="repeated"),
    ]
    metrics: Annotated[
        Sequence[str],
        Option("Draw this metric only; may be repeated.", flag="--metric", shown="NAME", many="repeated"),
    ]
    relief: Annotated[bool, Option("Draw a surface, plane or simplex of three in three dimensions.", flag="--3d")]


class MergeOptions(TypedDict, total=False):
    """Which point becomes a node, and how: fields of :class:`mgraph.MergeJob`."""

    best: Annotated[bool, Option("Take the swept point that is best on validation data, whatever the rule says.")]
    refine: Annotated[
        int | None,
        Option(
            "Search on from the best swept point, looking at this many more, on half of the validation data.", low=1
        ),
    ]
    soup: Annotated[str | None, Option("Average swept points: uniform, or greedy (on validation data).")]
    name: Annotated[str | None, Option("Name of the merged node.")]
    bn_examples: Annotated[int | None, Option(_BN_EXAMPLES)]
    force: Annotated[bool, Option("Store the point even if it is on a wall between the corners.")]


class SetOptions(TypedDict, total=False):
    """Which models are meant besides those that are named: nodes for which ``where`` is true, of ``space``."""

    where: Annotated[
        str | None,
        Option(
            'All modes and merged nodes for which this is true, e.g. "kind=mode, test_accuracy > 0.9".', shown="EXPR"
        ),
    ]
    space: SpaceName
    bn_examples: Annotated[
        int | None,
        Option("Recompute BatchNorm statistics of all from this many examples (default: nodes keep their own)."),
    ]


class EnsembleOptions(SetOptions, total=False):
    """How members of a set vote: fields of :class:`mgraph.EnsembleJob`, and which they are."""

    temperature: Annotated[bool, Option("Give each member a temperature, fitted on validation data.")]
    weights: Annotated[bool, Option("Weigh members by learned convex weights, fitted on validation data.")]
    greedy: Annotated[
        int | None,
        Option("Only the members that help most on validation data, at most this many.", shown="MOST", low=1),
    ]


class SoupOptions(SetOptions, total=False):
    """How a set is averaged: fields of :class:`mgraph.SoupJob`, and which models it is of."""

    name: Annotated[str | None, Option("Name of the merged node.")]
    force: Annotated[bool, Option("Average the models even if a barrier divides them.")]


class PredictOptions(SetOptions, total=False):
    """Of what a set predicts, and how: fields of :class:`mgraph.PredictJob`, and which models it is of."""

    data: Annotated[str | None, Option("Other data than the space's, with inputs of the same shape.", shown="SPEC")]
    split: Annotated[str, Option("train, valid or test.", default="test")]
    temperature: Annotated[bool, Option("Give each member a temperature, fitted on the space's validation data.")]
    overwrite: Annotated[bool, Option("Replace what is there.")]


class ExportOptions(TypedDict, total=False):
    """How a file is written: fields of :class:`mgraph.ExportJob`."""

    normalise: Annotated[
        bool, Option("Let a program (.pt2, .onnx) take inputs as the data hold them, and normalise them itself.")
    ]
    verify: Annotated[
        bool,
        Option(
            "Do not run the file in a fresh process without mgraph, to compare its predictions, before it is there.",
            flag="--no-verify",
        ),
    ]
    overwrite: Annotated[bool, Option("Replace what is there.")]


class ExportSetOptions(SetOptions, ExportOptions, total=False):
    """How an ensemble is written, and which models it is of: fields of :class:`mgraph.ExportEnsembleJob`."""


class Aims(TypedDict, total=False):
    """What exploration aims at: the ``method`` that connects two ends (default: a Bézier curve), with other
    ``settings``
    where they are given ({"epochs": 10}), the goal ``until``
    ("components(0.1) == 1", see :mod:`mgraph.explore.goals`), the ``metric`` (any with a direction; default: the loss)
    and ``split`` on which edges are compared, and the ``space`` whose modes are meant if none are given.
    """

    method: Method | None
    settings: Mapping[str, Any] | None
    until: Annotated[
        str | None,
        Option(
            "Stop at this goal: 'components(0.1) == 1', 'max_barrier <= 0.05', 'max_peak < 0.3', joined by and.",
            shown="GOAL",
        ),
    ]
    metric: Annotated[str, Option("Any metric that is measured.", default="loss")]
    split: Annotated[str, Option("train, valid or test.", default="train")]
    space: SpaceName


class Bounds(Aims, total=False):
    """When else exploration stops: after ``max_pairs`` new connections, or when the ``budget`` ("2h", or seconds) is
    used up; and the ``engine`` that it runs on.
    """

    budget: Annotated[
        str | float | None, Option("Start nothing that would exceed this total time: 2h, 1h30m, 90s.", shown="TIME")
    ]
    max_pairs: Annotated[int | None, Option("Connect at most this many pairs.", shown="N")]
    engine: Annotated[
        str | Engine | Executor | None,
        Option(
            "Several at once: local:N (processes), ray or ray:N (a Ray cluster), slurm:N?partition=… (jobs), "
            "or file.py:function, which returns an executor.",
            shown="ENGINE",
        ),
    ]
