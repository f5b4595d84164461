"""Adapt torchvision networks to small images: for each family, the usual choice at about 32×32.

These networks were made for ImageNet and divide height and width by 32, which leaves a single pixel of a 32×32 image to
classify. With ``stem=cifar`` they divide by 8: the first two halvings are dropped, and a first 7×7 convolution becomes
3×3 (as He et al. 2015, §4.2, do for CIFAR). VGG keeps its five poolings and gets a head of two hidden layers of 512
units instead of 4096, as in Garipov et al. 2018 (their VGG-16). Transformers get smaller patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torchvision
from torch import nn
from torchvision.models.mobilenetv3 import MobileNetV3
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

from mgraph.errors import InputError

_models = torchvision.models

HAVE_ONE = (
    "ResNet, ResNeXt, Wide ResNet, VGG, MobileNet-V2 and -V3, MNASNet, ShuffleNet-V2, EfficientNet, RegNet, DenseNet, "
    "ViT and Swin"
)
"""The families that have a stem for small images, as messages call them."""

HEAD = 512  # units in each hidden layer of VGG's head
WINDOW = 4  # Swin: side of the square in which tokens attend to each other
PATCH = {VisionTransformer: 4, SwinTransformer: 2}


def fit_stem(name: str, network: nn.Module, channels: int) -> None:
    """Give a convolutional network its family's stem, in place; raise InputError if the family has none.

    ``channels`` are those of the images, for a first convolution that has to be remade.
    """
    for kind, fit in _FITS:
        if isinstance(network, kind):
            fit(network, channels)
            return
    raise InputError(f"stem=cifar is for {HAVE_ONE}; {name} is not one of them, so leave it out.")


def cut(name: str, like: nn.Module, image: tuple[int, int], patch: int | None, further: Mapping[str, Any]) -> nn.Module:
    """Make a ViT or Swin of the size of ``like`` (which may be on the meta device) for the given images and patches.

    ``patch`` is the side of a patch in pixels; None means 4 for a ViT, 2 for a Swin. ``further`` are parameters of
    torchvision's class. Raises InputError if patches do not fill the image, and for a ViT if it is not square.
    """
    vit = isinstance(like, VisionTransformer)
    side = PATCH[VisionTransformer if vit else SwinTransformer] if patch is None else patch
    height, width = image
    if side < 1 or height % side or width % side:
        raise InputError(f"Patches of {side}×{side} do not fill images of {height}×{width}; give {name} another patch.")
    if vit and height != width:
        raise InputError(f"{name} takes square images only, not {height}×{width}.")
    return _vit(like, height, side, further) if vit else _swin(like, side, further)


def _vit(like: Any, image: int, patch: int, further: Mapping[str, Any]) -> nn.Module:
    made: nn.Module = VisionTransformer(
        image_size=image,
        patch_size=patch,
        num_layers=len(like.encoder.layers),
        num_heads=like.encoder.layers[0].num_heads,
        hidden_dim=like.hidden_dim,
        mlp_dim=like.mlp_dim,
        **further,
    )
    return made


def _swin(like: Any, patch: int, further: Mapping[str, Any]) -> nn.Module:
    stages = like.features[1::2]  # patches, blocks, merging, blocks, merging, …
    second = isinstance(stages[0][0], SwinTransformerBlockV2)
    made: nn.Module = SwinTransformer(
        patch_size=[patch, patch],
        embed_dim=like.features[0][0].out_channels,
        depths=[len(stage) for stage in stages],
        num_heads=[stage[0].attn.num_heads for stage in stages],
        window_size=[WINDOW, WINDOW],
        block=SwinTransformerBlockV2 if second else SwinTransformerBlock,
        downsample_layer=PatchMergingV2 if second else PatchMerging,
        **{"stochastic_depth_prob": stages[-1][-1].stochastic_depth.p} | dict(further),
    )
    return made


def _first(channels: int, out: int) -> nn.Conv2d:
    first = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    return first


def _resnet(network: Any, channels: int) -> None:
    network.conv1, network.maxpool = _first(channels, network.conv1.out_channels), nn.Identity()


def _densenet(network: Any, channels: int) -> None:
    network.features.conv0 = _first(channels, network.features.conv0.out_channels)
    network.features.pool0 = nn.Identity()


def _vgg(network: Any, channels: int) -> None:
    del channels
    classes, dropout = network.classifier[-1].out_features, network.classifier[2].p
    layers = []
    for _ in range(2):
        layers += [nn.Linear(HEAD, HEAD), nn.ReLU(), nn.Dropout(dropout)]
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(*layers, nn.Linear(HEAD, classes))
    for layer in network.classifier:
        if isinstance(layer, nn.Linear):  # as torchvision does
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)


def _shufflenet(network: Any, channels: int) -> None:
    del channels
    network.conv1[0].stride, network.maxpool = (1, 1), nn.Identity()


def _regnet(network: Any, channels: int) -> None:
    del channels
    network.stem[0].stride = (1, 1)
    _unstride(network.trunk_output.block1)  # its parallel projection and convolution


def _mobile(network: Any, channels: int) -> None:
    del channels
    _unstride(network, at_most=2)


def _unstride(network: nn.Module, at_most: int | None = None) -> None:
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for module in strided[:at_most]:
        module.stride = (1, 1)


_FITS: tuple[tuple[type, Callable[[Any, int], None]], ...] = (
    (_models.ResNet, _resnet),
    (_models.VGG, _vgg),
    (_models.DenseNet, _densenet),
    (_models.ShuffleNetV2, _shufflenet),
    (_models.RegNet, _regnet),
    (_models.MobileNetV2, _mobile),
    (MobileNetV3, _mobile),
    (_models.MNASNet, _mobile),
    (_models.EfficientNet, _mobile),
)


def side_of(network: nn.Module) -> int | None:
    """Return the only image side that a ViT accepts; None for networks that accept several."""
    if not isinstance(network, VisionTransformer):
        return None
    side = network.image_size
    return int(side)
