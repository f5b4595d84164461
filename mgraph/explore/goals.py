"""When exploration is done: a goal such as ``components(0.1) == 1 and max_barrier <= 0.05``.

    goal      = condition { "and" condition }
    condition = ( components | max_peak | max_barrier ) relation number
    components = "components(" number [ ", peak" | ", barrier" ] ")"
    relation  = "<=" | "<" | "=="

``components(x)`` is the number of components that edges with a barrier of at most x make, ``components(x, peak)`` that
by peak. ``max_barrier`` and ``max_peak`` are the worst edge of the minimum spanning tree: the level at which all modes
are one component (infinite while nothing joins them). More edges only lower all of these.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

from typing_extensions import override

from mgraph.errors import InputError
from mgraph.query.arrays import EdgeArrays, labels, spanning_forest

Edges = Mapping[str, EdgeArrays]  # by quantity: peak and barrier

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(
    rf"(?:components\(\s*(?P<limit>{_NUMBER})\s*(?:,\s*(?P<by>peak|barrier)\s*)?\)|max_(?P<quantity>peak|barrier))"
    rf"\s*(?P<relation><=|==|<)\s*(?P<bound>{_NUMBER})"
)
_RELATIONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, "<": operator.lt, "==": operator.eq}
_GRAMMAR = "as in 'components(0.1) == 1', 'max_barrier <= 0.05' or 'max_peak < 0.3', joined by and"


@dataclass(frozen=True)
class Condition:
    """One condition: components at ``limit`` (None: the worst edge of the tree) by a quantity, against a bound."""

    quantity: str
    limit: float | None
    relation: str
    bound: float

    @override
    def __str__(self) -> str:
        return f"{self.term} {self.relation} {self.bound:g}"

    @property
    def term(self) -> str:
        """What is compared with the bound."""
        if self.limit is None:
            return f"max_{self.quantity}"
        return f"components({self.limit:g}{'' if self.quantity == 'barrier' else f', {self.quantity}'})"

    def value(self, edges: Edges) -> float:
        """Return the value of the term on these edges."""
        given = edges[self.quantity]
        if self.limit is not None:
            return float(labels(given.take(given.value <= self.limit)).max(initial=-1) + 1)
        forest = spanning_forest(given)
        if len(forest) < given.size - 1:
            return math.inf
        return float(given.value[forest].max(initial=0.0))

    def holds(self, value: float) -> bool:
        """Return whether the term may have this value."""
        return _RELATIONS[self.relation](value, self.bound)


@dataclass(frozen=True)
class Goal:
    """Conditions that all hold when exploration is done."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read an expression; InputError if it is not one, or can never hold."""
        conditions = []
        for part in re.split(r"\s+and\s+", text.strip()):
            match = _CONDITION.fullmatch(part)
            if match is None:
                raise InputError(f"--until takes conditions {_GRAMMAR}; {part!r} is not one.")
            limit = None if match["limit"] is None else float(match["limit"])
            quantity = match["by"] or match["quantity"] or "barrier"
            conditions.append(Condition(quantity, limit, match["relation"], float(match["bound"])))
        goal = cls(tuple(conditions))
        for condition in conditions:
            _check_alone(condition)
        for one, other in combinations(conditions, 2):
            if _contradict(one, other) or _contradict(other, one):
                raise InputError(f"--until can never hold: {one} and {other} contradict each other.")
        return goal

    @override
    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions))

    def check_size(self, modes: int) -> None:
        """Raise InputError if this number of modes can never meet it."""
        for condition in self.conditions:
            if condition.limit is not None and condition.relation == "==" and condition.bound > modes:
                raise InputError(f"--until can never hold: {condition}, but there are only {modes} modes.")

    def is_met(self, edges: Edges) -> bool:
        """Return whether all conditions hold."""
        return all(c.holds(c.value(edges)) for c in self.conditions)

    def missed(self, edges: Edges) -> Condition | None:
        """Return a condition that no further edge can meet, because there are already too few components."""
        for condition in self.conditions:
            if condition.relation == "==" and condition.value(edges) < condition.bound:
                return condition
        return None

    def state(self, edges: Edges) -> str:
        """Give the present values: ``components(0.1) = 3, max_barrier = 0.2``."""
        return ", ".join(f"{c.term} = {c.value(edges):g}" for c in self.conditions)

    @property
    def guide(self) -> Condition:
        """The condition that says by which quantity, and up to which limit, modes are to be joined."""
        return next((c for c in self.conditions if c.limit is not None), self.conditions[0])


def _check_alone(condition: Condition) -> None:
    counted = condition.limit is not None
    least = 1.0 if counted else 0.0 if condition.quantity == "barrier" else -math.inf
    if condition.bound < least or (condition.relation == "<" and condition.bound == least):
        what = "there is always a component" if counted else "no barrier is below 0"
        raise InputError(f"--until can never hold: {condition}, but {what}.")
    if condition.relation == "==" and not counted:
        raise InputError(f"--until compares {condition.term} by <= or <, not by ==, because it is a measured number.")
    if condition.relation == "==" and not condition.bound.is_integer():
        raise InputError(f"--until can never hold: {condition}, but components are counted.")


def _contradict(one: Condition, other: Condition) -> bool:
    """Return whether ``one`` asks for more components than ``other`` allows; a lower limit never gives fewer."""
    if one.relation != "==" or one.limit is None or one.quantity != other.quantity:
        return False
    if other.limit is None:  # then all modes are one component at any limit from that level on
        return one.bound > 1 and other.bound <= one.limit
    if other.limit > one.limit:
        return False
    least = other.bound if other.relation == "==" else one.bound
    return least < one.bound or not other.holds(least)
