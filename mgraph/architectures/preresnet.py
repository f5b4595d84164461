"""The pre-activation ResNets of He et al. for CIFAR."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of, repeats
from mgraph.architectures.preactivation import Unit, assembled
from mgraph.errors import InputError

DEPTHS = (110, 164, 1001)
BLOCKS = ("auto", "basic", "bottleneck")


def preresnet(
    *,
    input_shape: tuple[int, ...],
    depth: Annotated[int, "6n+2 layers of basic units, 9n+2 of bottlenecks: 110, 164, 1001"] = 110,
    block: Annotated[str, "basic or bottleneck; auto: bottleneck from 164 layers"] = "auto",
    classes: Classes,
) -> nn.Module:
    """Pre-activation residual network; 1.7 million parameters with either 110 or 164 layers on (3, 32, 32).

    He et al. 2016, Identity Mappings in Deep Residual Networks: 110 layers are 54 units of two 3×3 convolutions with
    16, 32 and 64 filters; 164 are 54 bottlenecks of 1×1, 3×3 and 1×1, the last with four times the filters. BatchNorm
    and ReLU come first (fig. 4(e)), before the first unit splits into its two paths, and once more after the last unit.
    In bottlenecks that change the number of channels, the shortcut projects the activated input; in basic units it is
    padded with zeros, as in He et al. 2015, §4.2.
    """
    channels, *_ = image_of("preresnet", input_shape)
    if block not in BLOCKS:
        raise InputError(f"block of preresnet must be {', '.join(BLOCKS)}, not {block!r}.")
    narrow = block == "bottleneck" or (block == "auto" and depth >= 164 and (depth - 2) % 9 == 0)
    n = repeats(f"preresnet with {'bottlenecks' if narrow else 'basic units'}", depth, 9 if narrow else 6, 2, DEPTHS)
    units: list[nn.Module] = []
    before = 16
    for stage, width in enumerate((16, 32, 64)):
        between = (width, width, 4 * width) if narrow else (width, width)
        for number in range(n):
            units.append(
                Unit(
                    (before, *between),
                    (1, 3, 1) if narrow else (3, 3),
                    stride=2 if stage and not number else 1,
                    project=narrow,
                    first=not units,
                )
            )
            before = between[-1]
    return assembled(channels, units, before, classes)
