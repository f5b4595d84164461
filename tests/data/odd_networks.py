"""A generator of odd networks: recipe number n names a random stack of parts, of which some are odd.

Used as a factory file (``odd_networks.py:net?recipe=7``), and imported by the fuzz for what each recipe holds.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

WIDTH = 6


class Part(nn.Module):
    """A part whose odd behaviour is chosen by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(WIDTH, WIDTH)
        if kind == "unsaved buffer":
            self.register_buffer("drawn", torch.randn(WIDTH), persistent=False)
        elif kind in ("saved buffer", "unused buffer"):
            self.register_buffer("drawn", torch.randn(WIDTH))
        elif kind == "plain tensor":
            self.drawn = torch.randn(WIDTH)
        elif kind == "plain number":
            self.scale = 1 + random.random()
        elif kind == "plain list":
            self.hidden = [nn.Linear(WIDTH, WIDTH)]
        elif kind == "grown":
            self.late: Any = None
        elif kind == "moving average":
            self.register_buffer("mean", torch.zeros(WIDTH))
        elif kind == "annealed":
            self.heat = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind, y = self.kind, self.inner(x)
        if kind in ("unsaved buffer", "saved buffer", "plain tensor"):
            return y + self.drawn
        if kind == "plain number":
            return y * self.scale
        if kind == "plain list":
            return self.hidden[0](y)
        if kind == "grown":
            if self.late is None:
                self.late = nn.Linear(WIDTH, WIDTH)
            return self.late(y)
        if kind == "dropout for ever":
            return F.dropout(y, 0.3)
        if kind == "noise for ever":
            return y + torch.randn_like(y)
        if kind == "dropout":
            return F.dropout(y, 0.3, training=self.training)
        if kind == "in place":
            return self.inner(x.mul_(0.5))
        if kind == "softmax over the batch":
            return y + y.softmax(0)
        if kind == "moving average":
            if self.training:
                with torch.no_grad():
                    self.mean.lerp_(y.mean(0), 0.1)
            return y - self.mean
        if kind == "annealed":
            if self.training:
                self.heat *= 0.98
            return y / self.heat
        return y


class FrozenNorm(nn.BatchNorm1d):
    """Never in training."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


def _pruned() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    prune.random_unstructured(layer, "weight", 0.4)
    return layer


REFUSED = (
    "unsaved buffer",
    "plain tensor",
    "plain number",
    "plain list",
    "grown",
    "dropout for ever",
    "noise for ever",
    "annealed",
)
OWN_BUFFERS = ("saved buffer", "moving average", "pruned")
FINE = ("plain", "dropout", "in place", "softmax over the batch", "unused buffer")
MODULES = {
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "no running statistics": lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
    "frozen norm": lambda: FrozenNorm(WIDTH),
    "momentum 0": lambda: nn.BatchNorm1d(WIDTH, momentum=0.0),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "older spectral": lambda: nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "pruned": _pruned,
}
KINDS = (*FINE, *MODULES, *OWN_BUFFERS[:2], *REFUSED)


def parts(recipe: int) -> list[str]:
    """Return the kinds of parts in a recipe; half of the recipes have nothing that must be refused."""
    chance = random.Random(recipe)
    known = [kind for kind in KINDS if recipe % 2 or kind not in REFUSED]
    return [chance.choice(known) for _ in range(chance.randint(1, 3))]


def net(recipe: int = 0) -> nn.Module:
    """Build the network of a recipe."""
    made = [MODULES[kind]() if kind in MODULES else Part(kind) for kind in parts(recipe)]
    layers = [layer for part in made for layer in (part, nn.Tanh())]
    return (
        nn.Sequential(nn.Linear(WIDTH, WIDTH), *layers, nn.Linear(WIDTH, 3))
        if recipe % 3
        else nn.Sequential(*layers, nn.Linear(WIDTH, 3))
    )


def data() -> dict[str, Any]:
    """Three classes, few examples; the training split leaves a batch of one."""
    r = np.random.default_rng(0)

    def draw(n: int) -> tuple[Any, Any]:
        x = r.normal(0, 1, (n, WIDTH)).astype(np.float32)
        return x, x[:, :3].argmax(1)

    return {"train": draw(97), "valid": draw(31), "test": draw(31)}
