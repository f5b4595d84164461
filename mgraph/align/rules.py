"""What the operations of ATen do to axes: which they pass on, share, reduce, or keep in order.

Operations are those of ``torch.export`` after its decompositions, known by their name without overload. Elementwise
ones need no rule, because torch marks them. One without a rule may only receive pinned axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mgraph.align.axes import Axes, Axis
from mgraph.errors import InputError


class UntraceableError(InputError):
    """A network contains an operation whose effect on the order of units is unknown."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its axes. ``constant``: all its numbers are equal, so any order will do."""

    axes: tuple[Axis, ...]
    constant: bool = False


@dataclass(frozen=True)
class Call:
    """One call of an operation: its arguments by name, tensors as :class:`Value`, and the shapes of its results."""

    name: str
    given: dict[str, Any]
    shapes: list[tuple[int, ...]]
    axes: Axes

    def __getitem__(self, name: str) -> Any:
        """Return an argument; None if the operation has none with that name."""
        return self.given.get(name)

    @property
    def values(self) -> list[Value]:
        """All input tensors."""
        found: list[Value] = []
        for argument in self.given.values():
            parts = argument if isinstance(argument, list | tuple) else [argument]
            found += [part for part in parts if isinstance(part, Value)]
        return found

    def pinned(self, shape: Sequence[int]) -> Value:
        """Return a tensor that keeps its order along every axis."""
        return Value(tuple(self.axes.fresh(n, fixed=True) for n in shape))

    def constant(self, shape: Sequence[int]) -> Value:
        """Return a tensor whose numbers are all equal."""
        return Value(tuple(self.axes.fresh(n) for n in shape), constant=True)

    def renewed(self) -> Call:
        """Return the same call with constants that share no axis with any other use of them."""
        given = {key: _renewed(self, argument) for key, argument in self.given.items()}
        return Call(self.name, given, self.shapes, self.axes)


def _renewed(call: Call, argument: Any) -> Any:
    if isinstance(argument, list | tuple):
        return [_renewed(call, part) for part in argument]
    if isinstance(argument, Value) and argument.constant:
        return call.constant([call.axes.size(axis) for axis in argument.axes])
    return argument


Rule = Callable[[Call], Sequence[Value]]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register what operations with these names do."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


def apply(call: Call, *, pointwise: bool) -> Sequence[Value]:
    """Return the axes of a call's results; raise UntraceableError, naming the operation, if it has no rule."""
    if len(call.values) == 1 and call.values[0].constant and (pointwise or call.name in _KEEPING_CONSTANTS):
        return [call.constant(shape) for shape in call.shapes]
    call, found = call.renewed(), RULES.get(call.name)
    if found is not None:
        return found(call)
    if pointwise:
        return [broadcast(call, call.values)]
    if all(call.axes.is_pinned(axis) for value in call.values for axis in value.axes):
        return [call.pinned(shape) for shape in call.shapes]
    raise UntraceableError(f"the operation {call.name} is not one whose treatment of the units' order is known")


_KEEPING_CONSTANTS = frozenset(
    [
        "alias",
        "clone",
        "contiguous",
        "detach",
        "expand",
        "permute",
        "repeat",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
        "_to_copy",
        "_unsafe_view",
    ]
)


def broadcast(call: Call, values: Iterable[Value]) -> Value:
    """Unify the axes of tensors that are broadcast together, starting from the last axis."""
    values = list(values)
    rank = max((len(v.axes) for v in values), default=0)
    result: list[Axis] = []
    pairs = []
    for k in range(-rank, 0):
        there = [v.axes[k] for v in values if len(v.axes) >= -k and call.axes.size(v.axes[k]) != 1]
        pairs += [(there[0], other) for other in there[1:]]
        result.append(there[0] if there else ())
    call.axes.unify(*pairs)
    return Value(tuple(result))


def dims_of(call: Call, value: Value, name: str = "dim") -> list[int]:
    """Return the axes named by an argument, or all if it names none."""
    given, rank = call[name], len(value.axes)
    if given is None or given == []:
        return list(range(rank))
    return [d % rank for d in ([given] if isinstance(given, int) else given)] if rank else []


def _without(value: Value, dims: Sequence[int], keep: bool) -> Value:
    if keep:
        return Value(tuple(() if k in dims else axis for k, axis in enumerate(value.axes)))
    return Value(tuple(axis for k, axis in enumerate(value.axes) if k not in dims))


# Elementwise but not marked as such, or marked although they are not


@rule(
    "clone alias detach _to_copy contiguous lift_fresh_copy _softmax _log_softmax _safe_softmax softmax log_softmax "
    "dropout native_dropout feature_dropout alpha_dropout logical_not lift_fresh"
)
def _same(call: Call) -> Sequence[Value]:
    return [Value(call.values[0].axes)] * max(1, len(call.shapes))


@rule("copy where masked_fill addcmul addcdiv lerp rsub")
def _elementwise(call: Call) -> Sequence[Value]:
    return [broadcast(call, call.values)]


@rule("full zeros ones empty full_like zeros_like ones_like empty_like new_zeros new_ones new_full new_empty fill")
def _constant(call: Call) -> Sequence[Value]:
    return [call.constant(shape) for shape in call.shapes]


# Reductions: the axis summed or compared over may be in any order


@rule("mean sum amax amin any all prod var std var_mean std_mean var_correction logsumexp linalg_vector_norm norm")
def _reduced(call: Call) -> Sequence[Value]:
    value = call.values[0]
    return [_without(value, dims_of(call, value), bool(call["keepdim"]))] * len(call.shapes)


@rule("argmax argmin max min median nanmedian mode kthvalue")
def _found_at(call: Call) -> Sequence[Value]:
    value = call.values[0]
    if len(call.values) == 2:  # max(a, b)
        return [broadcast(call, call.values)]
    dims = dims_of(call, value)
    if call.name not in ("max", "min") or "dim" in call.given:
        call.axes.pin(*(value.axes[d] for d in dims))
    return [_without(value, dims, bool(call["keepdim"]))] * len(call.shapes)


# Operations for which the order along an axis matters


@rule("cumsum cumprod logcumsumexp cummax cummin flip roll sort tril triu")
def _in_order(call: Call) -> Sequence[Value]:
    value = call.values[0]
    last_two = list(range(len(value.axes)))[-2:]
    named = "dims" if call.name in ("flip", "roll") else "dim"
    dims = last_two if call.name in ("tril", "triu") else dims_of(call, value, named)
    call.axes.pin(*(value.axes[d] for d in dims))
    return [value] * len(call.shapes)


@rule("topk")
def _topk(call: Call) -> Sequence[Value]:
    value = call.values[0]
    (dim,) = dims_of(call, value)
    call.axes.pin(value.axes[dim])
    axes = list(value.axes)
    axes[dim] = call.axes.fresh(call.shapes[0][dim], fixed=True)
    return [Value(tuple(axes))] * 2


@rule("diagonal")
def _diagonal(call: Call) -> Sequence[Value]:
    value = call.values[0]
    dims = {(call[name] or 0) % len(value.axes) for name in ("dim1", "dim2")}
    call.axes.pin(*(value.axes[d] for d in dims))
    rest = tuple(axis for k, axis in enumerate(value.axes) if k not in dims)
    return [Value((*rest, call.axes.fresh(call.shapes[0][-1], fixed=True)))]


# Indexing


@rule("embedding")
def _embedding(call: Call) -> Sequence[Value]:
    weight, indices = call["weight"], call["indices"]
    call.axes.pin(weight.axes[0])
    return [Value((*indices.axes, *weight.axes[1:]))]


@rule("index_select")
def _index_select(call: Call) -> Sequence[Value]:
    value, index = call.values
    (dim,) = dims_of(call, value)
    call.axes.pin(value.axes[dim])
    return [Value((*value.axes[:dim], *(index.axes or ((),)), *value.axes[dim + 1 :]))]


@rule("index _unsafe_index")
def _index(call: Call) -> Sequence[Value]:
    value = call["self"]
    indices = list(call["indices"])
    at = [k for k, one in enumerate(indices) if one is not None]
    call.axes.pin(*(value.axes[k] for k in at))
    if any(
        call.axes.size(axis) != n for axis, n in zip(_placed(call, value, indices, at), call.shapes[0], strict=False)
    ):
        return _refuse_unless_pinned(call)  # by a mask
    return [Value(tuple(_placed(call, value, indices, at)))]


def _placed(call: Call, value: Value, indices: list[Any], at: list[int]) -> list[Axis]:
    chosen = list(broadcast(call, [one for one in indices if one is not None]).axes)
    rest = [axis for k, axis in enumerate(value.axes) if k not in at]
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    return [*rest[:first], *chosen, *rest[first:]]


@rule("gather")
def _gather(call: Call) -> Sequence[Value]:
    value, index = call["self"], call["index"]
    (dim,) = dims_of(call, value)
    for k, (mine, theirs) in enumerate(zip(value.axes, index.axes, strict=True)):
        if k != dim and call.axes.size(mine) == call.axes.size(theirs):
            call.axes.unify((mine, theirs))
        else:
            call.axes.pin(mine, theirs)
    return [index]


@rule("slice_scatter select_scatter")
def _scattered(call: Call) -> Sequence[Value]:
    value, source = call["self"], call["src"]
    (dim,) = dims_of(call, value)
    call.axes.pin(value.axes[dim])
    axes = list(source.axes)
    if call.name == "slice_scatter":
        call.axes.pin(axes.pop(dim))
    rest = [axis for k, axis in enumerate(value.axes) if k != dim]
    call.axes.unify(*zip(rest, axes, strict=True))
    return [value]


def _refuse_unless_pinned(call: Call) -> Sequence[Value]:
    if all(call.axes.is_pinned(axis) for value in call.values for axis in value.axes):
        return [call.pinned(shape) for shape in call.shapes]
    raise UntraceableError(f"the operation {call.name} by a mask or a list chooses among units")
