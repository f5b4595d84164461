"""Wide residual networks."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of, positive, repeats, share
from mgraph.architectures.preactivation import Unit, assembled

DEPTHS = (16, 22, 28, 40)


def wrn(
    *,
    input_shape: tuple[int, ...],
    depth: Annotated[int, "6n+4 layers: 16, 22, 28, 40"] = 28,
    width: Annotated[int, "k: multiplies the channels, 16, 32 and 64"] = 10,
    dropout: Annotated[float, "share dropped between the two convolutions of a unit"] = 0.0,
    classes: Classes,
) -> nn.Module:
    """Wide residual network; WRN-28-10 has 36.5 million parameters on (3, 32, 32).

    Zagoruyko and Komodakis 2016, Wide Residual Networks, §2 and table 1: a 3×3 convolution with 16 filters, then three
    groups of n units of two 3×3 convolutions, with BatchNorm and ReLU before each and 16k, 32k and 64k filters; the
    second and third group begin with stride 2; average pooling and a fully connected layer. Where the number of
    channels changes, the shortcut is a 1×1 convolution. Dropout sits between the convolutions of a unit (§2.4, fig.
    1(d)).
    """
    channels, *_ = image_of("wrn", input_shape)
    n = repeats("wrn", depth, 6, 4, DEPTHS)
    positive("width", [width])
    share("wrn", "dropout", dropout)
    units: list[nn.Module] = []
    before = 16
    for stage, following in enumerate((16 * width, 32 * width, 64 * width)):
        for number in range(n):
            stride = 2 if stage and not number else 1
            units.append(Unit((before, following, following), (3, 3), stride, project=True, dropout=dropout))
            before = following
    return assembled(channels, units, before, classes)
