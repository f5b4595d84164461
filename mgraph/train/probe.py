"""Measure how long a network takes by timing a few passes."""

from __future__ import annotations

import time

import torch

from mgraph.data.splits import Split
from mgraph.fields import examples_in
from mgraph.network.flat import FlatModel
from mgraph.train.losses import Loss

_TIMED = 3


def seconds_per_example(flat: FlatModel, loss: Loss, split: Split, batch_size: int) -> float:
    """Return the wall time per example of a forward and backward pass in training: the fastest of three batches.

    The point, its gradient, its buffers and the random state are left as they were.
    """
    x, y = split.examples(torch.arange(min(batch_size, len(split))), device=flat.device)
    buffers = [(buffer, buffer.clone()) for buffer in flat.module.buffers()]
    gpus = [] if flat.device.type == "cpu" else [flat.device]
    was_training = flat.module.training
    quickest = float("inf")
    flat.module.train()
    try:
        with torch.random.fork_rng(devices=gpus), torch.enable_grad():
            for _ in range(_TIMED + 1):  # the first one is a warm-up
                begin = time.perf_counter()
                loss(flat.run(x), y).backward()  # type: ignore[no-untyped-call]
                float(flat.grad[0])  # waits for the device
                quickest = min(quickest, time.perf_counter() - begin)
    finally:
        flat.grad.zero_()
        flat.module.train(was_training)
        for buffer, value in buffers:
            buffer.copy_(value)
    return quickest / examples_in(x)
