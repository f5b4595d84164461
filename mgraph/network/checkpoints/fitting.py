"""Fit a checkpoint to a network: the network's own ``load_state_dict`` decides, and the result is read back.

So old names that a module's hooks know (``weight_g`` of the former weight norm, BatchNorm without a counter), split or
joined tensors, and a module's own ``_load_from_state_dict`` are all supported. Tensors are assigned rather than copied,
so their types remain visible and a large file stays mapped.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mgraph.errors import InputError, LayoutMismatchError
from mgraph.network.checkpoints.choosing import View, choose, closest, covers, views_of
from mgraph.network.checkpoints.files import Content
from mgraph.network.checkpoints.inert import Foreign
from mgraph.network.checkpoints.names import TensorNames, metadata_for
from mgraph.network.checkpoints.search import EXTRA_STATE, averages, candidates, joined
from mgraph.network.checkpoints.values import FittedCheckpoint, count, fit_to_layout, require_plain, same_bits
from mgraph.network.layout import dtype_name, named_tensors
from mgraph_store.rows.layout import Layout, TensorSpec

_CONSTANTS = ("inv_freq", "masked_bias", "rel_pos_index", "attn_mask", "position_ids")
"""Last parts of the names of constant float buffers that some versions of libraries save and others do not."""

_BOOKKEEPING = ("n_averaged", "decay", "num_updates", "initted", "step")  # of code that averages weights

Build = Callable[[int], nn.Module]
"""Make the network with initial values drawn from a seed."""


@dataclass(frozen=True)
class Options:
    """What the user specifies about a checkpoint: see :meth:`mgraph.Graph.add_mode`."""

    cast: bool = False
    weights: str | None = None
    ignore: tuple[str, ...] = ()
    recompute: bool = False  # whether BatchNorm statistics will be recomputed and may be absent


def fit_content(content: Content, build: Build, layout: Layout, options: Options, where: str) -> FittedCheckpoint:
    """Find the network's weights in the content of a file called ``where`` and fit them.

    Raises InputError if the file holds several sets of weights that fit, or none; LayoutMismatchError naming the first
    tensor that is missing, extra, or of the wrong shape or type; NonFiniteError for NaN and infinity.
    """
    module = build(0)
    names = network_names(module, layout)

    def takes(view: View) -> bool:
        try:
            return not _missing_parameters(_load(build(0), names, view).missing_keys, layout)
        except InputError:
            return False

    views: list[View] = []
    for found in (candidates(content.value), joined(content.value)):
        views += views_of(found, names, options.ignore)
        chosen = choose(views, layout, options.weights, where, takes) if views else None
        if chosen is not None:
            break
    if not views:
        raise InputError(_no_tensors(content, where))
    view = chosen or closest(views, layout)[0]
    fitted = fit_view(view, names, module, build, layout, options)
    notes = [*_origin_notes(view, views, layout, averages(content.value)), *fitted.notes]
    if content.skipped:
        notes.append(f"skipped because they are not tensors: {_listed(content.skipped)}")
    source = fitted.source | {"skipped": list(content.skipped)[:20]}
    return FittedCheckpoint(fitted.parameters, fitted.buffers, notes, source, fitted.module)


def network_names(module: nn.Module, layout: Layout) -> TensorNames:
    """Return the names by which a network's tensors and modules are known."""
    return TensorNames(module, [t.name for t in layout.tensors] + list(layout.aliases))


def fit_view(
    view: View, names: TensorNames, module: nn.Module, build: Build, layout: Layout, options: Options
) -> FittedCheckpoint:
    """Load one set of weights into ``module``, a new network, and arrange the result in the layout's order."""
    _refuse_unreadable(view, layout)
    fresh_extra = extra_state(module)
    state = _with_aliases(view, layout)
    loaded = _load(module, names, view)
    notes: list[str] = []
    whole = not _missing_parameters(loaded.missing_keys, layout)
    ignored = _ignorable(view, loaded.unexpected_keys, module, whole=whole)
    if ignored:
        notes.append(f"ignored because the network has none: {_listed(ignored)}")
    if view.reading.outside:
        notes.append(f"left out, beside {view.reading.prefix or 'these'}: {_listed(view.reading.outside)}")
    tensors = dict(named_tensors(module))
    _in_the_files_types(tensors, state)
    absent = _absent(loaded.missing_keys, layout, state, options, build, tensors)
    notes += absent.notes
    made = _made_by_hooks(state, loaded.missing_keys, layout, tensors)
    _require_of_the_file(made, names, view, build, tensors)
    if made:
        notes.append(f"brought to the network's present form by its load_state_dict: {_listed(made)}")
    fitted = fit_to_layout(tensors, layout, cast=options.cast)
    now = extra_state(module)
    differing = [name for name in now if not _alike(now[name], fresh_extra.get(name))]
    source: dict[str, Any] = {
        "key": view.key,
        "averaged": view.averaged,
        "prefix": view.reading.prefix,
        "added": view.reading.added,
        "wrappers": list(view.reading.wrappers),
        "ignored": [*ignored, *view.reading.outside][:50],
        "absent": absent.names[:50],
    }
    return FittedCheckpoint(
        fitted.parameters, fitted.buffers, notes + fitted.notes, source, module if differing else None
    )


def extra_state(module: nn.Module) -> dict[str, Any]:
    """Return what a network's modules keep besides tensors (``get_extra_state``), by its name in a state dict."""
    return {name: value for name, value in module.state_dict().items() if name.split(".")[-1] == EXTRA_STATE}


# Loading


def _load(module: nn.Module, names: TensorNames, view: View) -> Any:
    state: OrderedDict[str, Any] = OrderedDict(
        (name, value.detach() if isinstance(value, Tensor) else value)
        for name, value in view.state.items()
        if not isinstance(value, Foreign)
    )
    metadata = metadata_for(names, view.reading, view.candidate.metadata)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    try:
        return _assigned(module, state)
    except Exception as error:  # its hooks and setters may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]) if lines else ""
        raise LayoutMismatchError(
            f"The network's load_state_dict refused the checkpoint: {(why or type(error).__name__).rstrip('.')}."
        ) from None


def _assigned(module: nn.Module, state: Mapping[str, Any]) -> Any:
    """Call ``load_state_dict``; a network's own version without ``assign`` decides alone, strictly."""
    known = inspect.signature(module.load_state_dict).parameters
    if "assign" in known or any(p.kind is p.VAR_KEYWORD for p in known.values()):
        result = module.load_state_dict(state, strict=False, assign=True)
    else:
        result = module.load_state_dict(state)
    return result if hasattr(result, "missing_keys") else SimpleNamespace(missing_keys=[], unexpected_keys=[])


def _in_the_files_types(tensors: dict[str, Tensor], state: Mapping[str, Any]) -> None:
    """Use the file's tensors where copying rounded their values; whether that is allowed is decided later."""
    for name, tensor in tensors.items():
        given = state.get(name)
        if not isinstance(given, Tensor) or given.dtype == tensor.dtype or given.shape != tensor.shape:
            continue
        if torch.equal(given.to(tensor.dtype), tensor):
            tensors[name] = given


def _missing_parameters(missing: Sequence[str], layout: Layout) -> list[str]:
    stored = {t.name for t in layout.parameters}
    given = set(missing)
    tied: dict[str, list[str]] = {}
    for alias, name in layout.aliases.items():
        tied.setdefault(name, []).append(alias)
    return [n for n in missing if n in stored and all(alias in given for alias in tied.get(n, ()))]


def _with_aliases(view: View, layout: Layout) -> dict[str, Any]:
    """Give tied tensors, under all their names, the values that the file has under one of them."""
    state = view.state
    for alias, name in layout.aliases.items():
        if alias in state:
            state.setdefault(name, state[alias])
    for alias, name in layout.aliases.items():
        if name in state:
            state.setdefault(alias, state[name])
    return state


def _refuse_unreadable(view: View, layout: Layout) -> None:
    """Refuse, by name, what cannot be loaded: names that hide each other, non-plain tensors, shapes, types."""
    if view.twice:
        raise LayoutMismatchError(
            f"The checkpoint has {view.twice[0]} twice, with a wrapper's prefix and without; --ignore one of them."
        )
    specs = {t.name: t for t in layout.tensors}
    wrong: list[tuple[TensorSpec, Tensor]] = []
    for name, value in view.state.items():
        spec = specs.get(layout.aliases.get(name, name))
        if isinstance(value, Foreign):
            if spec is not None:
                raise LayoutMismatchError(
                    f"{name} is a {value.name} in the checkpoint, not a plain tensor; gather and save plain tensors."
                )
        elif isinstance(value, Tensor):
            require_plain(name, value)
            if spec is not None and tuple(value.shape) != spec.shape and not (not spec.shape and value.shape == (1,)):
                wrong.append((spec, value))
    if wrong:
        t, value = wrong[0]
        more = f" ({len(wrong)} tensors differ in shape)" if len(wrong) > 1 else ""
        if all(not v.numel() for _, v in wrong):
            more += ": the file holds one part of sharded weights; join them first (DeepSpeed: zero_to_fp32.py)"
        raise LayoutMismatchError(
            f"{t.name} has shape {list(value.shape)} in the checkpoint, expected {list(t.shape)}{more}."
        )
    for name, value in view.state.items():
        spec = specs.get(layout.aliases.get(name, name))
        if spec is not None and isinstance(value, Tensor):
            expected = getattr(torch, spec.dtype)
            if expected.is_floating_point and not value.is_floating_point():
                raise LayoutMismatchError(
                    f"{name} is {dtype_name(value.dtype)} in the checkpoint, expected {spec.dtype}."
                )


# What only one side has


def _ignorable(view: View, unexpected: Sequence[str], module: nn.Module, *, whole: bool) -> list[str]:
    """Return the entries that the network lacks and can do without; raise LayoutMismatchError if there are others."""
    own = dict(module.named_buffers())  # including non-persistent ones
    ignored, extra = [], []
    for name in unexpected:
        value = view.state.get(name)
        if isinstance(value, Tensor) and name in own:
            if not _nearly_same(value, own[name]):
                raise LayoutMismatchError(
                    f"{name} is a constant of the network and differs in the checkpoint; is it of this network? If the "
                    f"network's own value will do, leave it out with --ignore {name}."
                )
            ignored.append(name)
        elif not isinstance(value, Tensor) or _looks_constant(name, value) or (view.averaged and name in _BOOKKEEPING):
            ignored.append(name)
        else:
            extra.append(name)
    if extra:
        if any("flat_param" in name for name in extra):
            raise LayoutMismatchError(
                f"The checkpoint has {extra[0]}, weights flattened and sharded by FSDP; save a full state dict "
                f"(torch's get_model_state_dict with full_state_dict=True)."
            )
        todo = " If they are not needed, leave them out with --ignore PATTERN." if whole else ""
        raise LayoutMismatchError(
            f"The checkpoint has {count(extra)} that the network does not have, first {extra[0]}; "
            f"is it of this network?{todo}"
        )
    return ignored + [n for n, v in view.state.items() if isinstance(v, Foreign)]


def _looks_constant(name: str, value: Tensor) -> bool:
    """Return whether a tensor looks like indices, a mask or a counter rather than weights."""
    whole = not value.is_floating_point() and not value.is_complex()
    return whole or name.split(".")[-1] in _CONSTANTS


def _nearly_same(value: Tensor, own: Tensor) -> bool:
    if value.shape != own.shape or value.is_complex() or own.is_complex():
        return False
    narrow = value.is_floating_point() and value.dtype.itemsize < 4
    return torch.allclose(value.double(), own.double(), rtol=1e-2 if narrow else 1e-5, atol=1e-6)


@dataclass(frozen=True)
class _Absent:
    names: list[str]
    notes: list[str]


def _absent(
    missing: Sequence[str],
    layout: Layout,
    state: Mapping[str, Any],
    options: Options,
    build: Build,
    tensors: dict[str, Tensor],
) -> _Absent:
    """Fill in what the file lacks if that is no guess: counters, constants, statistics that will be recomputed."""
    specs = {t.name: t for t in layout.tensors}
    statistics = {t.name for t in layout.buffers if t.role == "statistic"}
    counters = [t.name for t in layout.buffers if t.role == "statistic" and not t.shape and t.name not in state]
    gone = [n for n in missing if n not in layout.aliases and n in specs and n not in counters]
    stale = [n for n in gone if n in statistics]
    constants = [n for n in gone if specs[n].role in ("buffer", "frozen")]  # an adapter comes without its base
    if constants:
        other = dict(named_tensors(build(1)))
        varying = [n for n in constants if not same_bits(tensors[n], other[n])]
        constants = [n for n in constants if n not in varying]
    lacking = [n for n in gone if n not in stale and n not in constants]
    if lacking:
        raise LayoutMismatchError(
            f"The checkpoint lacks {count(lacking)} of the network, first {lacking[0]}; is it of this network?"
        )
    if stale and not options.recompute:
        raise LayoutMismatchError(
            f"The checkpoint lacks {count(stale)} of running statistics, first {stale[0]}; compute them from "
            f"the training data with --recompute-batchnorm."
        )
    for name in counters:
        tensors[name] = torch.tensor(0)
    notes = []
    if counters:
        notes.append(f"{count(counters)} absent and set to 0, first {counters[0]}")
    if constants:
        notes.append(f"absent, the network's own constants kept: {_listed(constants)}")
    extra = [n for n in missing if n.split(".")[-1] == EXTRA_STATE]
    if extra:
        notes.append(f"absent, the network's own kept: {_listed(extra)}")
    return _Absent([*counters, *constants, *stale, *extra], notes)


def _made_by_hooks(
    state: Mapping[str, Any], missing: Sequence[str], layout: Layout, tensors: Mapping[str, Tensor]
) -> list[str]:
    """Return the network's tensors that the file lacks but ``load_state_dict`` did not report as missing."""
    counters = {t.name for t in layout.buffers if t.role == "statistic" and not t.shape}
    given = {*state, *missing, *counters}
    return [t.name for t in layout.tensors if t.name not in given and t.name in tensors]


def _require_of_the_file(
    made: Sequence[str], names: TensorNames, view: View, build: Build, tensors: Mapping[str, Tensor]
) -> None:
    """Refuse values that hooks took from the network's random initialisation instead of from the file."""
    files = {v.untyped_storage().data_ptr() for v in view.state.values() if isinstance(v, Tensor)}
    doubtful = [n for n in made if tensors[n].untyped_storage().data_ptr() not in files]
    if doubtful:
        other = build(1)
        _load(other, names, view)
        theirs = dict(named_tensors(other))
        random = [n for n in doubtful if not same_bits(tensors[n], theirs[n])]
        if random:
            raise LayoutMismatchError(
                f"The checkpoint lacks {count(random)} of the network, first {random[0]}, and load_state_dict of the "
                f"network fills in random values; is it of this network?"
            )


# Words


def _origin_notes(view: View, views: Sequence[View], layout: Layout, averages: Sequence[str]) -> list[str]:
    notes = []
    others = [v for v in views if v.candidate.key != view.candidate.key and covers(v, layout)]
    if view.candidate.key or view.averaged:
        kind = " (averaged weights)" if view.averaged else ""
        notes.append(f"taken from {view.candidate.label or 'the file itself'}{kind}")
    left = list(dict.fromkeys(v.candidate.label or "the file itself" for v in others))
    key = view.candidate.label
    left += [a for a in averages if a not in left and not any(f"{x}.".startswith(f"{a}.") for x in (key, *left))]
    if left:
        notes.append(f"not taken: {_listed(left)}")
    return notes + view.reading.notes


def _no_tensors(content: Content, where: str) -> str:
    value = content.value
    what = "nothing but an empty dict" if value == {} else f"a {type(value).__name__} without a dict of tensors"
    if isinstance(value, Tensor):
        what = "a single tensor"
    if isinstance(value, Foreign):
        what = f"a pickled {value.name}"
    held = f"; it was made of {_listed(content.skipped)}, which is never run" if content.skipped else ""
    return f"{where} holds {what}, not a state dict{held}; save model.state_dict()."


def _alike(a: Any, b: Any) -> bool:
    """Return whether two extra states are equal, whatever their type; what cannot be compared counts as different."""
    try:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
        if hasattr(a, "getvalue") and hasattr(b, "getvalue"):  # BytesIO
            return bool(a.getvalue() == b.getvalue())
        return bool(a == b)
    except Exception:
        return False


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
