"""Keywords that several methods of :class:`mgraph.Graph` and its handles share, each written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from mgraph.query.criterion import PathLimit

if TYPE_CHECKING:
    from mgraph.graph.handles import Connected, Point


class SpaceOptions(TypedDict, total=False):
    """Of a space that is made: its evaluation ``loss``, its ``name`` and its ``codec`` ("none" or "blosc").

    ``loss`` names a function (outputs, targets) → scalar mean, to train and evaluate by instead of the data's loss.
    """

    loss: str | None
    name: str | None
    codec: str


class Listing(TypedDict, total=False):
    """Which rows are listed, and in which order.

    ``where`` is an expression over the columns of ``mgraph ls --list-columns`` (:mod:`mgraph_store.index.filters`),
    ``sort`` names columns, with ``-`` before those that descend, ``limit`` is how many rows there are at most.
    """

    space: str | None
    where: str | None
    sort: str | Sequence[str]
    limit: int | None


class Joining(TypedDict, total=False):
    """How modes are joined: the ``name`` of the connection, and what to do about ends that differ.

    Ends of different tasks are refused, unless ``same_layout`` says to go on with the first one's. ``buffers_from`` is
    the end whose buffers count where they differ.
    """

    name: str | None
    same_layout: bool
    buffers_from: Point | str | None


class ConnectOptions(Joining, total=False):
    """What connecting by one method takes besides: ``init``, the connection where control points start."""

    init: Connected | str | None


class AutoOptions(Joining, PathLimit, total=False):
    """What connecting by the cheapest method takes besides: the limit that a path must meet."""


class SweepOptions(TypedDict, total=False):
    """How a connection is measured: the fields of :class:`mgraph.SweepJob` of these names."""

    inner: int | None
    splits: Sequence[str]
    examples: int | None
    bn_examples: int | None
    precision: str
    metrics: Sequence[str | Callable[..., Any]]
    route_on: str
    reuse: bool
