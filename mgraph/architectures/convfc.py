"""The small convolutional network whose width is varied by Garipov et al."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of, positive
from mgraph.errors import InputError

CHANNELS = (32, 64, 128)


def convfc(
    *,
    input_shape: tuple[int, ...],
    width: Annotated[float, "K: the hidden fully connected layers have 1000·K units"] = 1.0,
    channels: Annotated[tuple[int, ...], "channels of the convolutions"] = CHANNELS,
    classes: Classes,
) -> nn.Module:
    """Three convolutions, then three fully connected layers of width 1000·K; 2 422 634 parameters on (3, 32, 32).

    Garipov et al. 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, §4.2 and fig. 3: "a network that
    has three convolutional layers followed by three fully-connected layers, where each layer has 1000K neurons. We vary
    K ∈ {0.3, 0.5, 0.8, 1}". The last of the three gives the classes. The paper does not describe the convolutions; here
    they are 5×5 with ReLU and 3×3 max-pooling with stride 2, with 32, 64 and 128 channels. Images must be at least
    15×15.
    """
    positive("channels", channels)
    units = round(1000 * width)
    if units < 1:
        raise InputError(f"convfc?width={width:g} leaves no units; the papers' widths are 0.3, 0.5, 0.8 and 1.")
    depth, height, across = image_of("convfc", input_shape, least=2 ** (len(channels) + 1) - 1)
    layers: list[nn.Module] = []
    for following in channels:
        layers += [nn.Conv2d(depth, following, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        depth, height, across = following, (height - 1) // 2, (across - 1) // 2
    layers += [nn.Flatten(), nn.Linear(depth * height * across, units), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes))
