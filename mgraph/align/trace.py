"""Follow the axes of a network's tensors through its graph, as written by torch.export."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from mgraph.align import forms, layers  # noqa: F401  (their rules)
from mgraph.align.axes import Atom, Axes, Axis
from mgraph.align.blocks import blocks_of, settle
from mgraph.align.rules import Call, UntraceableError, Value, apply
from mgraph.align.symmetry import Group, Part, Slot, Symmetry
from mgraph.calling import Choice, chosen
from mgraph.fields import Fields
from mgraph.network.layout import named_tensors

_KEPT = ("scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu", "adaptive_avg_pool")
"""How operations begin that are easier to follow than their parts."""


def trace(module: nn.Module, inputs: Fields, *, outputs: Choice = None, pinned: Collection[str] = ()) -> Symmetry:
    """Find the permutations of a network's units that do not change what it computes from a batch.

    ``outputs`` selects the part of its result that counts; tensors named in ``pinned`` keep their order. The network is
    traced in evaluation mode. A tied tensor has its first name. Raises UntraceableError, naming the operation, for a
    network that cannot be exported or has an operation without a rule.
    """
    walk = _Walk(module, pinned)
    program = _exported(_Counted(module, outputs), inputs)
    for node in program.graph.nodes:
        walk.visit(node, program)
    return walk.symmetry()


class _Counted(nn.Module):
    """A network that returns only the part that counts."""

    def __init__(self, network: nn.Module, outputs: Choice) -> None:
        super().__init__()
        self.network, self.outputs = network, outputs

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return chosen(self.network(*args, **kwargs), self.outputs)


def _exported(module: nn.Module, inputs: Fields) -> torch.export.ExportedProgram:
    args: tuple[Any, ...] = (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, dict) else (*inputs,)
    kwargs = dict(inputs) if isinstance(inputs, dict) else {}
    try:
        # Without gradients, transformer layers take a fused path.
        with warnings.catch_warnings(action="ignore"), torch.enable_grad():
            program = torch.export.export(module.eval(), args, kwargs, strict=False)
            table = torch.export.default_decompositions()
            for operation in list(table):
                if _name(operation).startswith(_KEPT):
                    del table[operation]
            decomposed: torch.export.ExportedProgram = program.run_decompositions(table)
    except Exception as error:  # the user's code, or torch, may raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        why = lines[0].strip().rstrip(".") if lines else type(error).__name__
        raise UntraceableError(f"torch.export cannot follow it ({type(error).__name__}: {why})") from None
    return decomposed


def _name(operation: Any) -> str:
    packet = getattr(operation, "overloadpacket", operation)
    qualified: str = getattr(packet, "_qualified_op_name", getattr(operation, "__name__", str(operation)))
    namespace, _, name = qualified.rpartition("::")
    return name if namespace in ("", "aten") else qualified


class _Walk:
    """The axes of every tensor encountered so far."""

    def __init__(self, module: nn.Module, pinned: Collection[str]) -> None:
        self._axes = Axes()
        self._values: dict[str, Any] = {}
        self._names = dict(named_tensors(module))
        self._first: dict[int, str] = {}
        for name, tensor in self._names.items():
            self._first.setdefault(id(tensor), name)
        self._pinned = pinned
        self.tensors: dict[str, Value] = {}

    def visit(self, node: torch.fx.Node, program: torch.export.ExportedProgram) -> None:
        """Determine the axes of a node's value."""
        if node.op == "placeholder":
            self._values[node.name] = self._given(node, program)
        elif node.op == "call_function":
            self._values[node.name] = self._called(node)
        elif node.op == "output":
            values = [v for v in tree_leaves(self._of(node.args[0])) if isinstance(v, Value)]
            for value in values:
                self._axes.pin(*value.axes)
        else:
            raise UntraceableError(f"its graph has a node {node.op} ({node.target}), which cannot be followed")

    def _given(self, node: torch.fx.Node, program: torch.export.ExportedProgram) -> Any:
        signature = program.graph_signature
        source = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
        if not isinstance(node.meta.get("val"), Tensor):
            return node.meta.get("val")
        shape = tuple(node.meta["val"].shape)
        name = None if source is None else source.removeprefix("network.")
        if name not in self._names:
            return Value(tuple(self._axes.fresh(n, fixed=True) for n in shape))
        name = self._first[id(self._names[name])]
        if name not in self.tensors:
            fixed = name in self._pinned
            self.tensors[name] = Value(tuple(self._axes.fresh(n, fixed=fixed) for n in shape))
        return self.tensors[name]

    def _of(self, argument: Any) -> Any:
        return torch.fx.map_arg(argument, lambda node: self._values[node.name])

    def _called(self, node: torch.fx.Node) -> Any:
        if getattr(node.target, "__name__", "") == "getitem":
            return self._of(node.args[0])[node.args[1]]
        name = _name(node.target)
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UntraceableError(f"the operation {name} holds graphs of its own, which cannot be followed")
        arguments = node.target._schema.arguments
        given = dict(zip((a.name for a in arguments), node.args, strict=False)) | dict(node.kwargs)
        results = node.meta.get("val")
        if results is None:
            return None
        many = isinstance(results, list | tuple)
        shapes = [tuple(r.shape) for r in (results if many else [results]) if isinstance(r, Tensor)]
        call = Call(name, {key: self._of(value) for key, value in given.items()}, shapes, self._axes)
        if not shapes:
            return results
        try:
            found = list(apply(call, pointwise=torch.Tag.pointwise in node.target.tags))
        except UntraceableError as error:
            raise UntraceableError(f"{error}{_where(node)}") from None
        for value, shape in zip(found, shapes, strict=True):
            if tuple(map(self._axes.size, value.axes)) != shape:
                raise UntraceableError(
                    f"the operation {name} gives {list(shape)}, which cannot be followed{_where(node)}"
                )
        if not many:
            return found[0]
        left = iter(found)
        return [next(left) if isinstance(r, Tensor) else r for r in results]

    def symmetry(self) -> Symmetry:
        """Return the result."""
        axes = self._axes
        leaves = tree_leaves(list(self._values.values()), is_leaf=lambda v: isinstance(v, Value))
        seen: list[tuple[Axis, ...]] = [v.axes for v in leaves if isinstance(v, Value)]
        settle(axes, [*seen, *(v.axes for v in self.tensors.values())])
        numbers: dict[Atom, int] = {}
        places: list[str] = []
        parts: dict[str, tuple[Part, ...]] = {}
        for name, value in self.tensors.items():
            found = []
            for block in blocks_of(axes, value.axes):
                slots = []
                for axis, atom, stride in sorted(block.slots, key=lambda slot: (slot[0], -slot[2])):
                    atom = axes.find(atom)
                    if atom not in numbers:
                        numbers[atom] = len(numbers)
                        places.append(f"{name} axis {axis}")
                    slots.append(Slot(axis, numbers[atom], stride))
                by_number = list(numbers)
                sizes = tuple(by_number[slot.group].size for slot in slots)
                found.append(Part(block.offsets, tuple(slots), sizes))
            parts[name] = tuple(found)
        parents = _parents(axes, numbers)
        groups = [
            Group(atom.size, places[n], None if atom.fixed else parents.get(n), atom.fixed)
            for atom, n in numbers.items()
        ]
        return Symmetry(tuple(groups), parts)


def _parents(axes: Axes, numbers: Mapping[Atom, int]) -> dict[int, int]:
    """Choose, for each atom, at most one (the nearest) of those on which its permutation may depend; at most two deep.

    A permutation that depends on fewer is still valid.
    """
    found: dict[int, int] = {}
    inner_first = sorted(numbers, key=lambda atom: -len(axes.parents(atom)))
    for atom in inner_first:
        above = [numbers[p] for p in axes.parents(atom) if p in numbers]
        above = [p for p in above if p not in found]
        if above and not atom.fixed and numbers[atom] not in found.values():
            found[numbers[atom]] = above[0]
    return found


def _where(node: torch.fx.Node) -> str:
    """Return in which module of the network an operation is."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0].removeprefix("network").removeprefix(".") if stack else ""
    return f" (in {path})" if path else ""
