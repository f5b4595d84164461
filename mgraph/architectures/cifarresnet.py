"""The CIFAR-10 ResNets of He et al."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of, repeats, scaled

DEPTHS = (20, 32, 44, 56, 110)


def cifarresnet(
    *,
    input_shape: tuple[int, ...],
    depth: Annotated[int, "6n+2 layers: 20, 32, 44, 56, 110"] = 20,
    width: Annotated[float, "multiplies the channels, 16, 32 and 64"] = 1.0,
    classes: Classes,
) -> nn.Module:
    """Residual network for small images; 0.27 million parameters with 20 layers on (3, 32, 32).

    He et al. 2015, Deep Residual Learning for Image Recognition, §4.2: a 3×3 convolution, then 6n more on feature maps
    of sizes 32, 16 and 8, 2n each, with 16, 32 and 64 filters; subsampling by stride 2; a shortcut around every pair;
    global average pooling and a fully connected layer. "We use identity shortcuts in all cases (i.e., option A)": where
    the number of channels grows, the shortcut is subsampled and padded with zeros.
    """
    channels, *_ = image_of("cifarresnet", input_shape)
    n = repeats("cifarresnet", depth, 6, 2, DEPTHS)
    widths = scaled("cifarresnet", width, (16, 32, 64))
    units: list[nn.Module] = []
    before = widths[0]
    for stage, following in enumerate(widths):
        for number in range(n):
            units.append(_Unit(before, following, stride=2 if stage and not number else 1))
            before = following
    network = nn.Sequential(
        nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        *units,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, classes),
    )
    initialise(network)
    return network


class _Unit(nn.Module):
    """Two 3×3 convolutions, with the input added before the last ReLU."""

    def __init__(self, before: int, following: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, following, 3, stride, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(following)
        self.two = nn.Conv2d(following, following, 3, padding=1, bias=False)
        self.norm_two = nn.BatchNorm2d(following)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, following, H/stride, W/stride)."""
        out = F.relu(self.norm_one(self.one(x)))
        out = self.norm_two(self.two(out))
        return F.relu(out + padded(x, self.one.stride[0], out.shape[1]))


def padded(x: Tensor, stride: int, channels: int) -> Tensor:
    """Return every ``stride``-th pixel, with zero channels appended: the parameter-free shortcut."""
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1]))


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions in place, as He et al. 2015 (Delving Deep into Rectifiers) do."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
