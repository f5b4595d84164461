"""Residual units with normalisation and ReLU before each convolution, for pre-activation and wide ResNets.

He et al. 2016, Identity Mappings in Deep Residual Networks, §4.1 and fig. 4(e).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from mgraph.architectures.cifarresnet import initialise, padded


class Unit(nn.Module):
    """BatchNorm, ReLU and a convolution, two or three times, with the input added to the result.

    ``widths`` are the channels before, between and after the convolutions, ``sizes`` their kernel sizes; the first 3×3
    convolution strides. If the number of channels changes, the shortcut is a 1×1 convolution of the activated input
    with ``project``, and otherwise padded with zeros. ``first`` activates before the input splits into the two paths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        sizes: Sequence[int],
        stride: int,
        *,
        project: bool,
        first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        strided = list(sizes).index(3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], k, stride if i == strided else 1, padding=k // 2, bias=False)
            for i, k in enumerate(sizes)
        )
        changes = widths[0] != widths[-1]
        self.projection = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False) if changes and project else None
        self.first, self.stride, self.channels, self.dropout = first, stride, widths[-1], dropout

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, after, H/stride, W/stride)."""
        out = F.relu(self.norms[0](x))
        if self.projection is not None:
            shortcut = self.projection(out)
        else:
            shortcut = padded(out if self.first else x, self.stride, self.channels)
        out = self.convolutions[0](out)
        for norm, convolution in zip(list(self.norms)[1:], list(self.convolutions)[1:], strict=True):
            out = convolution(F.dropout(F.relu(norm(out)), self.dropout, self.training))
        added: Tensor = shortcut + out
        return added


def assembled(channels: int, units: Sequence[nn.Module], width: int, classes: int) -> nn.Module:
    """Put units, the last with ``width`` channels, between a 3×3 convolution to 16 channels and a linear head."""
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        *units,
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )
    initialise(network)
    return network
