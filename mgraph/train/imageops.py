"""Random changes to images, drawn separately for each image, on whole batches and on their device.

Every function takes a batch x, shape (B, C, H, W), as the network sees it, a part's number and :class:`Chance`, and
returns a new batch. torchvision's transforms draw once for a whole batch; called image by image they cost several times
as much (benchmarks/augment.py). So the draws and the geometry are our own; RandAugment's operations are torchvision's,
each applied to all images that drew it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from mgraph.data.splits import Normalisation


@dataclass(frozen=True)
class Chance:
    """The random numbers for one batch, and what its values mean.

    ``here`` is a generator on the batch's device, ``apart`` one on the CPU, for what is decided there. ``black`` is
    what a stored 0 looks like to the network, shape (C, 1, 1).
    """

    here: torch.Generator
    apart: torch.Generator
    black: Tensor
    normalisation: Normalisation


def crop(x: Tensor, pixels: int, chance: Chance) -> Tensor:
    """Add a black border of ``pixels`` around each image, and cut out the original size at a random, uniform shift."""
    B, C, H, W = x.shape
    bordered = x.new_empty(B, C, H + 2 * pixels, W + 2 * pixels)
    bordered[:] = chance.black
    bordered[:, :, pixels : pixels + H, pixels : pixels + W] = x
    shifts = torch.randint(0, 2 * pixels + 1, (2, B, 1), generator=chance.here, device=x.device)
    rows = shifts[0] + torch.arange(H, device=x.device)
    columns = shifts[1] + torch.arange(W, device=x.device)
    places = rows[:, :, None] * (W + 2 * pixels) + columns[:, None, :]
    return bordered.view(B, C, -1).gather(2, places.view(B, 1, -1).expand(B, C, H * W)).view(B, C, H, W)


def flip(x: Tensor, number: int, chance: Chance) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    del number
    mirrored = torch.rand(len(x), generator=chance.here, device=x.device) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def rotate(x: Tensor, degrees: int, chance: Chance) -> Tensor:
    """Rotate each image about its centre by an angle uniform in ±degrees, bilinearly; uncovered areas become black."""
    H, W = x.shape[-2:]
    angle = (torch.rand(len(x), generator=chance.here, device=x.device) * 2.0 - 1.0) * math.radians(degrees)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    # Pixel centres relative to the image's centre, in pixels.
    i = torch.arange(H, device=x.device)[:, None] - (H - 1) / 2.0
    j = torch.arange(W, device=x.device)[None, :] - (W - 1) / 2.0
    grid = torch.stack([(cos * j - sin * i) * (2.0 / W), (sin * j + cos * i) * (2.0 / H)], dim=-1)
    turned = F.grid_sample(x - chance.black, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned + chance.black


def cutout(x: Tensor, side: int, chance: Chance) -> Tensor:
    """Set a square of each image to 0 as the network sees it: the mean colour, if inputs are normalised.

    The square's centre is uniform over the pixels, so part of it may lie outside (DeVries & Taylor 2017).
    """
    B, _, H, W = x.shape
    inside = []
    for size in (H, W):
        first = torch.randint(0, size, (B, 1), generator=chance.here, device=x.device) - side // 2
        place = torch.arange(size, device=x.device)
        inside.append((place >= first) & (place < first + side))
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


def randaugment(x: Tensor, magnitude: int, chance: Chance) -> Tensor:
    """Apply two operations of RandAugment (Cubuk et al. 2020), as in torchvision, drawn for each image.

    Images are converted back to 256 levels first. Images that drew the same operation are changed together.
    """
    from torchvision.transforms.v2.functional import to_dtype

    levels = to_dtype(_stored(x, chance.normalisation).clamp(0.0, 1.0), torch.uint8, scale=True)
    operations = _operations(magnitude, *x.shape[-2:])
    for _ in range(2):
        drawn = torch.randint(0, len(operations), (len(x),), generator=chance.apart)
        negative = torch.rand(len(x), generator=chance.apart) < 0.5
        for number, (operation, amount) in enumerate(operations):
            for sign in (1.0, -1.0):
                chosen = ((drawn == number) & (negative == (sign < 0))).nonzero()[:, 0]
                if len(chosen):
                    chosen = chosen.to(x.device)
                    levels[chosen] = operation(levels[chosen], sign * amount)
    return chance.normalisation.of_tensor(levels)


def _stored(x: Tensor, normalisation: Normalisation) -> Tensor:
    """Undo the normalisation, shape (B, C, H, W)."""
    if normalisation.trivial:
        return x
    mean, std = (
        torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1)
        for values in (normalisation.mean or (0.0,), normalisation.std or (1.0,))
    )
    return x * std + mean


_Operation = tuple[Callable[[Tensor, float], Tensor], float]


def _operations(magnitude: int, height: int, width: int) -> tuple[_Operation, ...]:
    """Return RandAugment's 14 operations on uint8 images, each with its strength at this magnitude of 0 … 30."""
    from torchvision.transforms.v2 import functional as tv

    part = magnitude / 30.0
    degrees, across, down = math.degrees(math.atan(0.3 * part)), 150.0 / 331.0 * width, 150.0 / 331.0 * height

    def shear(x: Tensor, by: list[float]) -> Tensor:
        moved: Tensor = tv.affine(x, angle=0.0, translate=[0, 0], scale=1.0, shear=by, center=[0, 0])
        return moved

    def shift(x: Tensor, by: list[int]) -> Tensor:
        moved: Tensor = tv.affine(x, angle=0.0, translate=by, scale=1.0, shear=[0.0, 0.0])
        return moved

    bits = 8 - round(4.0 * part)
    return (
        (lambda x, a: x, 0.0),
        (lambda x, a: shear(x, [a, 0.0]), degrees),
        (lambda x, a: shear(x, [0.0, a]), degrees),
        (lambda x, a: shift(x, [int(a), 0]), across * part),
        (lambda x, a: shift(x, [0, int(a)]), down * part),
        (lambda x, a: tv.rotate(x, angle=a), 30.0 * part),
        (lambda x, a: tv.adjust_brightness(x, 1.0 + a), 0.9 * part),
        (lambda x, a: tv.adjust_saturation(x, 1.0 + a), 0.9 * part),
        (lambda x, a: tv.adjust_contrast(x, 1.0 + a), 0.9 * part),
        (lambda x, a: tv.adjust_sharpness(x, 1.0 + a), 0.9 * part),
        (lambda x, a: tv.posterize(x, bits), 0.0),
        (lambda x, a: tv.solarize(x, 255.0 * (1.0 - part)), 0.0),
        (lambda x, a: tv.autocontrast(x), 0.0),
        (lambda x, a: tv.equalize(x), 0.0),
    )


OPERATIONS: Mapping[str, Callable[[Tensor, int, Chance], Tensor]] = MappingProxyType(
    {"crop": crop, "flip": flip, "rotate": rotate, "cutout": cutout, "randaugment": randaugment}
)
