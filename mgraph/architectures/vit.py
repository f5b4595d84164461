"""Vision transformers for small images."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of, share
from mgraph.architectures.transformer import Encoder, initialise, learnt, require_heads
from mgraph.errors import InputError


def vit(
    *,
    input_shape: tuple[int, ...],
    patch: Annotated[int, "side of a patch in pixels"] = 4,
    dim: Annotated[int, "width of the tokens"] = 192,
    depth: Annotated[int, "number of blocks"] = 12,
    heads: Annotated[int, "heads of each attention"] = 3,
    mlp: Annotated[int, "hidden units of a block's perceptron, as a multiple of dim"] = 4,
    dropout: Annotated[float, "share dropped after every layer of a block and of the embedding"] = 0.0,
    classes: Classes,
) -> nn.Module:
    """Vision transformer with the width, depth and heads of ViT-Ti, and patches that suit small images.

    Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, §3.1, eq. 1 to 4: patches and a class token with learnt
    positions, an encoder of pre-normalised blocks, and a linear layer on the class token. ViT-B/16 (table 1) is
    ``dim=768&heads=12&patch=16``: 86 million parameters on (3, 224, 224) with 1000 classes. ViT-Ti is from Touvron et
    al. 2021, Training data-efficient image transformers, table 1: width 192, 12 layers, 3 heads.
    """
    channels, height, width = image_of("vit", input_shape)
    require_heads("vit", depth, dim, heads, mlp)
    share("vit", "dropout", dropout)
    if patch < 1 or height % patch or width % patch:
        raise InputError(f"Patches of {patch}×{patch} do not fill images of {height}×{width}; give vit another patch.")
    tokens = (height // patch) * (width // patch)
    network = _Vit(nn.Conv2d(channels, dim, patch, patch), tokens, Encoder(depth, dim, heads, mlp, dropout=dropout))
    network.dropout.p = dropout
    network.head = nn.Linear(dim, classes)
    initialise(network)
    return network


class _Vit(nn.Module):
    head: nn.Linear

    def __init__(self, patches: nn.Conv2d, tokens: int, encoder: Encoder) -> None:
        super().__init__()
        dim = patches.out_channels
        self.patches, self.class_token, self.positions = patches, learnt(1, 1, dim), learnt(1, tokens + 1, dim)
        self.dropout, self.encoder = nn.Dropout(), encoder

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.encoder(self.dropout(tokens + self.positions))
        return cast(Tensor, self.head(tokens[:, 0]))
