"""Built-in networks of papers have the sizes that the papers publish, and refuse what they cannot be."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from shapes import shapes_alone
from torch import nn

from mgraph.architectures.loading import build_network
from mgraph.errors import InputError

CIFAR = (3, 32, 32)


def build(spec: str, shape: Any = CIFAR, classes: int = 10, values: bool = False) -> nn.Module:
    """Shapes are enough, and cost little."""
    with contextlib.nullcontext() if values else shapes_alone():
        return build_network(spec, input_shape=shape, classes=classes, seed=0)


def millions(network: nn.Module, digits: int) -> float:
    return round(sum(p.numel() for p in network.parameters()) / 1e6, digits)


@pytest.mark.parametrize(
    ("spec", "published", "digits"),
    [
        # He et al. 2015, table 6
        ("cifarresnet?depth=20", 0.27, 2),
        ("cifarresnet?depth=32", 0.46, 2),
        pytest.param("cifarresnet?depth=44", 0.66, 2, marks=pytest.mark.stress),
        ("cifarresnet?depth=56", 0.85, 2),
        pytest.param("cifarresnet?depth=110", 1.7, 1, marks=pytest.mark.stress),
        # Zagoruyko and Komodakis 2016, tables 4 and 5
        ("preresnet?depth=110", 1.7, 1),
        pytest.param("preresnet?depth=164", 1.7, 1, marks=pytest.mark.stress),
        ("wrn?depth=40&width=4", 8.9, 1),
        ("wrn?depth=16&width=8", 11.0, 1),
        ("wrn?depth=28&width=10", 36.5, 1),
        pytest.param("wrn?depth=40&width=1", 0.6, 1, marks=pytest.mark.stress),
        # Hassani et al. 2021, table 1
        ("cct", 3.76, 2),
        ("cct?depth=2&dim=128&heads=2&mlp=1&convs=2", 0.28, 2),
        pytest.param("cct?convs=2", 3.85, 2, marks=pytest.mark.stress),
    ],
)
def test_parameters_are_those_of_the_papers(spec: str, published: float, digits: int) -> None:
    network = build(spec)
    assert millions(network, digits) == published
    assert network.eval()(torch.zeros(2, *CIFAR, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("spec", "published", "digits"),
    [
        # Zaremba et al. 2014, as Press and Wolf 2017 count them (table 5), whose tied one is the last
        ("lstm?width=650&tied=false", 20, 0),
        ("lstm?width=1500&tied=false", 66, 0),
        ("lstm?width=1500", 51, 0),
    ],
)
def test_language_models_have_the_published_size(spec: str, published: float, digits: int) -> None:
    network = build(spec, (35,), 10000)
    assert millions(network, digits) == published
    tokens = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert network.eval()(tokens).shape == network(input_ids=tokens, attention_mask=tokens).shape == (2, 3, 10000)


def test_vision_transformers_have_the_published_size() -> None:
    """ViT-B/16 has 86 million (Dosovitskiy et al. 2021, table 1), as torchvision's, DeiT-Ti 5 million (table 1)."""
    base = "vit?dim=768&heads=12&patch=16"
    theirs = build("torchvision:vit_b_16", (3, 224, 224), 1000)
    ours = build(base, (3, 224, 224), 1000)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) == 86_567_656
    tiny = build("vit?patch=16", (3, 224, 224), 1000)
    assert sum(p.numel() for p in tiny.parameters()) == 5_717_416
    assert build("vit?depth=1").eval()(torch.zeros(2, *CIFAR, device="meta")).shape == (2, 10)


def test_a_vit_computes_what_torchvisions_does() -> None:
    """With the weights of torchvision's, whose names differ."""
    shape = (3, 8, 8)
    ours = build("vit?dim=12&heads=3&depth=2", shape, values=True)
    from torchvision.models import VisionTransformer

    theirs = VisionTransformer(8, 4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=48, num_classes=10)
    new = {
        "class_token": "class_token",
        "positions": "encoder.pos_embedding",
        "patches": "conv_proj",
        "encoder.2": "encoder.ln",
        "head": "heads.head",
    }
    for i in range(2):
        of = f"encoder.layers.encoder_layer_{i}"
        new |= {f"encoder.{i}.norm_one": f"{of}.ln_1", f"encoder.{i}.norm_two": f"{of}.ln_2"}
        new |= {f"encoder.{i}.one": f"{of}.mlp.0", f"encoder.{i}.two": f"{of}.mlp.3"}
        new |= {f"encoder.{i}.attention.out": f"{of}.self_attention.out_proj"}
    state, given = ours.state_dict(), theirs.state_dict()
    for key in state:
        layer, _, what = key.rpartition(".")
        if "qkv" in key:
            state[key] = given[f"encoder.layers.encoder_layer_{key.split('.')[1]}.self_attention.in_proj_{what}"]
        else:
            state[key] = given[new[key] if key in new else f"{new[layer]}.{what}"]
    ours.load_state_dict(state)
    nn.init.normal_(theirs.heads.head.weight)
    ours.head.weight = theirs.heads.head.weight
    x = torch.randn(4, *shape)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def test_the_widths_of_garipov_et_al() -> None:
    """The three layers at K have 1152·1000K, (1000K)² and 10·1000K weights, beside 258624 of the convolutions."""
    for k in (0.3, 0.5, 0.8, 1.0):
        units = round(1000 * k)
        count = sum(p.numel() for p in build(f"convfc?width={k}").parameters())
        assert count == 258_624 + 1153 * units + (units + 1) * units + 10 * (units + 1)


def test_tied_matrices_are_one() -> None:
    network = build("lstm?width=5", (4,), 7, values=True)
    assert network.get_parameter("embedding.weight") is network.get_parameter("head.weight")
    assert "head.weight" not in dict(network.named_parameters())
    apart = build("lstm?width=5&tied=false", {"input_ids": (4,), "attention_mask": (4,)}, 7, values=True)
    assert apart.get_parameter("embedding.weight") is not apart.get_parameter("head.weight")


def test_shortcuts_without_parameters_are_padded_with_zeros() -> None:
    from mgraph.architectures.cifarresnet import padded

    x = torch.randn(2, 3, 5, 4)
    out = padded(x, 2, 6)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()
    assert padded(x, 1, 3).equal(x)


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        *((name, (64,), f"{name} needs images of shape") for name in ("convfc", "cifarresnet", "preresnet", "wrn")),
        *((name, (64,), f"{name} needs images of shape") for name in ("vit", "cct")),
        ("convfc", (1, 8, 8), "convfc needs images of at least 15×15, not 8×8"),
        ("convfc?width=0", CIFAR, "leaves no units"),
        ("convfc?channels=4,0", CIFAR, "channels must be positive"),
        ("cifarresnet?depth=21", CIFAR, r"cifarresnet has 6n\+2 layers, such as 20, .* not depth=21"),
        ("cifarresnet?width=0.01", CIFAR, "leaves no channels"),
        ("preresnet?depth=111", CIFAR, r"preresnet with basic units has 6n\+2 layers, such as 110"),
        ("preresnet?depth=112&block=bottleneck", CIFAR, r"with bottlenecks has 9n\+2 layers"),
        ("preresnet?block=wide", CIFAR, "block of preresnet must be auto, basic, bottleneck"),
        ("wrn?depth=27", CIFAR, r"wrn has 6n\+4 layers"),
        ("wrn?width=0", CIFAR, "width must be positive"),
        ("wrn?dropout=1", CIFAR, "dropout of wrn must be at least 0 and below 1"),
        ("vit?patch=5", CIFAR, "Patches of 5×5 do not fill images of 32×32"),
        ("vit?heads=5", CIFAR, "The 5 heads of vit must divide its dim=192"),
        ("vit?depth=0", CIFAR, "depth must be positive"),
        ("cct?kernel=4", CIFAR, "kernel of cct must be odd"),
        ("cct?convs=0", CIFAR, "convs must be positive"),
        ("lstm", CIFAR, r"lstm needs sequences of token numbers, shape \(T,\)"),
        ("lstm", {"words": (3,)}, "lstm needs token numbers as input_ids; the inputs are words"),
        ("lstm?init=0", (3,), "init of lstm must be above 0"),
        (
            "cnn",
            {"a": (3, 8, 8), "b": (1,)},
            r"cnn takes one tensor, .* are several \(a, b\)",
        ),
    ],
)
def test_refused(spec: str, shape: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(spec, shape)


def test_numbers_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"token numbers, which are integers, not torch\.float32"):
        build("lstm", (3,), values=True)(torch.zeros(2, 3))
