"""What a training in phases depends on between two of its steps, as it is saved and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgraph.train.state import State


class Saved:
    """A state of a training that goes on, as tensors."""

    def __init__(self, state: State) -> None:
        self.values, self._arrays = state.values, state.arrays

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays whose names begin so, without the beginning."""
        return {name[len(prefix) :]: array for name, array in self._arrays.items() if name.startswith(prefix)}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return copies of those arrays."""
        return {name: torch.from_numpy(np.array(array)) for name, array in self.arrays(prefix).items()}

    def tensor(self, name: str) -> Tensor:
        """Return a copy of one array."""
        return torch.from_numpy(np.array(self._arrays[name]))


@dataclass(frozen=True)
class Before:
    """What a phase began with, to begin it again: the rows that move in it, and the buffers (as bytes)."""

    rows: Tensor
    buffers: Mapping[str, Tensor]


@dataclass(frozen=True)
class Attempt:
    """Which phase is trained, for which time from 0, at which learning rate, from where."""

    phase: int
    number: int
    lr: float
    before: Before


def buffer_bytes(module: nn.Module) -> dict[str, Tensor]:
    """Copy a network's buffers, flat and as bytes, since NumPy has not all of torch's types."""
    return {
        name: buffer.detach().reshape(-1).contiguous().view(torch.uint8).clone()
        for name, buffer in module.named_buffers()
    }


def load_buffer_bytes(module: nn.Module, copies: Mapping[str, Tensor]) -> None:
    """Give a network such copies back."""
    for name, buffer in module.named_buffers():
        buffer.copy_(copies[name].to(buffer.device).view(buffer.dtype).view(buffer.shape))
