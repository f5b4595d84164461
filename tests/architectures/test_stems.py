"""torchvision's families on small images: what their stems keep of them, and which have none."""

from __future__ import annotations

import contextlib

import pytest
import torch
from shapes import shapes_alone
from torch import nn

from mgraph.architectures.loading import build_network
from mgraph.errors import InputError


def build(spec: str, shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    """Shapes are enough, and cost little; RegNets cannot be made of shapes alone."""
    with contextlib.nullcontext() if "regnet" in spec else shapes_alone():
        return build_network(f"torchvision:{spec}", input_shape=shape, classes=10, seed=0)


def last_map(network: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Return height and width of what the last convolution makes of images."""
    seen: list[tuple[int, int]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 4 and module.out_channels > 16:
            module.register_forward_hook(lambda _m, _i, out: seen.append((out.shape[2], out.shape[3])))
    with torch.no_grad():
        assert network.eval()(x).shape == (len(x), 10)
    return seen[-1]


CONVOLUTIONAL = (
    *("resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("mnasnet0_5", "shufflenet_v2_x0_5", "efficientnet_b0", "efficientnet_v2_s", "densenet121"),
    *("regnet_x_400mf", "regnet_y_400mf"),
)
# Of a family that is tried anyway: with make stress.
RELATIVES = {"resnext50_32x4d", "wide_resnet50_2", "mobilenet_v3_large", "efficientnet_v2_s", "regnet_y_400mf"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.stress] * (name in RELATIVES)) for name in CONVOLUTIONAL]
)
def test_images_are_divided_by_eight(name: str) -> None:
    shape = (1, 28, 20)  # which 8 does not divide
    network = build(f"{name}?stem=cifar", shape)
    x = torch.zeros(2, *shape, device=next(network.parameters()).device)
    halved = (side // 8 if name.startswith("dense") else -(-side // 8) for side in shape[1:])
    assert last_map(network, x) == tuple(halved)


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        ("vgg16?stem=cifar", 15_245_130),  # of Garipov et al.'s VGG-16 for CIFAR-10
        ("vgg16_bn?stem=cifar", 15_253_578),
        ("vgg11?stem=cifar", 9_750_922),
    ],
)
def test_vgg_gets_a_small_head(spec: str, parameters: int) -> None:
    network = build(spec)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [512, 512, 10]


def test_transformers_are_cut_into_smaller_patches() -> None:
    for spec, patches in (("patch=4&image=32", 64), ("stem=cifar&patch=8", 16)):
        network = build(f"vit_b_16?{spec}")
        assert network.get_parameter("encoder.pos_embedding").shape == (1, patches + 1, 768)
        assert network.eval()(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 10)
    for name in ("swin_t", "swin_v2_t"):
        usual, small = build(name, (3, 224, 224)), build(f"{name}?stem=cifar", (1, 32, 32))
        assert small.get_parameter("features.0.0.weight").shape == (96, 1, 2, 2)
        assert small.eval()(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 10)
        differ = {
            key
            for key, tensor in small.state_dict().items()
            if usual.state_dict()[key].shape != tensor.shape and "relative" not in key
        }
        assert differ == {"features.0.0.weight"}


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        ("alexnet?stem=cifar", (3, 32, 32), "stem=cifar is for ResNet, .* and Swin; alexnet is not one of them"),
        ("convnext_tiny?stem=cifar", (3, 32, 32), "convnext_tiny is not one of them"),
        ("resnet18?patch=4", (3, 32, 32), "patch and image are for ViT and Swin; leave them out for resnet18"),
        ("vit_b_16", (3, 32, 32), "would take images of 224×224, and those of the data are 32×32; give stem=cifar"),
        ("vit_b_16?patch=4&image=32", (1, 28, 28), "would take images of 32×32, and those of the data are 28×28"),
        ("vit_b_16?stem=cifar", (3, 30, 30), "Patches of 4×4 do not fill images of 30×30"),
        ("swin_t?stem=cifar&patch=0", (3, 32, 32), "patch"),
        ("vit_b_16?stem=cifar", (3, 32, 16), "square images only"),
        ("resnet18?stem=cifar", (64,), "needs images of shape"),
        ("vit_b_16?stem=cifar&depht=3", (3, 32, 32), "cannot be built: TypeError.*depht"),
    ],
)
def test_refused(spec: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(spec, shape)
