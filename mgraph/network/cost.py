"""How much work a network is, roughly: enough to choose a number of threads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def multiply_adds(module: nn.Module, x: Tensor) -> float:
    """Estimate the multiply-adds of one forward pass from each layer's parameters and output shape.

    A layer applies its weight, shape (out, …), once per ``out`` numbers of its output: exact for linear layers and
    convolutions, the right order of magnitude for the rest. The module is left in eval mode.
    """
    total = 0.0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        while isinstance(output, tuple | list):
            output = output[0]
        for weight in layer.parameters(recurse=False):
            if weight.ndim >= 2 and isinstance(output, Tensor):
                total += weight.numel() * output.numel() / weight.shape[0]

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return total
