"""What the operations of layers do to axes: matrix products, convolutions, normalisation, pooling, attention."""

from __future__ import annotations

from collections.abc import Sequence

from mgraph.align.axes import Axis
from mgraph.align.rules import Call, UntraceableError, Value, broadcast, rule

# Products: axes summed over are shared


@rule("mm bmm matmul mv dot")
def _product(call: Call) -> Sequence[Value]:
    a, b = call.values
    return [_multiplied(call, a, b)]


@rule("addmm baddbmm addmv")
def _sum_and_product(call: Call) -> Sequence[Value]:
    bias, a, b = call.values
    return [broadcast(call, [_multiplied(call, a, b), bias])]


@rule("linear")
def _linear(call: Call) -> Sequence[Value]:
    value, weight, bias = call["input"], call["weight"], call["bias"]
    call.axes.unify((value.axes[-1], weight.axes[1]))
    out = Value((*value.axes[:-1], weight.axes[0]))
    return [out if bias is None else broadcast(call, [out, bias])]


def _multiplied(call: Call, a: Value, b: Value) -> Value:
    """Multiply matrices or vectors like torch.matmul."""
    inner = a.axes[-1], b.axes[-2 if len(b.axes) > 1 else -1]
    rows = a.axes[-2:-1] if len(a.axes) > 1 else ()
    columns = b.axes[-1:] if len(b.axes) > 1 else ()
    # Batches first: within each, the axis summed over may have its own order.
    batches = broadcast(call, [Value(a.axes[:-2]), Value(b.axes[:-2])])
    call.axes.unify(inner)
    return Value((*batches.axes, *rows, *columns))


# Convolutions


@rule("convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _convolution(call: Call) -> Sequence[Value]:
    axes, value, weight, bias = call.axes, call["input"], call["weight"], call["bias"]
    groups = call["groups"] or 1
    transposed = bool(call["transposed"]) or "transpose" in call.name
    axes.pin(*value.axes[2:], *weight.axes[2:])
    channels = value.axes[1]
    into, out = (weight.axes[0], weight.axes[1]) if transposed else (weight.axes[1], weight.axes[0])
    if groups > 1 and transposed:  # the weight is (in, out of a group, …)
        axes.unify((channels, into))
        group, _ = axes.divide(into, axes.size(into) // groups)
        out = (*group, *out)
    elif groups > 1:
        group, within = axes.divide(channels, axes.size(channels) // groups)
        group_out, _ = axes.divide(out, axes.size(out) // groups)
        axes.unify((group, group_out))
        axes.unify((within, into))
    else:
        axes.unify((channels, into))
    if bias is not None:
        axes.unify((bias.axes[0], out))
    spatial = [axes.fresh(n, fixed=True) for n in call.shapes[0][2:]]
    return [Value((value.axes[0], out, *spatial))]


# Normalisation


@rule(
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional batch_norm "
    "native_batch_norm cudnn_batch_norm _batch_norm_no_update _batch_norm_with_update"
)
def _batch_norm(call: Call) -> Sequence[Value]:
    value, *others = call.values
    channels = value.axes[1]
    call.axes.unify(*((channels, other.axes[0]) for other in others))
    further = [Value((channels,)) if len(s) == 1 and s[0] else call.pinned(s) for s in call.shapes[1:]]
    return [value, *further]


@rule("native_layer_norm layer_norm rms_norm _fused_rms_norm")
def _layer_norm(call: Call) -> Sequence[Value]:
    value, *others = call.values
    for other in others:
        call.axes.unify(*zip(value.axes[-len(other.axes) :], other.axes, strict=True))
    rest = len(value.axes) - len(call["normalized_shape"])
    statistics = Value((*value.axes[:rest], *(() for _ in value.axes[rest:])))
    return [value, *[statistics] * (len(call.shapes) - 1)]


@rule("native_group_norm group_norm")
def _group_norm(call: Call) -> Sequence[Value]:
    value, *others = call.values
    groups = call["group"] if call["group"] is not None else call["num_groups"]
    channels = value.axes[1]
    call.axes.unify(*((channels, other.axes[0]) for other in others))
    outer, _ = call.axes.divide(channels, call.axes.size(channels) // groups)
    return [value, *[Value((value.axes[0], outer))] * (len(call.shapes) - 1)]


@rule("_weight_norm_interface")
def _weight_norm(call: Call) -> Sequence[Value]:
    direction, scale = call["v"], call["g"]
    broadcast(call, [direction, scale])
    return [direction, scale]


# Pooling and other operations on positions, which keep their order


def _on_places(call: Call, count: int) -> Sequence[Value]:
    value = call.values[0]
    call.axes.pin(*value.axes[-count:], *(axis for other in call.values[1:] for axis in other.axes))
    lead: tuple[Axis, ...] = value.axes[:-count]
    return [Value((*lead, *(call.axes.fresh(n, fixed=True) for n in shape[-count:]))) for shape in call.shapes]


@rule(
    "avg_pool1d max_pool1d max_pool1d_with_indices adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d "
    "upsample_linear1d reflection_pad1d replication_pad1d _upsample_nearest_exact1d"
)
def _on_line(call: Call) -> Sequence[Value]:
    return _on_places(call, 1)


@rule(
    "avg_pool2d max_pool2d max_pool2d_with_indices _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad2d replication_pad2d grid_sampler_2d _upsample_nearest_exact2d fractional_max_pool2d"
)
def _on_plane(call: Call) -> Sequence[Value]:
    return _on_places(call, 2)


@rule(
    "avg_pool3d max_pool3d max_pool3d_with_indices _adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d "
    "upsample_nearest3d upsample_trilinear3d reflection_pad3d replication_pad3d grid_sampler_3d"
)
def _in_space(call: Call) -> Sequence[Value]:
    return _on_places(call, 3)


# Attention


@rule(
    "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math"
)
def _attention(call: Call) -> Sequence[Value]:
    axes, query, key, value = call.axes, call["query"], call["key"], call["value"]
    mask = call["attn_mask"] if call["attn_mask"] is not None else call["attn_bias"]
    *batch, heads = query.axes[:-2] or ((),)
    if call["enable_gqa"] and axes.size(heads) != axes.size(key.axes[-3]):
        shared, _ = axes.divide(heads, axes.size(heads) // axes.size(key.axes[-3]))
        axes.unify((shared, key.axes[-3]), (key.axes[-3], value.axes[-3]))
        lead = Value(
            (*broadcast(call, [Value(tuple(batch)), Value(key.axes[:-3]), Value(value.axes[:-3])]).axes, heads)
        )
    else:
        lead = broadcast(call, [Value(v.axes[:-2]) for v in (query, key, value)])
    axes.unify((query.axes[-1], key.axes[-1]), (key.axes[-2], value.axes[-2]))
    if call["is_causal"]:
        axes.pin(query.axes[-2], key.axes[-2])
    rows = query.axes[-2]
    if mask is not None:
        broadcast(call, [mask, Value((*lead.axes, rows, key.axes[-2]))])
    out = Value((*lead.axes, rows, value.axes[-1]))
    further = [Value((*lead.axes, rows)) if len(s) == len(lead.axes) + 1 else call.pinned(s) for s in call.shapes[1:]]
    return [out, *further]


# Recurrence


@rule("lstm gru rnn_tanh rnn_relu")
def _recurrent(call: Call) -> Sequence[Value]:
    """Follow each layer and direction: all gates share the order of its units, which is also that of its state."""
    axes = call.axes
    packed = call["batch_sizes"] is not None
    value = call["data"] if packed else call["input"]
    axes.pin(*value.axes[:-1])
    weights, given = list(call["params"]), call["hx"]
    states = [*given] if isinstance(given, list | tuple) else [given]
    directions = 2 if call["bidirectional"] else 1
    count = call["num_layers"] * directions
    each = len(weights) // count
    if each not in (2, 4):
        raise UntraceableError(f"the operation {call.name} projects its state, which cannot be followed")
    into, found = value.axes[-1], []
    for layer in range(call["num_layers"]):
        outs = []
        for direction in range(directions):
            number = layer * directions + direction
            of_input, of_state, *biases = weights[number * each : (number + 1) * each]
            units = of_state.axes[1]
            gates = axes.concatenated([units] * (axes.size(of_state.axes[0]) // axes.size(units)))
            axes.unify((of_input.axes[1], into), *((one.axes[0], gates) for one in (of_input, of_state, *biases)))
            for state in states:
                if not state.constant:
                    axes.unify((axes.narrow(state.axes, 0, number, number + 1)[-1], units))
            outs.append(units)
        into = axes.concatenated(outs)
        found += outs
    outer, inner = axes.stacked(found)
    batch = [axes.fresh(n, fixed=True) for n in call.shapes[1][1:-1]]
    last = [Value((outer, *batch, inner))] * (len(call.shapes) - 1)
    return [Value((*value.axes[:-1], into)), *last]
