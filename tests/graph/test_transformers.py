"""Networks of transformers, and LoRA adapters on them: what imports these libraries, which takes seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mgraph
from mgraph.architectures.loading import build_network
from mgraph.errors import InputError, NotFoundError
from mgraph.network.layout import layout_of
from mgraph.operations.modes import SimilarModeWarning
from mgraph.session.meeting import NetworkWarning
from mgraph_store import NodeBuffers

pytestmark = [  # nothing is imported here: every process collects these tests, and one runs them
    pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed"),
    pytest.mark.xdist_group("transformers"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # of peft itself
]

TINY = (
    "hidden_size=8&num_hidden_layers=1&num_attention_heads=2&intermediate_size=16&max_position_embeddings=12"
    "&initializer_range=0.3"
)
BERT = f"hf:bert?task=causal-lm&is_decoder=true&{TINY}"
LORA = "peft:base?task=causal-lm&r=2&alpha=6&targets=query,value"
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.05}
FINE: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.1, "optimizer": "adamw"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text, a tiny BERT trained on it and exported, and a graph of adapters of that on another."""
    directory = tmp_path_factory.mktemp("adapters")
    for name, line in (("text", "abcd" * 3), ("other", "dacb" * 3)):
        (directory / name).mkdir()
        for split, count in (("train", 12), ("valid", 4), ("test", 4)):
            (directory / name / f"{split}.txt").write_text(line * count)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        g = mgraph.create("words.mgraph", arch=BERT, data="text:text?level=char&length=8", device="cpu")
        g.train(name="a", **QUICK).export("base")
        fine = mgraph.create("g.mgraph", arch=LORA, data="text:other?level=char&length=8", device="cpu")
        for seed, name in enumerate("abcd"):
            fine.train(name=name, seed=seed, **FINE)
    return directory


@pytest.fixture
def g(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    return mgraph.open("g.mgraph", device="cpu")


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(16).reshape(2, 8) % 4).logits


def bytes_in(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_the_base_is_stored_once(g: Any) -> None:
    """Four adapters share one object; a node is the adapter alone, and a curve and a surface cost no more than that."""
    space = g.session.space()
    layout = g.session.workspace(space).layout
    with g.session.store.reading() as reader:
        buffers = reader.all(NodeBuffers)
    assert len(buffers) == 4
    assert len({b.tensor_key for b in buffers}) == 1
    assert {t.role for t in layout.buffers} == {"frozen"}
    assert all("lora_" in t.name for t in layout.parameters)
    adapter, base = 4 * layout.size, buffers[0].nbytes
    assert base > 8 * adapter
    before = bytes_in(g.path / "tensors.zarr")
    g.connect("a", "b", method=mgraph.BezierCurve(**QUICK), name="curve", grid=3)
    g.connect("a", "b", "c", "d", method=mgraph.BezierSurface(degree=(1, 2), **QUICK), name="surface", grid=2)
    assert bytes_in(g.path / "tensors.zarr") - before < 6 * adapter + 20_000  # and what files cost


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(mgraph.NudgedElasticBand(cycles=("2x4@0.05",)), id="neb", marks=pytest.mark.stress),
        pytest.param(mgraph.LLPF(ticks=4, max_steps=20), id="llpf"),
    ],
)
def test_adapters_are_joined_and_swept(g: Any, method: Any) -> None:
    made = g.connect("a", "b", method=method, grid=3)
    assert made.describe()["edges"]


def test_a_merged_adapter_is_loaded_by_peft(g: Any, folder: Path) -> None:
    import peft
    import transformers

    joined = g.connect("a", "c", method=mgraph.BezierCurve(**QUICK), grid=3)
    joined.merge(at=[0.5], force=True, name="m")
    for point in (g.node("a"), g.node("m")):
        directory = point.export(folder / f"adapter-{point.name}").path
        assert sorted(p.name for p in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        base = transformers.AutoModelForCausalLM.from_pretrained("base")
        loaded = peft.PeftModel.from_pretrained(base, str(directory))
        assert torch.equal(answers(loaded), answers(point.model()))
        assert not torch.allclose(answers(loaded), answers(loaded.unload()), atol=1e-2)
    with pytest.raises(InputError, match="exists already"):
        g.node("m").export(folder / "adapter-m")
    g.node("m").export(folder / "adapter-m", overwrite=True)


TEXTS = """
import numpy as np
from pathlib import Path

def texts(directory):
    \"\"\"Texts of a directory, pos.txt and neg.txt, one a line: which of the two a line is from.\"\"\"
    read = {label: (Path(directory) / f"{name}.txt").read_text().split() for label, name in enumerate(("neg", "pos"))}
    lines = sorted((line, label) for label, found in read.items() for line in found)
    ids = np.zeros((len(lines), 6), np.int64)
    for row, (line, _) in zip(ids, lines):
        row[: len(line)] = [1 + "abcd".index(letter) for letter in line]
    x, y = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, np.array([label for _, label in lines])
    cut = {"train": slice(0, None, 2), "valid": slice(1, None, 4), "test": slice(3, None, 4)}
    return {name: ({k: v[part] for k, v in x.items()}, y[part]) for name, part in cut.items()}
"""


@pytest.fixture(scope="module")
def judges(folder: Path) -> Path:
    """Two adapters that tell texts of a directory apart, on the same base: it has no head, nor a pooler."""
    (folder / "lines").mkdir()
    rng = np.random.default_rng(0)
    for name, letters in (("pos", "ab"), ("neg", "cd")):
        lines = ["".join(rng.choice(list(letters), rng.integers(2, 7))) for _ in range(24)]
        (folder / "lines" / f"{name}.txt").write_text("\n".join(lines))
    (folder / "texts.py").write_text(TEXTS)
    config = json.loads((folder / "base" / "config.json").read_text())
    shutil.copytree(folder / "base", folder / "encoder")  # as a language model's weights serve a classifier
    (folder / "encoder" / "config.json").write_text(json.dumps(config | {"is_decoder": False, "vocab_size": 5}))
    grown = dict(load_file(folder / "base" / "model.safetensors"))
    for key in [key for key in grown if key.startswith("cls.")]:
        del grown[key]
    words = "bert.embeddings.word_embeddings.weight"
    grown[words] = torch.cat([torch.zeros(1, grown[words].shape[1]), grown[words]])
    save_file(grown, folder / "encoder" / "model.safetensors", {"format": "pt"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        g = mgraph.create("judges.mgraph", arch="peft:encoder?r=2", data="texts.py:texts?directory=lines", device="cpu")
        for seed, name in enumerate("ab"):
            g.train(name=name, seed=seed, **FINE)
    return folder


def test_what_the_base_lacks_belongs_to_the_adapter(judges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new head is drawn from the seed and trained whole; what peft keeps beside it is the same in all modes."""
    import peft
    import transformers

    monkeypatch.chdir(judges)
    g = mgraph.open("judges.mgraph", device="cpu", trust=True)
    layout = g.session.workspace(g.session.space()).layout
    whole = {t.name.split(".modules_to_save.")[0] for t in layout.parameters if "lora_" not in t.name}
    assert whole == {"base_model.model.bert.pooler.dense", "base_model.model.classifier"}
    g.connect("a", "b", method=mgraph.BezierCurve(**QUICK), name="curve", grid=3)
    g.connection("curve").merge(at=[0.5], force=True, name="m")
    merged = g.node("m")
    base = transformers.AutoModelForSequenceClassification.from_pretrained("encoder")
    loaded = peft.PeftModel.from_pretrained(base, str(merged.export(judges / "judge"))).eval()
    x, y = next(g.session.workspace(g.session.space()).task.test.batches(100))
    with torch.no_grad():
        right = (loaded(**x).logits.argmax(1) == y).double().mean()
    assert merged.evaluate("test")["accuracy"].value == pytest.approx(float(right))
    again = g.add_mode(judges / "judge", name="back")
    assert again.record.digest == merged.record.digest


@pytest.mark.stress
def test_the_walk_through_adapters_in_the_docs(judges: Path) -> None:
    """Run it as it stands there, with the encoder for its network and the texts above for its data."""
    import peft
    import transformers

    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()
    (walk,) = re.findall(r"```sh\n(mgraph init g\.mgraph --arch \"peft:.*?)```", page, re.DOTALL)
    directory = judges / "walk"
    shutil.copytree(judges / "encoder", directory / "bert")
    shutil.copytree(judges / "lines", directory / "lines")
    (directory / "texts.py").write_text(TEXTS.replace("(directory)", '(directory="lines")', 1))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "MGRAPH_CONFIG_DIR": str(directory / "config")}
    done = subprocess.run(["bash", "-ec", walk], cwd=directory, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    base = transformers.AutoModelForSequenceClassification.from_pretrained(directory / "bert")
    merged = peft.PeftModel.from_pretrained(base, str(directory / "adapter"))
    assert {name for name, _ in merged.named_modules() if name.endswith("lora_A.default")}


def test_a_head_for_other_labels_is_made_anew(judges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judges)
    judge = mgraph.open("judges.mgraph", device="cpu", trust=True).node("a").model()
    whole = judge.merge_and_unload()
    whole.save_pretrained("two-labels")
    build = partial(build_network, "peft:two-labels?r=2", input_shape={"input_ids": (6,), "attention_mask": (6,)})
    (three, again, two) = (build(classes=classes, seed=seed) for classes, seed in ((3, 0), (3, 1), (2, 0)))
    head = "base_model.model.classifier.{}.weight"
    trained = head.format("modules_to_save.default")
    assert three.state_dict()[trained].shape == (3, 8)
    assert not torch.equal(three.state_dict()[trained], again.state_dict()[trained])
    assert not three.state_dict()[head.format("original_module")].any()
    assert torch.equal(two.state_dict()[trained], whole.classifier.weight)


def test_another_base_is_noticed(judges: Path, monkeypatch: pytest.MonkeyPatch, commands: Any) -> None:
    """Other weights in its directory would make another function of every adapter; a directory may be gone, too."""
    monkeypatch.chdir(judges)
    shutil.copytree("judges.mgraph", "copy.mgraph")
    shutil.copytree("encoder", "foreign")
    run = commands(judges)
    Path("encoder").rename("moved")
    told = run("train", "--graph", "copy.mgraph", "--trust", "--epochs", 1, code=2).stderr
    assert "mgraph relocate encoder-texts --arch 'peft:NEW/encoder?r=2'" in " ".join(told.split())
    run("relocate", "encoder", "moved", "--graph", "copy.mgraph")
    g = mgraph.open("copy.mgraph", device="cpu", trust=True)
    assert g.session.space().arch == "peft:../moved?r=2"
    assert g.node("a").model() is not None
    changed = dict(load_file("foreign/model.safetensors"))
    changed["bert.embeddings.LayerNorm.weight"] += 0.5
    save_file(changed, "foreign/model.safetensors", {"format": "pt"})
    run("relocate", "moved", "foreign", "--graph", "copy.mgraph")
    with pytest.raises(
        InputError, match=r"The base of peft:\.\./foreign\?r=2, .* is not what space encoder-texts was made w"
    ):
        mgraph.open("copy.mgraph", device="cpu", trust=True).node("a").model()
    Path("moved").rename("encoder")


def test_a_bundle_of_adapters_holds_their_base(judges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judges)
    g = mgraph.open("judges.mgraph", device="cpu", trust=True)
    g.pack("b", "a", path="two.zip")
    mgraph.unpack("two.zip", "theirs.mgraph", device="cpu")
    weights = load_file("encoder/model.safetensors")
    Path("encoder").rename("away")
    try:
        theirs = mgraph.open("theirs.mgraph", device="cpu", trust=True)
        state = theirs.node("a").state_dict()
        name = "bert.embeddings.LayerNorm.weight"
        assert torch.equal(state[f"base_model.model.{name}"], weights[name])
        with pytest.raises(NotFoundError, match=r"encoder/config\.json cannot be read"):
            theirs.node("a").model()
    finally:
        Path("away").rename("encoder")


def test_a_space_can_have_the_settings_of_an_adapter(g: Any, folder: Path) -> None:
    """Its directory names its base; or the spec does, where the base has moved."""
    directory = g.node("a").export(folder / "settings").path
    config = json.loads((directory / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).is_absolute()
    build = partial(build_network, input_shape=(8,), classes=4, seed=3)
    assert layout_of(build(f"peft:{directory}")) == layout_of(build(LORA))
    (directory / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone"}))
    with pytest.raises(NotFoundError, match=r"is for 'gone', which is not a directory here; .*\?base=DIR"):
        build(f"peft:{directory}")
    network = build(f"peft:{directory}?base=base")
    assert network.peft_config["default"].lora_alpha == 6
    assert network.peft_config["default"].r == 2
    for given, says in (
        ({"peft_type": "IA3"}, "of the kind IA3; only LORA is taken"),
        ({"layer_replication": [[0, 1]]}, "sets layer_replication, which is not taken"),
        ({"megatron_config": {"a": 1}}, "sets megatron_config, which is not taken"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa changes the base, which all points share"),
    ):
        (directory / "adapter_config.json").write_text(json.dumps(config | given))
        with pytest.raises(InputError, match=says):
            build(f"peft:{directory}")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("peft:base?task=causal-lm&rank=2", "has no parameter 'rank'.* it has task"),
        ("peft:base?task=causal-lm&megatron_core=os", "has no parameter 'megatron_core'"),
        ("peft:base?task=causal-lm&targets=nowhere", "cannot put adapters on .*base: Target modules .*not found"),
        ("peft:base?task=reading", "peft has no task 'reading'"),
        ("peft:base?task=image-classification", "has no network for image-classification"),
        ("peft:nowhere", "nowhere/config.json cannot be read: .*directory of a network of transformers, or of an ad"),
        ("peft:bare?task=causal-lm", "weights of the base .*bare cannot be read"),
        ("peft:base?task=causal-lm&base=bare", "holds no adapter"),
        ("peft:quantised", "is quantised"),
        ("peft:larger?task=causal-lm", r"have bert\.embeddings\.\S+ of shape \[8\], and its configuration says \[16\]"),
        ("peft:base?task=causal-lm&classes=7", "knows 4 tokens, and the data have 7; they must be the same tokens"),
    ],
)
def test_what_cannot_be_adapted_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str) -> None:
    monkeypatch.chdir(folder)
    if spec.startswith("peft:larger") and not Path("larger").exists():
        shutil.copytree("base", "larger")
        grown = json.loads(Path("base/config.json").read_text()) | {"hidden_size": 16}
        Path("larger/config.json").write_text(json.dumps(grown))
    config = json.loads((folder / "base" / "config.json").read_text())
    for name, further in (("bare", {}), ("quantised", {"quantization_config": {"load_in_4bit": True}})):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config | further))
    with pytest.raises((InputError, NotFoundError), match=says):
        build_network(spec, input_shape=(8,), classes=4, seed=0)


def test_adapters_of_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any factory may return one; its base is the same in every build."""
    import peft

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    g = mgraph.create("g.mgraph", arch="own.py:adapted", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        g.train(name=name, seed=seed, epochs=1, optimizer="adamw", lr=0.01)
    own: dict[str, Any] = {}
    exec(compile(OWN, "own.py", "exec"), own)
    loaded = peft.PeftModel.from_pretrained(own["base"](), str(g.node("a").export("adapter")))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded.eval()(x), g.node("a").model()(x))
    assert g.connect("a", "b", method=mgraph.Linear(), grid=2).describe()["edges"]
    with pytest.raises(InputError, match=r"PeftModel has lora_alpha=4, and the network of this space lora_alpha=8"):
        g.add_mode(peft.get_peft_model(own["base"](), peft.LoraConfig(target_modules=["1", "3"], r=2, lora_alpha=4)))


OWN = """
import torch
from torch import nn


def base():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def adapted():
    import peft

    return peft.get_peft_model(base(), peft.LoraConfig(target_modules=["1", "3"], r=2))
"""


PHOTOS = """
import numpy as np


def photos():
    x = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)
    return {"train": (x, np.arange(12) % 2), "test": (x[:4], np.arange(4) % 2)}


def adapted():
    import peft
    from torch import nn

    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)
    for parameter in (network := nn.Sequential(*layers)).parameters():
        nn.init.constant_(parameter, 0.1)
    return peft.get_peft_model(network, peft.LoraConfig(target_modules=["0", "3"], r=1))
"""


def test_running_statistics_of_a_base_stay_in_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter's file has no place for others; where they move all the same, none is written."""
    import peft
    import transformers

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PHOTOS)
    shape: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**shape)).save_pretrained("seer")
    seer = "peft:seer?task=image-classification&r=1&targets=convolution"
    with pytest.warns(NetworkWarning, match="keeps the running statistics of module .* frozen in training"):
        g = mgraph.create("g.mgraph", arch=seer, data="own.py:photos")
    for seed, name in enumerate("ab"):
        g.train(name=name, seed=seed, **QUICK)
    with g.session.store.reading() as reader:
        assert len({buffers.tensor_key for buffers in reader.all(NodeBuffers)}) == 1
    merged = g.connect("a", "b", method=mgraph.Linear(), grid=2).merge(at=0.5, force=True).node
    base = transformers.AutoModelForImageClassification.from_pretrained("seer")
    loaded = peft.PeftModel.from_pretrained(base, str(g.node(merged.id).export("eye")))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x).logits, g.node(merged.id).model()(x).logits)
    a = mgraph.create("own.mgraph", arch="own.py:adapted", data="own.py:photos").train(name="a", **QUICK)
    with pytest.raises(InputError, match=r"a has learnt base_model\.model\.1\.running_mean, which is not in its base"):
        a.export("adapter")


@pytest.mark.stress  # one with a new head does in every run
def test_an_adapter_comes_back_in(g: Any, folder: Path) -> None:
    a = g.node("a")
    directory = a.export(folder / "back").path
    with pytest.warns(SimilarModeWarning, match="the same checkpoint twice"):
        again = g.add_mode(directory)
    assert again.record.digest == a.record.digest
    assert any(note.startswith("absent, the network's own constants kept") for note in again.notes)


def test_an_adapter_of_another_scale_is_refused(g: Any, folder: Path) -> None:
    """Its tensors have the same shapes, and would compute something else."""
    directory = shutil.copytree(g.node("a").export(folder / "scale"), folder / "scaled")
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    with pytest.raises(InputError, match="has lora_alpha=8, and the network of this space lora_alpha=6"):
        g.add_mode(directory)
    (directory / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(InputError, match="is an adapter of the kind IA3, the space's is LORA"):
        g.add_mode(directory)
    with pytest.raises(InputError, match="is an adapter of peft, and the network of this space has none"):
        mgraph.open("words.mgraph", device="cpu").add_mode(directory)


@pytest.mark.stress
@pytest.mark.parametrize(
    "method",
    [
        mgraph.BezierCurve(**QUICK),
        mgraph.NudgedElasticBand(cycles=("2x4@0.05",)),
        mgraph.LLPF(ticks=4, max_steps=20),
    ],
    ids=["curve", "neb", "llpf"],
)
def test_a_tiny_bert_on_a_text_goes_the_whole_road(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    import transformers

    monkeypatch.chdir(folder)
    shutil.copytree("words.mgraph", tmp_path / "words.mgraph")
    (tmp_path / "text").symlink_to(folder / "text")
    g = mgraph.open(tmp_path / "words.mgraph", device="cpu")
    g.train(name="b", seed=1, **QUICK)
    g.connect("a", "b", method=method, name="ab", grid=3).merge(at=[0.5], force=True, name="m")
    merged = g.node("m")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(merged.export(tmp_path / "merged")).eval()
    x, y = next(g.session.workspace(g.session.space()).task.test.batches(100))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(loaded(x).logits.flatten(0, 1), y.flatten())
    assert merged.evaluate("test")["loss"].value == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore")  # of the libraries, on whatever they announce
def test_the_trainer_of_transformers_records_and_its_directory_comes_in(g: Any, folder: Path) -> None:
    pytest.importorskip("accelerate")
    import transformers

    network = g.session.workspace(g.session.space()).new_module(9)
    x, _ = next(g.session.workspace(g.session.space()).task.train.batches(12))
    data = [{"input_ids": one, "labels": one} for one in x]
    recorder = mgraph.Recorder(g, name="t", every=1)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "output"), num_train_epochs=2, save_strategy="epoch", use_cpu=True, report_to=[]
    )
    transformers.Trainer(network, arguments, train_dataset=data, callbacks=[recorder.huggingface()]).train()
    assert [point.name for point in recorder.points] == ["t-1", "t-2", "t"]
    last = sorted((folder / "output").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))[-1]
    assert {"adapter_model.safetensors", "optimizer.pt", "training_args.bin"} <= {p.name for p in last.iterdir()}
    assert g.add_mode(last, name="from-its-directory").digest == g.node("t").digest
