"""Networks of other libraries, fitted to the data: number of classes, input channels, stem."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from mgraph.architectures.builtin import Classes
from mgraph.errors import InputError, NotFoundError
from mgraph.specs import suggestion

if TYPE_CHECKING:
    from torch import nn


def torchvision(
    name: str,
    *,
    input_shape: tuple[int, ...],
    stem: Annotated[str, "cifar: a ResNet's stem for small images, 3×3 without pooling"] = "imagenet",
    classes: Classes,
    **further: Any,
) -> nn.Module:
    """Make a classification network of torchvision without weights.

    ``stem=cifar`` gives a ResNet a 3×3 stride-1 first convolution and no max-pooling, as is customary for
    32×32 images. Inputs with other than 3 channels get a first convolution for theirs.
    """
    import torchvision as library
    from torch import nn

    _refuse_weights("torchvision", further)
    known = library.models.list_models(module=library.models)
    if name not in known:
        raise NotFoundError(f"torchvision has no network {name!r};{suggestion(name, known)} see its list of models.")
    if stem not in ("imagenet", "cifar"):
        raise InputError(f"stem must be imagenet or cifar, not {stem!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # some networks announce a future initialisation
        network: nn.Module = library.models.get_model(name, weights=None, num_classes=classes, **further)
    if stem == "cifar":
        if not isinstance(network, library.models.ResNet):
            raise InputError(f"stem=cifar is for ResNets; {name} is none, leave it out.")
        first = nn.Conv2d(input_shape[0], network.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        network.conv1, network.maxpool = first, nn.Identity()
    elif input_shape[0] != 3:
        _adapt_first_convolution(network, input_shape[0])
    return network


def timm(name: str, *, input_shape: tuple[int, ...], classes: Classes, **further: Any) -> nn.Module:
    """Make a network of timm without weights, for the data's classes and channels."""
    try:
        library = importlib.import_module("timm")
    except ImportError:
        raise InputError("timm is not installed; install it with pip install timm.") from None
    _refuse_weights("timm", further)
    if ":" in name or "/" in name or not library.is_model(name):  # hf-hub:… and local-dir:… load what they name
        raise NotFoundError(f"timm has no network {name!r};{suggestion(name, library.list_models())} see its list.")
    network: nn.Module = library.create_model(
        name, pretrained=False, num_classes=classes, in_chans=input_shape[0], **further
    )
    return network


def _refuse_weights(library: str, further: Mapping[str, Any]) -> None:
    """Refuse what would read or fetch a file: a pickle may run code, and a spec may be a stranger's."""
    for key in further:
        if key.startswith(("pretrained", "weights", "checkpoint", "cache", "hf_", "model_dir", "file", "url")):
            raise InputError(
                f"{library} networks are made freshly initialised; leave out {key}, and import weights as a mode with "
                f"mgraph add-mode."
            )


def _adapt_first_convolution(network: nn.Module, channels: int) -> None:
    from torch import nn

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
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
