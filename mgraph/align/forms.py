"""What operations do to axes if they only reshape a tensor, join parts, or extract them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mgraph.align.axes import Axis
from mgraph.align.rules import Call, UntraceableError, Value, dims_of, rule

# Parts and wholes


@rule("slice")
def _slice(call: Call) -> Sequence[Value]:
    value = call["self"]
    dim = (call["dim"] or 0) % len(value.axes)
    length = call.axes.size(value.axes[dim])
    start, stop, step = slice(call["start"], call["end"], call["step"] or 1).indices(length)
    if (start, stop, step) == (0, length, 1):
        return [value]
    if step != 1:
        call.axes.pin(value.axes[dim])
        axes = list(value.axes)
        axes[dim] = call.axes.fresh(call.shapes[0][dim], fixed=True)
        return [Value(tuple(axes))]
    return [Value(tuple(call.axes.narrow(value.axes, dim, start, max(start, stop))))]


@rule("select")
def _select(call: Call) -> Sequence[Value]:
    value = call["self"]
    (dim,) = dims_of(call, value)
    at = call["index"] % call.axes.size(value.axes[dim])
    axes = call.axes.narrow(value.axes, dim, at, at + 1)
    return [Value((*axes[:dim], *axes[dim + 1 :]))]


@rule("unbind")
def _unbind(call: Call) -> Sequence[Value]:
    value = call["self"]
    dim = (call["dim"] or 0) % len(value.axes)
    found = []
    for at in range(len(call.shapes)):
        axes = call.axes.narrow(value.axes, dim, at, at + 1)
        found.append(Value((*axes[:dim], *axes[dim + 1 :])))
    return found


@rule("split split_with_sizes chunk")
def _split(call: Call) -> Sequence[Value]:
    value = call["self"]
    dim = (call["dim"] or 0) % len(value.axes)
    found, start = [], 0
    for shape in call.shapes:
        found.append(Value(tuple(call.axes.narrow(value.axes, dim, start, start + shape[dim]))))
        start += shape[dim]
    return found


@rule("cat concat")
def _cat(call: Call) -> Sequence[Value]:
    rank = len(call.shapes[0])
    values = [v for v in call.values if len(v.axes) == rank]  # torch ignores empty tensors with one axis
    dim = (call["dim"] or 0) % rank
    first, *others = values
    call.axes.unify(*((first.axes[k], v.axes[k]) for v in others for k in range(rank) if k != dim))
    parts = [v.axes[dim] for v in values if call.axes.size(v.axes[dim])]
    axis = call.axes.concatenated(parts) if parts else first.axes[dim]
    return [Value((*first.axes[:dim], axis, *first.axes[dim + 1 :]))]


@rule("stack")
def _stack(call: Call) -> Sequence[Value]:
    first, *others = call.values
    dim = (call["dim"] or 0) % len(call.shapes[0])
    call.axes.unify(*(pair for v in others for pair in zip(first.axes, v.axes, strict=True)))
    axis = call.axes.concatenated([()] * len(call.values))
    return [Value((*first.axes[:dim], axis, *first.axes[dim:]))]


@rule("constant_pad_nd")
def _padded(call: Call) -> Sequence[Value]:
    value, pad = call["self"], call["pad"]
    axes = list(value.axes)
    for place in range(0, len(pad), 2):
        dim = len(axes) - 1 - place // 2
        for side, more in enumerate(pad[place : place + 2]):
            size = call.axes.size(axes[dim])
            if more < 0:
                axes = call.axes.narrow(axes, dim, 0 if side else -more, size + more if side else size)
            elif more > 0 and call.axes.is_pinned(axes[dim]):
                axes[dim] = call.axes.fresh(size + more, fixed=True)
            elif more > 0:
                new = call.axes.fresh(more)
                axes[dim] = call.axes.concatenated([axes[dim], new] if side else [new, axes[dim]])
    return [Value(tuple(axes))]


# Forms


@rule("view _unsafe_view reshape flatten unflatten")
def _view(call: Call) -> Sequence[Value]:
    value, shape = call["self"], call.shapes[0]
    sizes = [call.axes.size(axis) for axis in value.axes]
    if prod(sizes) != prod(shape):
        raise UntraceableError(f"the operation {call.name} looks at numbers as those of another type")
    if 0 in shape:
        call.axes.pin(*value.axes)
        return [call.pinned(shape)]
    found: list[Axis] = []
    old = new = 0
    while old < len(sizes) or new < len(shape):
        first = old, new
        left = right = 1
        while left != right or (old, new) == first:
            if new < len(shape) and (left >= right or old == len(sizes)):
                right *= shape[new]
                new += 1
            else:
                left *= sizes[old]
                old += 1
        found += call.axes.regroup(value.axes[first[0] : old], shape[first[1] : new])
    return [Value(tuple(found))]


@rule("permute")
def _permute(call: Call) -> Sequence[Value]:
    value = call["self"]
    return [Value(tuple(value.axes[d % len(value.axes)] for d in call["dims"]))]


@rule("transpose t")
def _transpose(call: Call) -> Sequence[Value]:
    axes = list(call["self"].axes)
    if len(axes) > 1:
        a, b = (0, 1) if call.name == "t" else (call["dim0"], call["dim1"])
        axes[a], axes[b] = axes[b], axes[a]
    return [Value(tuple(axes))]


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Sequence[Value]:
    axes = list(call["self"].axes)
    axes.insert(call["dim"] % (len(axes) + 1), ())
    return [Value(tuple(axes))]


@rule("squeeze")
def _squeeze(call: Call) -> Sequence[Value]:
    value = call["self"]
    dims = dims_of(call, value)
    return [Value(tuple(a for k, a in enumerate(value.axes) if k not in dims or call.axes.size(a) != 1))]


@rule("expand")
def _expand(call: Call) -> Sequence[Value]:
    value, shape = call["self"], call.shapes[0]
    axes: list[Axis] = [()] * (len(shape) - len(value.axes)) + list(value.axes)
    same = [n == call.axes.size(axis) for axis, n in zip(axes, shape, strict=True)]
    return [Value(tuple(a if s else call.axes.fresh(n) for a, s, n in zip(axes, same, shape, strict=True)))]


@rule("repeat")
def _repeat(call: Call) -> Sequence[Value]:
    value, repeats = call["self"], call["repeats"]
    axes: list[Axis] = [()] * (len(repeats) - len(value.axes)) + list(value.axes)
    return [Value(tuple((*call.axes.fresh(n), *axis) for axis, n in zip(axes, repeats, strict=True)))]


@rule("pixel_shuffle pixel_unshuffle")
def _pixel_shuffle(call: Call) -> Sequence[Value]:
    value = call["self"]
    *lead, channels, height, width = value.axes
    call.axes.pin(height, width)
    if call.name == "pixel_shuffle":
        outer, inner = call.axes.divide(channels, call["upscale_factor"] ** 2)
        call.axes.pin(inner)
    else:
        outer = (*channels, *call.axes.fresh(call["downscale_factor"] ** 2, fixed=True))
    spatial = [call.axes.fresh(n, fixed=True) for n in call.shapes[0][-2:]]
    return [Value((*lead, outer, *spatial))]
