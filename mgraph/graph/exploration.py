"""Finding and making the next connections: a part of :class:`mgraph.Graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from mgraph.errors import InputError
from mgraph.graph.base import Opened
from mgraph.graph.keywords import Aims, Bounds
from mgraph.keywords import refuse_unknown

if TYPE_CHECKING:
    from mgraph.explore.exploring import Done, Exploration, Limits, Outlook
    from mgraph.explore.planning import Request
    from mgraph.explore.suggestions import Suggestion
    from mgraph.graph.handles import Point
    from mgraph.methods.base import Method
    from mgraph.progress import ProgressCallback


class Explorations(Opened):
    """Suggesting, planning, exploring; :class:`~mgraph.graph.keywords.Aims` lists their common keywords."""

    def suggest(self, *modes: Point | str, count: int = 1, **aims: Unpack[Aims]) -> list[Suggestion]:
        """Suggest which pairs to connect next, and why: ``g.suggest(count=3, until="components(0.1) == 1")``.

        The pairs are among the given modes, or all of a space. Later suggestions assume that the earlier ones succeed.
        Raises InputError for fewer than two modes, a method that does not join two, or an ``until`` that is not a goal.
        """
        from mgraph.explore.planning import PlannedGraph

        refuse_unknown("suggest", aims, Aims)
        if count < 1:
            raise InputError(f"There must be at least 1 suggestion, not {count}.")
        return list(PlannedGraph(self.session.store, self._request(modes, aims)).steps(count))

    def plan(
        self,
        *modes: Point | str,
        **aims: Unpack[Bounds],
    ) -> Outlook:
        """Estimate what :meth:`explore` would do, and the time and disk space it would take, judging by past runs."""
        from mgraph.engines.registry import check_engine
        from mgraph.explore.exploring import outlook

        refuse_unknown("plan", aims, Bounds)
        request = self._request(modes, aims)
        _, places = check_engine(aims.get("engine"))
        return outlook(self.session, request, _limits(request, aims, None), places or 1)

    def explore(
        self,
        *modes: Point | str,
        grid: int | Sequence[int] | None = None,
        tell: Callable[[Done], None] | None = None,
        progress: ProgressCallback | None = None,
        **aims: Unpack[Bounds],
    ) -> Exploration:
        """Connect and sweep the pairs that :meth:`suggest` names, one after the other or several on an engine.

        ``g.explore(until="components(0.1) == 1", max_pairs=20, engine="local:2")`` stops at the goal, after
        ``max_pairs`` new connections, or when the ``budget`` ("2h", or seconds) is spent; calling it again continues.
        ``engine`` is a spec, or an executor whose calls run in separate processes, such as one of
        :mod:`concurrent.futures` (``mgraph.Pool(executor, places=64)`` says how many run at once). ``tell`` is called
        with everything done. Raises InputError if nothing says when to stop, for an engine that is unknown or
        unavailable, and for a method that is defined in the script itself where processes are to import it
        (``local:N``).
        """
        from mgraph.engines.registry import check_engine, open_engine
        from mgraph.explore.exploring import explore
        from mgraph.explore.workers import Place, executor_named
        from mgraph.progress import silent

        refuse_unknown("explore", aims, Bounds)
        engine = aims.get("engine")
        request = self._request(modes, aims, swept=True)
        limits = _limits(request, aims, grid)
        limits.check(request)
        check_engine(engine)
        options = self.session.options
        with open_engine(engine, options["device"], load=executor_named) as opened:
            device = opened.device or options["device"]
            place = Place(self.session.store.path, **options | {"device": device, "threads": options["threads"] or 1})
            return explore(self.session, request, limits, opened, place, tell=tell, progress=progress or silent)

    def _request(self, modes: Sequence[Point | str], aims: Aims, *, swept: bool = False) -> Request:
        from mgraph.explore.goals import Goal
        from mgraph.explore.planning import Request, nodes_to_connect
        from mgraph.methods.curves.path import BezierCurve
        from mgraph.query.metrics import metric_to_compare

        where, nodes = nodes_to_connect(self.session, [self._node(mode) for mode in modes], aims.get("space"))
        until = aims.get("until")
        return Request(
            where,
            tuple(nodes),
            _with_settings(aims.get("method") or BezierCurve(), aims.get("settings") or {}),
            None if until is None else Goal.parse(until),
            metric_to_compare(self.session.store, where, aims.get("metric"), swept=swept),
            aims.get("split", "train"),
        )


def _with_settings(method: Method, settings: Mapping[str, Any]) -> Method:
    """Return a method with other settings; InputError, naming similar ones, for a setting that it does not have."""
    from mgraph.specs import suggestion

    known = [info.name for info in method.infos()]
    for name in settings:
        if name not in known:
            raise InputError(
                f"A {method.name} has no setting {name!r};{suggestion(name, known)} it has {', '.join(known)}."
            )
    return replace(method, **settings)


def _limits(request: Request, bounds: Bounds, grid: int | Sequence[int] | None) -> Limits:
    from mgraph.durations import seconds
    from mgraph.explore.exploring import Limits
    from mgraph.query.sweepdata import grid_counts

    counts = (grid,) if isinstance(grid, int) else grid
    chosen = None if counts is None else grid_counts(request.method.family(2), counts, ())
    budget = bounds.get("budget")
    return Limits(bounds.get("max_pairs"), None if budget is None else seconds(budget), chosen)
