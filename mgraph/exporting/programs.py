"""What becomes a program: one network or several, with what comes before and after them, as one module.

A program takes the tensors of a batch in their order, also where the network takes a dict, and returns one tensor with
a row for each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from mgraph.calling import Choice, call, chosen
from mgraph.data.splits import Split
from mgraph.data.task import Combine, Task
from mgraph.errors import InputError
from mgraph.fields import Fields, named_tensors, of_form, over, part_of
from mgraph.network.layout import dtype_name

MEMBERS = "members"
"""The attribute of a program that holds its networks: their tensors' names begin with ``members.0.``, …"""

VOTES: Mapping[Combine, Callable[[Tensor], Tensor]] = {
    "softmax": lambda out: out.softmax(dim=1),
    "sigmoid": torch.sigmoid,
    "mean": lambda out: out,
}
"""What a member of an ensemble says, from its outputs."""

_SAID: Mapping[Combine | None, tuple[str, str]] = {
    "softmax": ("logits of classes", "class probabilities"),
    "sigmoid": ("logits of labels", "probabilities of labels"),
    "mean": ("outputs", "outputs"),
    None: ("outputs", "outputs"),
}


@dataclass(frozen=True)
class Taken:
    """A tensor that a program takes: its name, type and shape (N: examples), and what its values are."""

    name: str
    dtype: str
    shape: tuple[Any, ...]
    values: str

    @override
    def __str__(self) -> str:
        named = f"{self.name}: " if self.name else ""
        shape = ", ".join(str(extent) for extent in self.shape)
        return f"{named}{self.dtype} ({shape}), {self.values}"


@dataclass(frozen=True)
class Signature:
    """What a program takes, in order, and what it gives."""

    takes: tuple[Taken, ...]
    gives: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"takes": [asdict(one) for one in self.takes], "gives": self.gives}


class Program(nn.Module):
    """Networks of one space as one module: the outputs of the only one, or the mean of what several say.

    ``outputs`` is what counts of their outputs, ``vote`` how members say something (None: they give their outputs).
    ``form`` is a batch as the networks take it. With ``first``, one module for each tensor of a batch, these come
    before the networks. ``copies``: the networks change their inputs in place.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        form: Fields,
        outputs: Choice,
        *,
        vote: Combine | None = None,
        first: Sequence[nn.Module] = (),
        copies: bool = False,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.first = nn.ModuleList(first)
        self._form = over(lambda t: t[:0], form)
        self._outputs, self._vote, self._copies = outputs, vote, copies
        self.eval().requires_grad_(False)

    @override
    def forward(self, *inputs: Tensor) -> Any:
        """Return what the networks say on a batch."""
        if len(self.first):
            inputs = tuple(module(x) for module, x in zip(self.first, inputs, strict=True))
        first, *others = self.members
        total = self._said(first, inputs)
        for member in others:
            total = total + self._said(member, inputs)
        return total / len(self.members) if others else total

    def _said(self, member: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        own = tuple(x.clone() for x in inputs) if self._copies else inputs
        out = call(member, of_form(self._form, own))
        out = out if self._outputs is None else chosen(out, self._outputs)
        return out if self._vote is None else VOTES[self._vote](out)


class Normalising(nn.Module):
    """Makes normalised floats of a tensor as the data hold it, (N, C, …), uint8 or float: x · factor + shift."""

    factor: Tensor
    shift: Tensor

    def __init__(self, example: Tensor, task: Task) -> None:
        super().__init__()
        scale = 1 / 255 if example.dtype == torch.uint8 else 1.0
        mean = torch.tensor(task.mean or (0.0,), dtype=torch.float64)
        std = torch.tensor(task.std or (1.0,), dtype=torch.float64)
        shape = (1, -1, *[1] * (example.ndim - 2))
        self.register_buffer("factor", (scale / std).view(shape).float())
        self.register_buffer("shift", (-mean / std).view(shape).float())

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch."""
        return x.to(torch.float32) * self.factor + self.shift


def normalising(raw: Fields, task: Task) -> list[nn.Module]:
    """Return for each tensor of a batch as the data hold it what makes of it what the network sees."""
    plain = task.mean is None and task.std is None
    return [
        Normalising(x, task) if x.dtype == torch.uint8 or (x.is_floating_point() and not plain) else nn.Identity()
        for _, x in named_tensors(raw)
    ]


def raw_examples(split: Split, count: int) -> Fields:
    """Return the first examples of a split as the data hold them, before normalisation."""
    if hasattr(split, "inputs"):
        return part_of(split.inputs, slice(0, count))
    x: Fields = split.raw(range(min(count, len(split))))[0]  # type: ignore[attr-defined]  # streamed splits have it
    return x


def signature(task: Task, x: Fields, *, normalise: bool, votes: bool) -> Signature:
    """Describe a program's inputs, a batch of which is ``x``, and its outputs: ``votes``, or those of a network."""
    single = isinstance(x, Tensor)
    takes = tuple(
        Taken(
            name or "input",
            dtype_name(tensor.dtype),
            ("N", *tensor.shape[1:]),
            _values(task, tensor, normalise=normalise, single=single),
        )
        for name, tensor in named_tensors(x)
    )
    return Signature(takes, _SAID[task.combine][votes])


def require_tensor(out: Any, examples: int) -> Tensor:
    """Return a program's output; InputError unless it is one tensor with a row for each example."""
    if not isinstance(out, Tensor):
        names = ", ".join(map(str, out)) if isinstance(out, Mapping) else f"a {type(out).__name__}"
        raise InputError(
            f"A program returns one tensor, and this network returns {names}: say outputs= in the task, which of it "
            "counts, or export the weights (.safetensors, .pt)."
        )
    if out.ndim == 0 or len(out) != examples:
        raise InputError(
            f"A program returns a row for each example, and this network made shape {list(out.shape)} of {examples}; "
            "export the weights (.safetensors, .pt)."
        )
    return out


def _values(task: Task, x: Tensor, *, normalise: bool, single: bool) -> str:
    if x.dtype == torch.uint8:
        return "0 to 255, as the data have them: the program scales and normalises"
    if not x.is_floating_point():
        return "as the data have them"
    if normalise:
        low, high = x.min().item(), x.max().item()
        return f"as the data have them ({low:.3g} to {high:.3g} in the first examples): the program normalises"
    scaled = single and _scaled(task)
    if task.mean is None and task.std is None and not scaled:
        return "as the data have them, which are not normalised"
    what = "x / 255" if scaled else "x"
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (task.mean or (0.0,), task.std or (1.0,)))
    return f"normalised: ({what} - [{mean}]) / [{std}], by channel"


def _scaled(task: Task) -> bool:
    raw = raw_examples(task.test, 1)
    return isinstance(raw, Tensor) and raw.dtype == torch.uint8
