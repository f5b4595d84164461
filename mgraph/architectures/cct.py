"""Compact convolutional transformers."""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn
from typing_extensions import override

from mgraph.architectures.builtin import Classes
from mgraph.architectures.cifarresnet import initialise as initialise_convolutions
from mgraph.architectures.inputs import image_of, positive
from mgraph.architectures.transformer import Encoder, initialise, learnt, require_heads
from mgraph.errors import InputError

HIDDEN = 64  # channels between convolutions


def cct(
    *,
    input_shape: tuple[int, ...],
    depth: Annotated[int, "number of blocks"] = 7,
    dim: Annotated[int, "width of the tokens"] = 256,
    heads: Annotated[int, "heads of each attention"] = 4,
    mlp: Annotated[int, "hidden units of a block's perceptron, as a multiple of dim"] = 2,
    kernel: Annotated[int, "side of the convolutions' kernels, odd"] = 3,
    convs: Annotated[int, "convolutions before the encoder; each halves height and width"] = 1,
    classes: Classes,
) -> nn.Module:
    """Compact convolutional transformer; CCT-7/3×1 has 3.76 million parameters on (3, 32, 32).

    Hassani et al. 2021, Escaping the Big Data Paradigm with Compact Transformers, §3: convolution, ReLU and 3×3
    max-pooling with stride 2 make the tokens, learnt positions are added, the encoder is ViT's, and before the linear
    layer sequence pooling averages the tokens, weighted by a softmax over a linear map of each. Convolutions, queries,
    keys and values have no bias. The default is CCT-7/3×1: seven layers, one 3×3 convolution; CCT-2/3×2 is
    ``depth=2&dim=128&heads=2&mlp=1&convs=2``. The paper's stochastic depth is not included.
    """
    channels, height, width = image_of("cct", input_shape)
    require_heads("cct", depth, dim, heads, mlp)
    positive("convs", [convs])
    if kernel < 1 or not kernel % 2:
        raise InputError(f"kernel of cct must be odd: 3, 5, 7; not {kernel}.")
    layers: list[nn.Module] = []
    for following in [HIDDEN] * (convs - 1) + [dim]:
        layers += [nn.Conv2d(channels, following, kernel, padding=kernel // 2, bias=False), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, padding=1))
        channels, height, width = following, (height + 1) // 2, (width + 1) // 2
    network = _Cct(nn.Sequential(*layers), height * width, Encoder(depth, dim, heads, mlp, bias=False))
    network.head = nn.Linear(dim, classes)
    initialise(network)
    initialise_convolutions(network)
    return network


class _Cct(nn.Module):
    head: nn.Linear

    def __init__(self, tokeniser: nn.Sequential, tokens: int, encoder: Encoder) -> None:
        super().__init__()
        norm = encoder[-1]
        assert isinstance(norm, nn.LayerNorm)
        dim = norm.normalized_shape[0]
        self.tokeniser, self.positions, self.encoder = tokeniser, learnt(1, tokens, dim), encoder
        self.pooling = nn.Linear(dim, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        tokens = self.tokeniser(x).flatten(2).transpose(1, 2)
        tokens = self.encoder(tokens + self.positions)
        weights = self.pooling(tokens).softmax(dim=1)
        return cast(Tensor, self.head((weights.transpose(1, 2) @ tokens).squeeze(1)))
