"""Convert tensors to the arrays of a saved state and back; what NumPy cannot hold is stored as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgraph.train.state import Arrays


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's values on the CPU; they may share its memory."""
    return np.asarray(tensor.detach().cpu().numpy())


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return a copy of an array as a tensor on the CPU."""
    return torch.from_numpy(np.array(array))


def named(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with ``prefix``, with the prefix removed."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def with_prefix(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays with ``prefix`` prepended to their names."""
    return {prefix + name: array for name, array in arrays.items()}


def random_state(device: torch.device) -> dict[str, NDArray[Any]]:
    """Return the state of torch's generators: the CPU's, and the GPU's if there is one."""
    found = {"cpu": to_array(torch.get_rng_state())}
    return found | ({"cuda": to_array(torch.cuda.get_rng_state(device))} if device.type == "cuda" else {})


def load_random_state(arrays: Arrays, device: torch.device) -> None:
    """Restore torch's generators to such a state."""
    torch.set_rng_state(to_tensor(arrays["cpu"]))
    if device.type == "cuda" and "cuda" in arrays:
        torch.cuda.set_rng_state(to_tensor(arrays["cuda"]), device)


def buffer_bytes(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Copy a network's buffers, flattened and as bytes, since NumPy lacks some of torch's types."""
    return {
        name: to_array(buffer.detach().reshape(-1).contiguous().view(torch.uint8).clone())
        for name, buffer in module.named_buffers()
    }


def load_buffer_bytes(module: nn.Module, copies: Mapping[str, NDArray[Any]]) -> None:
    """Restore a network's buffers from such copies."""
    for name, buffer in module.named_buffers():
        buffer.copy_(to_tensor(copies[name]).to(buffer.device).view(buffer.dtype).view(buffer.shape))
