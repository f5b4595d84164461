"""The permutations of a network's units: found by following its axes, they change no output, and are recovered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgraph.align.matching import match
from mgraph.align.rules import UntraceableError
from mgraph.align.symmetry import Symmetry
from mgraph.align.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore:.*enable_nested_tensor", "ignore:.*weight_norm.*deprecated")


class Convolutions(nn.Module):
    """What convolutional networks are made of: groups, depthwise and dense connections, gates, normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped, self.groupnorm = nn.Conv2d(16, 12, 1, groups=4), nn.GroupNorm(4, 12)
        self.dense = nn.Conv2d(20, 5, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(25, 4, 1), nn.Conv2d(4, 25, 1)
        self.mixed, self.right = nn.Conv2d(25, 14, 1), nn.Conv2d(7, 7, 3, padding=1, bias=False)
        self.shuffled = nn.Conv2d(14, 6, 1)
        self.head = nn.Linear(6 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.silu(self.groupnorm(self.grouped(F.relu(self.depthwise(x)))))
        z = torch.cat([x, y, self.dense(torch.cat([x, y], 1))], 1)
        z = z * torch.sigmoid(self.excite(F.relu(self.squeeze(z.mean((2, 3), keepdim=True)))))
        left, right = F.max_pool2d(F.relu(self.mixed(z)), 2).chunk(2, 1)
        z = torch.cat([left, self.right(right)], 1).unflatten(1, (2, 7)).transpose(1, 2).flatten(1, 2)  # shuffled
        return self.head(F.relu(self.shuffled(z)).flatten(1))


class Padded(nn.Module):
    """Residual sums of which the second has more channels: its shortcut is padded with zeros (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 4), (4, 5), (5, 4)))
        self.three, self.four = nn.Conv2d(4, 6, 3, 2, padding=1), nn.Conv2d(6, 9, 3, padding=1)
        self.head = nn.Linear(9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.two(F.relu(self.one(x))))
        x = F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 5)) + self.four(F.relu(self.three(x))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """One matrix for query, key and value, as timm has it, with heads that share keys in the second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.zeros(1, 5, 12))
        self.token = nn.Parameter(torch.zeros(1, 1, 12))
        self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.q, self.kv, self.back = nn.Linear(12, 12), nn.Linear(12, 6, bias=False), nn.Linear(12, 12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width))
        q = self.q(x).view(n, t, 4, 3).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, 3).split(1, 2)
        a = torch.softmax(q @ k.transpose(1, 2).transpose(2, 3), -1)
        x = x + self.back((a @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(x))))[:, 0])


class Recurrent(nn.Module):
    """An LSTM of two layers and directions over an embedding whose weights are tied to the output's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)
        self.of_last = nn.Linear(4, 6)
        self.into = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
        self.out = nn.Linear(6, 11)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        states, (last, _) = self.lstm(self.embedding(x))
        return self.out(torch.tanh(self.into(states[:, -1]) + self.of_last(last[2])))


def images(size: int = 4) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def words() -> Tensor:
    return torch.arange(9).view(3, 3)


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic other numbers: zeros and ones would hide what was not permuted."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        for buffer in module.buffers():
            if buffer.dtype.is_floating_point:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module.eval()


def tensors_of(module: nn.Module) -> dict[str, Any]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().numpy().copy() for name, tensor in named}


def with_tensors(module: nn.Module, tensors: dict[str, Any]) -> nn.Module:
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            tensor.copy_(torch.from_numpy(np.asarray(tensors[name])))
    return other


def recovers(module: nn.Module, x: Tensor, outputs: set[str]) -> Symmetry:
    """Permute a network at random: its outputs stay, all but those tensors move, and matching finds the way back."""
    symmetry = trace(randomise(module), x)
    before = tensors_of(module)
    after = symmetry.apply(before, symmetry.random(np.random.default_rng(0)))
    parameters = [name for name, _ in module.named_parameters()]
    assert {name for name in parameters if np.array_equal(before[name], after[name])} == outputs
    # In float64: with random numbers in every tensor, deep networks multiply what rounding does to float32.
    wide = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        there, here = (with_tensors(module, tensors).double()(wide) for tensors in (before, after))
    assert float((there - here).abs().max()) <= 1e-9 * max(1.0, float(there.abs().max()))
    found = match(symmetry, {n: after[n] for n in parameters}, {n: before[n] for n in parameters}, restarts=0)
    back = symmetry.apply(after, found.chosen)
    assert all(np.array_equal(back[name], before[name]) for name in parameters)
    return symmetry


def sizes(symmetry: Symmetry, *, inner: bool = False) -> list[int]:
    return sorted(symmetry.groups[g].size for g in symmetry.free if (symmetry.groups[g].parent is not None) == inner)


def test_convolutions_of_every_kind() -> None:
    found = recovers(Convolutions(), images(), {"head.bias"})
    # The two outputs of a depthwise channel; the groups; the gate; the dense part; the last; the halves, one before and
    # after its convolution.
    assert sizes(found) == [2, 4, 4, 5, 6, 7, 7, 7]
    assert sizes(found, inner=True) == [2, 3]  # within a group, before and after the grouped convolution


def test_residual_sums_with_padded_shortcuts() -> None:
    found = recovers(Padded(), images(), {"head.bias"})
    assert sizes(found) == [4, 5, 5, 6]  # the first 4 of the 9 keep to themselves, and so do the other 5


def test_attention_heads_and_what_is_within_them() -> None:
    found = recovers(Attention(), images(8), {"head.bias"})
    assert sizes(found) == [3, 3, 4, 4, 12, 20]  # within shared keys and values; heads twice; the stream; hidden units
    assert sizes(found, inner=True) == [3, 3]  # each head has orders of its own, for keys and for values


def test_recurrent_layers_tied_embeddings_and_normalised_weights() -> None:
    found = recovers(Recurrent(), words(), {"out.bias"})
    assert sizes(found) == [4, 4, 4, 4, 6]  # each layer and direction; the embedding


def test_a_group_is_told_by_where_it_is() -> None:
    found = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)), images(2))
    assert [found.groups[g].place for g in found.free] == ["1.weight axis 0"]
    pinned = trace(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(3, 4), pinned=["0.bias"])
    assert not pinned.free  # what keeps its order keeps it for all that shares it


class Branches(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.step = nn.Linear(4, 6), nn.Linear(6, 2), step

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.step(self.one(x)))


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).abs()


def test_what_cannot_be_followed_is_named() -> None:
    with pytest.raises(UntraceableError, match=r"the operation _fft_r2c .* \(in step\)"):
        trace(Branches(Fourier()), torch.zeros(3, 4))
    with pytest.raises(UntraceableError, match=r"torch.export cannot follow it"):
        trace(Branches(lambda x: x if x.sum() > 0 else -x), torch.zeros(3, 4))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.cumsum(-1),
        lambda x: x.flip(-1),
        lambda x: x * torch.arange(6.0),
        lambda x: x.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6) + x,
    ],
    ids=["cumsum", "flip", "by place", "two orders at once"],
)
def test_where_the_order_counts_it_stays(step: Callable[[Tensor], Tensor]) -> None:
    found = trace(Branches(step), torch.zeros(3, 4))
    module = randomise(Branches(step))
    x = torch.randn(3, 4)
    moved = with_tensors(module, found.apply(tensors_of(module), found.random(np.random.default_rng(3))))
    assert torch.allclose(module(x), moved(x), atol=1e-5)
    assert max(sizes(found) or [0]) < 6


class Language(nn.Module):
    """A decoder as language models have them: rotary places, heads that share keys, a gate, a tied embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.scale = nn.Embedding(7, 8), nn.Parameter(torch.ones(8))
        self.q, self.k, self.v = (nn.Linear(8, n, bias=False) for n in (16, 8, 8))
        self.out = nn.Linear(16, 8, bias=False)
        self.gate, self.up, self.down = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 8)
        self.register_buffer("angles", torch.rand(5, 4), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-second, first], -1) * self.angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        n, t, _ = x.shape
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        q, k, v = (layer(y).view(n, t, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (z[:, :, None].expand(n, 2, 2, t, 4).reshape(n, 4, t, 4) for z in (self.turned(k), v))
        y = F.scaled_dot_product_attention(self.turned(q), k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, 16))
        return F.linear(x + self.down(F.silu(self.gate(x)) * self.up(x)), self.embedding.weight)


class Biased(nn.Module):
    """Attention whose heads are told apart by a constant: they keep their places, and the units within them do not."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.qkv, self.out, self.head = (nn.Linear(a, b) for a, b in ((5, 12), (12, 36), (12, 12), (12, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        n, t, width = x.shape
        q, k, v = (z.view(n, t, 4, 3).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        a = q @ k.transpose(2, 3) - torch.arange(1.0, 5.0)[:, None, None] * torch.arange(float(t))
        return self.head((x + self.out((a.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width))).mean(1))


@pytest.mark.stress
def test_what_language_models_have() -> None:
    found = recovers(Language(), torch.arange(10).view(2, 5) % 7, set())
    assert sizes(found) == [2, 8, 10]  # heads of keys; the stream; the gate
    assert sizes(found, inner=True) == [2, 4]  # the heads that share one of keys; the units of its values
    found = recovers(Biased(), torch.randn(2, 6, 5), {"head.bias"})
    assert (sizes(found), sizes(found, inner=True)) == ([12], [3, 3])


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    sized = {"image_size": 64} if name == "vit_b_16" else {}
    return getattr(models, name)(weights=None, num_classes=10, **sized)


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("vgg11_bn", "classifier.6"),
        ("mobilenet_v2", "classifier.1"),
        ("densenet121", "classifier"),
        ("vit_b_16", "heads.head"),
        ("shufflenet_v2_x0_5", "fc"),
        ("resnext50_32x4d", "fc"),
        ("efficientnet_b0", "classifier.1"),
        ("convnext_tiny", "classifier.2"),
        ("swin_t", "head"),
    ],
)
def test_networks_of_torchvision(name: str, head: str) -> None:
    torch.manual_seed(0)
    recovers(_torchvision(name), images(64)[:2], {f"{head}.bias"})
