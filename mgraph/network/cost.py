"""How much computation a network takes: used to choose threads and sampling, identically on every machine."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from mgraph.calling import call
from mgraph.fields import Fields


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas for every operation, as ``FlopCounterMode`` does.

    That class imports torch's compiler, which takes longer than everything else in a short command.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    @classmethod
    @override
    def _should_skip_dynamo(cls) -> bool:
        return False

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def multiply_adds(module: nn.Module, x: Fields) -> float:
    """Return the multiply-adds of one forward pass: matrix products, convolutions, attention, recurrent layers.

    The module is left in eval mode.
    """
    module.eval()
    # Fused attention and recurrent layers have no formula; with gradients and these two settings they are not fused.
    with (
        warnings.catch_warnings(action="ignore"),  # about switching oneDNN off
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False),
        _Counter() as counter,
    ):
        call(module, x)
    return float(counter.total / 2.0)
