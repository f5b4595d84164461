"""Data-parallel training: several processes, started by torchrun, train one network or connection together.

Every process takes its share of every batch, and all of them sum their gradients, so that each does the same update.
BatchNorm normalises over a process's own share, as is usual in data-parallel training.
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
    """This process's rank among those that train together."""

    rank: int = 0
    size: int = 1

    def share(self, x: Fields, y: Fields) -> tuple[Fields, Fields, float]:
        """Return this process's part of a batch, and what fraction of the batch that is."""
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
    """Return whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows() -> bool:
    """Return whether this process is one of several and not the first, which alone reports and stores."""
    return under_torchrun() and int(os.environ["RANK"]) > 0


def present() -> Workers:
    """Return this process's place: on its own, unless :func:`joined` is active."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()


@contextmanager
def joined(device: str) -> Iterator[Workers]:
    """Join the other processes that torchrun started (gloo on the CPU, NCCL on GPUs); do nothing if there are none."""
    if not under_torchrun():
        yield Workers()
        return
    # Functions in these modules default to the group that exists when they are imported, and torch's compiler may
    # import them at any time; the group and its threads would then outlive their end, and abort the process at exit.
    for module in ("torch.distributed.nn", "torch.distributed.optim"):
        importlib.import_module(module)
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield present()
        dist.barrier()  # the first to finish must not disconnect the others
    finally:
        dist.destroy_process_group()
