"""Data-parallel training: several processes, started by torchrun, train one network or connection together.

Every process takes its share of every batch and all of them add up their gradients, so that each does the same
update. BatchNorm normalises over a process's own share, as in any data-parallel training.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mgraph.fields import Fields, examples_in, over


@dataclass(frozen=True)
class Workers:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1

    def share(self, x: Fields, y: Fields) -> tuple[Fields, Fields, float]:
        """Return this process's part of a batch and which fraction of the batch it is."""
        if self.size == 1:
            return x, y, 1.0
        mine, targets = (over(lambda t: t.tensor_split(self.size)[self.rank], part) for part in (x, y))
        return mine, targets, examples_in(mine) / max(1, examples_in(x))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)


def under_torchrun() -> bool:
    """Tell whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows() -> bool:
    """Tell whether this process is one of several and not the first, which alone reports and stores."""
    return under_torchrun() and int(os.environ["RANK"]) > 0


def present() -> Workers:
    """Return this process's place: alone, unless :func:`joined` is in force."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()


@contextmanager
def joined(device: str) -> Iterator[Workers]:
    """Join the other processes that torchrun started (gloo on the CPU, NCCL on GPUs); alone, do nothing."""
    if not under_torchrun():
        yield Workers()
        return
    # Functions of these modules take the group of the time of their import as a default, and torch's compiler imports
    # them when it pleases: then the group, and its threads, would outlive its end and abort the process at exit.
    for module in ("torch.distributed.nn", "torch.distributed.optim"):
        importlib.import_module(module)
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield present()
        dist.barrier()  # who is done first must not hang up on the others
    finally:
        dist.destroy_process_group()
