"""Architectures by spec: their exact size, their seed, and what they refuse."""

import inspect
import sys
import types

import pytest
import torch
from torch import nn

from mgraph.architectures.loading import build_network
from mgraph.builtin import ARCHITECTURES
from mgraph.errors import InputError, NotFoundError


def build(spec, shape=(1, 8, 8), classes=10, seed=0, **kwargs):
    return build_network(spec, input_shape=shape, classes=classes, seed=seed, **kwargs)


def size(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("spec", "shape", "parameters"),
    [
        ("mlp", (1, 8, 8), 64 * 256 + 256 + 256 * 256 + 256 + 2560 + 10),
        ("mlp?hidden=32", (1, 8, 8), 64 * 32 + 32 + 330),
        ("mlp?hidden=32&bn=true", (1, 8, 8), 64 * 32 + 32 + 64 + 330),
        ("mlp?hidden=", (5,), 60),
        ("cnn", (1, 8, 8), 13706),
        ("cnn?bn=true", (1, 8, 8), 13706 + 96),
        ("cnn?channels=4&hidden=8,6", (3, 9, 8), 4 * 27 + 4 + 8 * 64 + 8 + 54 + 70),
        ("lenet5", (1, 28, 28), 61706),
        ("lenet5", (3, 32, 32), 83126),
        ("torchvision:resnet18?stem=cifar", (3, 32, 32), 11173962),
        ("torchvision:resnet18", (3, 64, 64), 11181642),
        ("torchvision:squeezenet1_1", (1, 64, 64), 727626 - 2 * 64 * 9),
    ],
)
def test_sizes_and_outputs(spec, shape, parameters):
    network = build(spec, shape)
    assert size(network) == parameters
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_names_of_the_built_in_layers_stay():
    """Stored graphs find their tensors by these names."""
    names = [name for name, _ in build("cnn?bn=true").named_parameters()]
    assert names[:6] == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    assert names[-4:] == ["9.weight", "9.bias", "11.weight", "11.bias"]


def test_dropout_comes_after_the_convolutions():
    made = build_network("cnn?channels=4,8&dropout=0.3", input_shape=(1, 8, 8), classes=10, seed=0)
    assert [type(m).__name__ for m in made][6:8] == ["Dropout", "Flatten"]
    assert made[6].p == 0.3
    with pytest.raises(InputError, match="dropout of cnn must be at least 0 and below 1"):
        build_network("cnn?dropout=1", input_shape=(1, 8, 8), classes=10, seed=0)


def test_the_seed_alone_decides_and_nothing_else_is_touched():
    before = torch.get_rng_state()
    a = build("cnn", seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    b, c = build("cnn", seed=3).state_dict(), build("cnn", seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_classes_can_be_given():
    assert build("mlp?classes=1&hidden=4", classes=None)(torch.zeros(2, 1, 8, 8)).shape == (2, 1)
    with pytest.raises(InputError, match=r"mlp\?classes=1"):
        build("mlp", classes=None)
    with pytest.raises(InputError, match="at least 1"):
        build("mlp?classes=0")


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        ("cnm", (1, 8, 8), "did you mean 'cnn'.* there are mlp, cnn, lenet5, .*torchvision:NAME"),
        ("resnet18", (3, 32, 32), "did you mean 'torchvision:resnet18'"),
        ("ResNet-18", (3, 32, 32), "did you mean 'torchvision:resnet18'"),
        ("resnet20", (3, 32, 32), r"did you mean 'cifarresnet\?depth=20'"),
        ("WRN-28-10", (3, 32, 32), r"did you mean 'wrn\?depth=28&width=10'"),
        ("cnn?chanels=3", (1, 8, 8), "did you mean 'channels'.* it has channels, hidden, bn, dropout, classes"),
        ("cnn?channels=3,0", (1, 8, 8), "channels must be positive"),
        ("mlp?hidden=-1", (1, 8, 8), "hidden must be positive"),
        ("cnn?channels=1,2,3,4", (1, 8, 8), "8×8 are too small"),
        ("cnn", (64,), r"cnn needs images .* not \(64,\)"),
        ("lenet5", (1, 8, 8), "at least 12×12"),
        ("torchvision", (3, 8, 8), "write torchvision:NAME"),
        ("torchvision:resnet8", (3, 8, 8), "did you mean 'resnet18'"),
        ("torchvision:squeezenet1_1?stem=cifar", (3, 32, 32), "stem=cifar is for ResNet, ResNeXt"),
        ("torchvision:resnet18?stem=small", (3, 32, 32), "stem must be"),
        ("torchvision:resnet18?depth=3", (3, 32, 32), "cannot be built: TypeError.*depth"),
        ("torchvision:resnet18?weights=DEFAULT", (3, 32, 32), "made freshly initialised; leave out weights"),
        ("torchvision:../resnet18", (3, 32, 32), "has no network"),
        ("torchvision:get_model", (3, 32, 32), "has no network"),
    ],
)
def test_refused(spec, shape, says):
    with pytest.raises(InputError, match=says):
        build(spec, shape)


def test_further_parameters_reach_the_library():
    network = build("torchvision:mobilenet_v2?width_mult=0.25", (3, 32, 32))
    assert size(network) < size(build("torchvision:mobilenet_v2", (3, 32, 32))) / 5


def test_timm_if_installed():
    pytest.importorskip("timm")
    network = build("timm:resnet10t?drop_rate=0.5", (1, 32, 32), classes=7)
    assert network.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    with pytest.raises(NotFoundError, match="timm has no network"):
        build("timm:no_such_network")


def test_timm_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'mgraph\[timm\]'"):
        build("timm:resnet10t")


@pytest.mark.parametrize("name", ["hf-hub:org/net", "local-dir:net", "resnet18:x", "../resnet18", "os.system"])
def test_timm_makes_only_networks_of_its_own_list(monkeypatch, name):
    stand_in = types.SimpleNamespace(is_model=lambda name: name != "os.system", list_models=list)
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    with pytest.raises(NotFoundError, match="timm has no network"):
        build(f"timm:{name}")


@pytest.mark.parametrize("param", ["checkpoint_path=w.pth", "pretrained=true", "pretrained_cfg=x", "cache_dir=x"])
def test_no_parameter_reads_weights(monkeypatch, param):
    """A checkpoint is a pickle, and a spec may be a stranger's."""
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(is_model=lambda _: True, list_models=list))
    with pytest.raises(InputError, match=f"made freshly initialised; leave out {param.partition('=')[0]}"):
        build(f"timm:resnet18?{param}")


FACTORY = """
import torch
from torch import nn
def linear(in_channels, num_classes, scale=1.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 64, num_classes))
def shaped(input_shape, classes): return nn.Linear(input_shape[-1], classes)
def plain(width=3): return nn.Linear(width, width)
def words(): return "no network"
"""


def test_factories_get_what_they_name(tmp_path):
    (tmp_path / "m.py").write_text(FACTORY)
    assert build("m.py:linear?scale=2", base=tmp_path)[1].weight.shape == (10, 64)
    assert build("m.py:linear?num_classes=3", base=tmp_path)[1].weight.shape == (3, 64)
    assert build("m.py:shaped", base=tmp_path).weight.shape == (10, 8)
    first, second = (build("m.py:plain", base=tmp_path, seed=1) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(InputError, match=r"returned a str; .* nn\.Module"):
        build("m.py:words", base=tmp_path)
    with pytest.raises(InputError, match="no parameter 'widht'; did you mean 'width'"):
        build("m.py:plain?widht=3", base=tmp_path)


@pytest.mark.parametrize("entry", ARCHITECTURES.values(), ids=lambda e: e.name)
def test_registry_describes_the_functions(entry):
    signature = inspect.signature(entry.function())
    filled = {"input_shape", "classes"}
    defaults = {n: p.default for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and n not in filled}
    assert defaults == {p.name: p.default for p in entry.params if p.name != "classes"}
    assert any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()) is entry.further
    assert isinstance(build("mlp"), nn.Module)
