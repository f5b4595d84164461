"""Decode the bytes of an image file into an array: three channels, one size.

What is read is what the file shows. Images of any colour mode become 8-bit RGB; 16-bit grey ones keep their precision,
as floats in [0, 1]. A camera's orientation tag (EXIF) is applied. Of several frames, the first is used. For transparent
pixels the background must be given, and anything that cannot be read correctly is refused by name. Colour profiles are
not applied.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mgraph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

BACKGROUNDS = ("white", "black", "ignore")
FULL = 65535
"""The largest 16-bit value."""


@dataclass
class Facts:
    """What was found in one file.

    ``grey16`` and ``colour16`` mark 16-bit images, ``deepest`` is the largest value of a grey one; ``transparent``
    means that some pixels are, whatever the background; ``damaged`` says why the file cannot be read.
    """

    width: int = 0
    height: int = 0
    frames: bool = False
    grey16: bool = False
    colour16: bool = False
    deepest: int = 0
    transparent: bool = False
    damaged: str = ""


def check_background(background: str | None) -> None:
    """Raise InputError for an unknown background."""
    if background is not None and background not in BACKGROUNDS:
        raise InputError(f"background is {', '.join(BACKGROUNDS)}, not {background!r}.")


def decode(data: bytes, size: int | None, background: str | None) -> tuple[NDArray[Any] | None, Facts]:
    """Read one image, shape (3, size, size): uint8, or float32 in [0, 1]; and what was found.

    Returns None for an image that is damaged, or has transparent pixels without a ``background`` (white or black behind
    them, or ``ignore`` to use the colours stored in them). Without a size, all of it is read and discarded.
    """
    facts = Facts()
    try:
        return _decoded(data, size, background, facts), facts
    except MemoryError:
        raise
    except _TransparentError:
        pass
    except Exception as error:  # decoders may raise almost anything for damaged files
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        facts.damaged = "not an image file" if type(error).__name__ == "UnidentifiedImageError" else why
    return None, facts


def as_floats(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert 8-bit values to [0, 1], like 16-bit images."""
    return values.astype(np.float32) / np.float32(255)


class _TransparentError(Exception):
    """An image has transparent pixels, and the background was not specified."""


def _decoded(data: bytes, size: int | None, background: str | None, facts: Facts) -> NDArray[Any] | None:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        facts.width, facts.height = image.size
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a phone's photo with its depth map
            facts.frames = True
        deep = any(";16" in str(tile) for tile in image.tile)  # before it is loaded
        image.load()
        if image.mode.startswith("I;16") or (deep and image.mode == "I"):
            facts.grey16 = True
            return _grey(image, size, background, facts)
        facts.colour16 = deep  # Pillow keeps only the upper 8 bits
        if image.mode in ("I", "F", "LAB", "HSV"):
            what = {"I": "32-bit integers", "F": "floating-point numbers"}.get(image.mode, f"{image.mode} colours")
            raise InputError(f"its pixels are {what}; save it with 8 or 16 bits")
        colours = _on_background(ImageOps.exif_transpose(image), background, facts)
        if size is None:
            return None
        if colours.size != (size, size):
            colours = colours.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(colours).transpose(2, 0, 1)


def _on_background(image: Image.Image, background: str | None, facts: Facts) -> Image.Image:
    from PIL import Image

    if not image.has_transparency_data or background == "ignore":
        return image.convert("RGB")
    layered = image.convert("RGBA")
    if np.asarray(layered)[..., 3].min() == 255:  # entirely opaque
        return image.convert("RGB")
    facts.transparent = True
    if background is None:
        raise _TransparentError
    return Image.alpha_composite(Image.new("RGBA", layered.size, background), layered).convert("RGB")


def _grey(image: Image.Image, size: int | None, background: str | None, facts: Facts) -> NDArray[np.float32] | None:
    """Read a 16-bit grey image, shape (3, size, size), as float32 in [0, 1]."""
    from PIL import Image, ImageOps

    values = np.asarray(ImageOps.exif_transpose(image)).astype(np.float32)
    facts.deepest = int(values.max())
    clear = values == image.info["transparency"] if "transparency" in image.info else np.zeros_like(values, bool)
    if clear.any() and background != "ignore":  # a single grey value stands for transparent
        facts.transparent = True
        if background is None:
            raise _TransparentError
        values[clear] = FULL if background == "white" else 0
    if size is None:
        return None
    plane = Image.fromarray(values / np.float32(FULL)).resize((size, size), Image.Resampling.BILINEAR)
    grey: NDArray[np.float32] = np.asarray(plane).clip(0, 1)
    return np.stack([grey] * 3)
