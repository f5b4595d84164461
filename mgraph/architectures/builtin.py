"""The built-in networks (torch is loaded when one is made). Their layout is final: stored graphs depend on it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated

from mgraph.architectures.inputs import image_of, positive, share
from mgraph.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Classes = Annotated[int, "number of outputs (default: the data's number of classes)"]


def mlp(
    *,
    input_shape: tuple[int, ...],
    hidden: Annotated[tuple[int, ...], "widths of the hidden layers"] = (256, 256),
    bn: Annotated[bool, "batch normalisation of every hidden layer"] = False,
    classes: Classes,
) -> nn.Module:
    """Flatten, then Linear, [BatchNorm], ReLU for each hidden width, then Linear to the classes."""
    from torch import nn

    positive("hidden", hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    width = prod(input_shape)
    for following in hidden:
        layers.append(nn.Linear(width, following))
        if bn:
            layers.append(nn.BatchNorm1d(following))
        layers.append(nn.ReLU())
        width = following
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(
    *,
    input_shape: tuple[int, ...],
    channels: Annotated[tuple[int, ...], "channels of the convolutions; each halves height and width"] = (16, 32),
    hidden: Annotated[tuple[int, ...], "widths of the hidden fully connected layers"] = (64,),
    bn: Annotated[bool, "batch normalisation after every convolution"] = False,
    dropout: Annotated[float, "share dropped after the convolutions"] = 0.0,
    classes: Classes,
) -> nn.Module:
    """3×3 convolution, [BatchNorm], ReLU, 2×2 max-pool for each of ``channels``, [Dropout], then Linear layers.

    With the defaults, on (1, 8, 8) with 10 classes, it has 13706 parameters.
    """
    from torch import nn

    positive("channels", channels)
    positive("hidden", hidden)
    depth, height, width = image_of("cnn", input_shape)
    layers: list[nn.Module] = []
    for following in channels:
        layers.append(nn.Conv2d(depth, following, 3, padding=1))
        if bn:
            layers.append(nn.BatchNorm2d(following))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = following, height // 2, width // 2
    if not height or not width:
        raise InputError(
            f"cnn with {len(channels)} convolutions halves images {len(channels)} times; those of "
            f"{input_shape[1]}×{input_shape[2]} are too small, give fewer channels."
        )
    share("cnn", "dropout", dropout)
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.Flatten())
    units = depth * height * width
    for following in hidden:
        layers += [nn.Linear(units, following), nn.ReLU()]
        units = following
    return nn.Sequential(*layers, nn.Linear(units, classes))


def lenet5(*, input_shape: tuple[int, ...], classes: Classes) -> nn.Module:
    """LeNet-5 of LeCun et al. (1998), with ReLU and max-pooling: 61706 parameters on (1, 28, 28) with 10 classes."""
    from torch import nn

    depth, height, width = image_of("lenet5", input_shape)
    height, width = (height // 2 - 4) // 2, (width // 2 - 4) // 2
    if height < 1 or width < 1:
        raise InputError(
            f"lenet5 needs images of at least 12×12, not {input_shape[1]}×{input_shape[2]}; take cnn or mlp."
        )
    return nn.Sequential(
        nn.Conv2d(depth, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def toy(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    potential: Annotated[str, "ring, valley or muller-brown"] = "ring",
) -> nn.Module:
    """Return the landscape of that name; raise InputError, listing the available ones, for any other."""
    from mgraph.architectures.landscapes import landscape

    del input_shape, classes
    return landscape(potential)
