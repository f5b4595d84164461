"""The encoder of vision transformers, shared by ViT and CCT.

Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, §3.1, eq. 2 and 3: LayerNorm before attention and before a
perceptron with one hidden layer and GELU, each added to its input.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from mgraph.architectures.inputs import positive
from mgraph.errors import InputError

EPSILON = 1e-6  # LayerNorm's ε


def require_heads(name: str, depth: int, dim: int, heads: int, mlp: int) -> None:
    """Raise InputError unless the heads divide the width and all numbers are positive."""
    for key, value in (("depth", depth), ("dim", dim), ("heads", heads), ("mlp", mlp)):
        positive(key, [value])
    if dim % heads:
        raise InputError(f"The {heads} heads of {name} must divide its dim={dim}; give another number of one of them.")


class Encoder(nn.Sequential):
    """``depth`` blocks and a final LayerNorm, on tokens (N, T, dim)."""

    def __init__(self, depth: int, dim: int, heads: int, mlp: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        blocks = [Block(dim, heads, mlp, bias=bias, dropout=dropout) for _ in range(depth)]
        super().__init__(*blocks, nn.LayerNorm(dim, eps=EPSILON))


class Block(nn.Module):
    """Attention, then a perceptron with ``mlp`` times as many hidden units."""

    def __init__(self, dim: int, heads: int, mlp: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.norm_one, self.attention = nn.LayerNorm(dim, eps=EPSILON), Attention(dim, heads, bias=bias)
        self.norm_two = nn.LayerNorm(dim, eps=EPSILON)
        self.one, self.two = nn.Linear(dim, mlp * dim), nn.Linear(mlp * dim, dim)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, dim) to the same shape."""
        x = x + self.dropout(self.attention(self.norm_one(x)))
        hidden = self.dropout(F.gelu(self.one(self.norm_two(x))))
        return x + cast(Tensor, self.dropout(self.two(hidden)))


class Attention(nn.Module):
    """Multi-head attention of every token to every other; ``bias`` is that of queries, keys and values."""

    def __init__(self, dim: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=bias), nn.Linear(dim, dim)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, dim) to the same shape."""
        divided = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = divided.unbind()
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))


def initialise(network: nn.Module) -> None:
    """Draw weights in place from a normal distribution of deviation 0.02, truncated at two deviations; biases are 0."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def learnt(*shape: int) -> nn.Parameter:
    """Return a parameter of that shape, to be drawn by :func:`initialise`."""
    return nn.Parameter(torch.zeros(shape))
