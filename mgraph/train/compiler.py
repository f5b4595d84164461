"""torch.compile, without what it says about itself: whether CUDA is there, and how it compiles, is not our user's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import torch

_TALKATIVE = ("torch._dynamo", "torch._functorch", "torch._inductor", "torch.utils.cpp_extension")


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function or a network when it is first called; ``options`` are those of torch.compile.

    Warnings in the compiler's log stay off from now on, unless the user has asked for it by ``$TORCH_LOGS`` or by a
    level of their own. Errors are raised as ever.
    """
    if "TORCH_LOGS" not in os.environ:
        for name in _TALKATIVE:
            if logging.getLogger(name).getEffectiveLevel() == logging.WARNING:  # as torch leaves it
                logging.getLogger(name).setLevel(logging.ERROR)
    return torch.compile(function, **options)
