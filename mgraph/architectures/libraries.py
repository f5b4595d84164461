"""Networks from other libraries, fitted to the data: number of classes, input channels, stem."""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from mgraph.architectures.builtin import Classes
from mgraph.architectures.inputs import image_of
from mgraph.errors import InputError, NotFoundError
from mgraph.specs import suggestion

if TYPE_CHECKING:
    from torch import nn


def torchvision(
    name: str,
    *,
    input_shape: tuple[int, ...],
    stem: Annotated[str, "cifar: the family's stem for small images"] = "imagenet",
    patch: Annotated[int | None, "ViT and Swin: side of a patch in pixels (stem=cifar: 4 and 2)"] = None,
    image: Annotated[int | None, "ViT and Swin: side of the images (default: the data's)"] = None,
    classes: Classes,
    **further: Any,
) -> nn.Module:
    """Make a torchvision classification network without pretrained weights.

    ``stem=cifar`` is the family's usual choice for images of about 32×32 (:mod:`mgraph.architectures.stems`). For
    inputs with other than 3 channels the first convolution is replaced. Raises NotFoundError for an unknown name,
    InputError for images that the network cannot take and for a family without such a stem.
    """
    import torch
    import torchvision as library

    from mgraph.architectures import stems

    refuse_weights("torchvision", further)
    known = library.models.list_models(module=library.models)
    if name not in known:
        raise NotFoundError(f"torchvision has no network {name!r};{suggestion(name, known)} see its list of models.")
    if stem not in ("imagenet", "cifar"):
        raise InputError(f"stem must be imagenet or cifar, not {stem!r}.")
    channels, height, width = image_of(f"torchvision:{name}", input_shape)
    make = partial(library.models.get_model, name, weights=None, num_classes=classes, **further)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # some networks announce that their initialisation will change
        if (stem, patch, image) == ("imagenet", None, None):
            network: nn.Module = make()
            _require_side(name, stems.side_of(network), height, width)
        elif name.startswith(("vit_", "swin_")):
            _require_side(name, image, height, width)
            with torch.device("meta"):
                like = library.models.get_model(name, weights=None)
            network = stems.cut(name, like, (height, width), patch, {"num_classes": classes} | further)
        elif patch is not None or image is not None:
            raise InputError(f"patch and image are for ViT and Swin; leave them out for {name}.")
        else:
            network = make()
            stems.fit_stem(name, network, channels)
    if channels != 3:
        _adapt_first_convolution(network, channels)
    return network


def _require_side(name: str, side: int | None, height: int, width: int) -> None:
    if side is not None and (height, width) != (side, side):
        raise InputError(
            f"torchvision:{name} would take images of {side}×{side}, and those of the data are {height}×{width}; give "
            f"stem=cifar for smaller patches, or patch and image={height}."
        )


def timm(name: str, *, input_shape: tuple[int, ...], classes: Classes, **further: Any) -> nn.Module:
    """Make a timm network without pretrained weights, for the data's classes and channels."""
    try:
        library = importlib.import_module("timm")
    except ImportError:
        raise InputError("timm is not installed; install it: pip install 'mgraph[timm]'.") from None
    refuse_weights("timm", further)
    if ":" in name or "/" in name or not library.is_model(name):  # hf-hub:… and local-dir:… would load weights
        raise NotFoundError(f"timm has no network {name!r};{suggestion(name, library.list_models())} see its list.")
    network: nn.Module = library.create_model(
        name, pretrained=False, num_classes=classes, in_chans=input_shape[0], **further
    )
    return network


_OF_PAPERS = (
    (r"resnet(20|32|44|56|110)", "cifarresnet?depth={}"),
    (r"preresnet(110|164)", "preresnet?depth={}"),
    (r"(?:wrn|wideresnet)(\d\d)x?(\d{1,2})", "wrn?depth={}&width={}"),
)
"""What papers call networks that are built in."""


def known_as(name: str) -> str | None:
    """Return the spec of the network that papers call so, or that torchvision, or timm if it is installed, has.

    It is the one of that name, but for capitals, hyphens and underscores, as in ``ResNet-18``.
    """
    for pattern, spec in _OF_PAPERS:
        if found := re.fullmatch(pattern, _bare(name)):
            return spec.format(*found.groups())

    import torchvision as library

    lists = {"torchvision": library.models.list_models(module=library.models)}
    with contextlib.suppress(ImportError):
        lists["timm"] = importlib.import_module("timm").list_models()
    for prefix, known in lists.items():
        if name in known:
            return f"{prefix}:{name}"
    for prefix, known in lists.items():
        alike = next((other for other in known if _bare(other) == _bare(name)), None)
        if alike is not None:
            return f"{prefix}:{alike}"
    return None


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def refuse_weights(library: str, further: Mapping[str, Any], *others: str) -> None:
    """Refuse whatever would read or fetch a file: a pickle may run code, and the spec may come from a stranger.

    This means parameters whose names start with certain words, or with any of ``others``.
    """
    starts = ("pretrained", "weights", "checkpoint", "cache", "hf_", "model_dir", "file", "url", *others)
    for key in further:
        if key.startswith(starts):
            raise InputError(
                f"{library} networks are made freshly initialised; leave out {key}, and import weights as a mode with "
                f"mgraph add-mode."
            )


def _adapt_first_convolution(network: nn.Module, channels: int) -> None:
    from torch import nn

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels == channels:  # a stem already made for these channels
                return
            parent, _, attribute = name.rpartition(".")
            replacement = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
            setattr(network.get_submodule(parent), attribute, replacement)
            return
