"""Networks by spec go the whole road: trained, joined by a curve, traced, swept at two points, exported, reloaded."""

from __future__ import annotations

import json
import os
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mgraph
from mgraph.architectures.loading import build_network
from mgraph.architectures.stems import HAVE_ONE
from mgraph.builtin import ARCHITECTURES
from mgraph.calling import call, chosen
from mgraph.errors import InputError
from mgraph.methods.llpf.groups import phases_of
from mgraph.network.order import execution_order

WORDS = """
import numpy as np

import mgraph


def words():
    rng = np.random.default_rng(0)

    def split(count):
        return (rng.integers(5, size=(count, 1)) + np.arange(7)) % 5

    return mgraph.tasks.language_model(train=split(8), valid=split(4), test=split(4), vocabulary=5)
"""


def images(directory: Path, side: int) -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 8), ("valid", 2), ("test", 4)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 2
    np.savez(directory / "tiny.npz", **arrays)
    return f"npz:{directory / 'tiny.npz'}"


def travel(directory: Path, arch: str, data: str) -> None:
    """Take a network along the road, and compare what its exported mode computes."""
    g = mgraph.create(directory / "g.mgraph", arch=arch, data=data, device="cpu")
    for seed, name in enumerate("ab"):
        g.train(name=name, seed=seed, epochs=1, batch_size=4, lr=0.01)
    curve = g.connect("a", "b", method=mgraph.BezierCurve(epochs=1, batch_size=4, lr=0.01), name="c", grid=2)
    assert curve.describe()["status"] == "complete"
    swept = curve.swept().values["test", "loss"]
    assert swept.shape == (2,)
    assert np.isfinite(swept).all()
    task = g.session.workspace(g.session.space()).task
    x, y = next(task.test.batches(4))
    network = build_network(arch, input_shape=task.input_shape, classes=task.classes, seed=5)
    layers, idle = execution_order(network, x)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name for layer in layers for name in layer.parameters} == trained
    assert phases_of("fdf", layers, idle, 8)[-1].parameters == trained
    state = network.state_dict()  # which says versions of modules, as MNASNet wants to be told
    loaded = load_file(g.node("a").export(directory / "a.safetensors"))
    assert loaded.keys() <= state.keys()
    state.update(loaded)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, torch.nan)  # so that none is left out
    network.load_state_dict(state)
    with torch.no_grad():
        loss = task.loss(chosen(call(network.eval(), x), task.outputs), y)
    assert float(loss) == pytest.approx(g.node("a").evaluate("test")["loss"].value, rel=1e-5)


ARCHETYPES = {
    "residual with BatchNorm": ("cifarresnet?depth=8&width=0.25", 16),
    "convolutions and pooling, as VGG": ("cnn?channels=4,8,8&hidden=16,16", 8),
    "vision transformer": ("vit?depth=2&dim=12", 8),
    "depthwise": ("torchvision:mobilenet_v3_small?stem=cifar&width_mult=0.1", 8),
    "recurrent": ("lstm?width=6&tied=false", 0),
    "tied language model": ("lstm?width=6&layers=1&dropout=0.2", 0),
}


# The tied one is recurrent, too, the residual one has convolutions, and a tiny BERT has attention.
LESS = ("recurrent", "vision transformer", "depthwise", "convolutions and pooling, as VGG")


@pytest.mark.parametrize(
    ("arch", "side"),
    [pytest.param(*given, id=name, marks=[pytest.mark.stress] * (name in LESS)) for name, given in ARCHETYPES.items()],
)
def test_archetypes_go_the_whole_road(arch: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.py").write_text(WORDS)
    travel(tmp_path, arch, images(tmp_path, side) if side else "words.py:words")


TEXTS = """
import numpy as np


def texts():
    rng = np.random.default_rng(0)

    def split(count):
        ids = rng.integers(5, size=(count, 6))
        mask = (np.arange(6) < rng.integers(2, 7, size=(count, 1))).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}, ids[:, 0] % 2

    return {"train": split(8), "valid": split(4), "test": split(4)}
"""
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 5}


@pytest.mark.xdist_group("transformers")
def test_a_tiny_bert_goes_the_whole_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its kind and values, and by a directory; the graph names that relative to itself."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.py").write_text(TEXTS)
    arch = "hf:bert?" + "&".join(f"{key}={value}" for key, value in TINY.items())
    travel(tmp_path, arch, "texts.py:texts")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"x": "y.z"}} | TINY))
    g = mgraph.create("other.mgraph", arch="hf:./model", data="texts.py:texts", device="cpu")
    assert g.session.space().arch == "hf:../model"
    state = mgraph.open("g.mgraph", device="cpu").node("a").state_dict()
    assert {k: v.shape for k, v in g.train(epochs=1, name="a").state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    for spec, says in (
        ("hf:brt", "no kind of network 'brt'; did you mean 'bert'"),
        ("hf:bert?hiden_size=3", "did you mean 'hidden_size'"),
        ("hf:bert?task=reading", "hf has no task 'reading'; there are sequence-classification"),
        ("hf:bert?task=image-classification", "hf:bert has no network for image-classification"),
        ("hf:./none", "none/config.json cannot be read"),
        ("hf:texts.py/x.json", "cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            build_network(spec, input_shape={"input_ids": (6,)}, classes=2, seed=0)


@pytest.mark.parametrize(
    "param", ["attn_implementation=a/b", "_name_or_path=x", "auto_map=x", "trust_remote_code=true"]
)
def test_no_parameter_of_a_configuration_runs_or_fetches(monkeypatch: pytest.MonkeyPatch, param: str) -> None:
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace())
    with pytest.raises(InputError, match=f"made freshly initialised; leave out {param.partition('=')[0]}"):
        build_network(f"hf:bert?{param}", input_shape=(6,), classes=2, seed=0)


def test_transformers_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'mgraph\[hf\]'"):
        build_network("hf:bert", input_shape=(6,), classes=2, seed=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'mgraph\[peft\]'"):
        build_network("peft:base", input_shape=(6,), classes=2, seed=0)


BUILT_IN = (
    *("mlp?hidden=8", "cnn", "cnn?bn=true", "lenet5", "convfc?width=0.02", "cifarresnet", "preresnet?depth=20"),
    *("preresnet?depth=20&block=bottleneck", "preresnet?depth=164", "wrn?depth=10&width=2&dropout=0.3", "vit?depth=2"),
    *("torchvision:vgg11?stem=cifar", "torchvision:vgg11_bn?stem=cifar"),
    *("vit?depth=2&dropout=0.1", "cct?depth=2", "cct?depth=1&convs=2&kernel=5", "lstm", "lstm?layers=3&dropout=0.5"),
)


def test_every_built_in_is_among_them() -> None:
    beside = {"toy", "timm", "hf", "peft"}  # a landscape, and what need not be installed
    assert {arch.partition("?")[0].partition(":")[0] for arch in BUILT_IN} | beside == set(ARCHITECTURES)


@pytest.mark.stress
@pytest.mark.parametrize("arch", BUILT_IN)
def test_built_ins_go_the_whole_road(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.py").write_text(WORDS)
    travel(tmp_path, arch, "words.py:words" if arch.startswith("lstm") else images(tmp_path, 32))


def sampled(count: int) -> list[str]:
    """Names of torchvision's networks of at most 30 million parameters; MGRAPH_ARCH_SEED draws others."""
    from torchvision import models

    names = models.list_models(module=models)
    sizes = {name: next(iter(models.get_model_weights(name))).meta["num_params"] for name in names}
    small = [name for name in names if sizes[name] <= 30e6]
    return random.Random(os.environ.get("MGRAPH_ARCH_SEED", "0")).sample(small, count)


@pytest.mark.stress
@pytest.mark.parametrize("number", range(5))
@pytest.mark.filterwarnings("ignore::mgraph.session.meeting.NetworkWarning")
@pytest.mark.filterwarnings("ignore::mgraph.operations.endcheck.EndsDifferWarning")  # statistics of two steps
def test_a_sample_of_torchvision_goes_the_whole_road(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = sampled(5)[number]
    none = ("alexnet", "convnext", "googlenet", "inception", "maxvit", "squeezenet")
    assert all(kind not in HAVE_ONE.lower() for kind in none)
    if name.startswith(none):
        travel(tmp_path, f"torchvision:{name}", images(tmp_path, 224))
    else:
        travel(tmp_path, f"torchvision:{name}?stem=cifar", images(tmp_path, 32))


def sampled_of_timm(count: int) -> list[str]:
    """Names of networks of timm of at most 10 million parameters that take 224×224; MGRAPH_ARCH_SEED draws others."""
    import timm

    names = timm.list_models()
    random.Random(os.environ.get("MGRAPH_ARCH_SEED", "0")).shuffle(names)
    found: list[str] = []
    for name in names:
        config = timm.get_pretrained_cfg(name)
        if config is None or config.input_size != (3, 224, 224):
            continue
        with torch.device("meta"):
            try:
                size = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
            except (NotImplementedError, RuntimeError, ValueError):  # some compute with their weights as they are made
                continue
        found += [name] if size <= 10e6 else []
        if len(found) == count:
            break
    return found


@pytest.mark.stress
@pytest.mark.parametrize("number", range(3))
@pytest.mark.filterwarnings("ignore::mgraph.session.meeting.NetworkWarning")
@pytest.mark.filterwarnings("ignore::mgraph.operations.endcheck.EndsDifferWarning")  # statistics of two steps
def test_a_sample_of_timm_goes_the_whole_road(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    travel(tmp_path, f"timm:{sampled_of_timm(3)[number]}", images(tmp_path, 224))
