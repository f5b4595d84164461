"""Networks of transformers, and LoRA adapters on them; all that imports transformers, for that takes seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mgraph
from mgraph.errors import InputError

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft itself

TINY = "hidden_size=8&num_hidden_layers=1&num_attention_heads=2&intermediate_size=16&max_position_embeddings=12"
BERT = f"hf:bert?task=causal-lm&is_decoder=true&{TINY}"
LORA = "peft:base?task=causal-lm&r=2&alpha=6&targets=query,value"
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.05}


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
            fine.train(name=name, seed=seed, **QUICK)
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
        buffers = reader.all(mgraph_store().NodeBuffers)
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


def mgraph_store() -> Any:
    import mgraph_store

    return mgraph_store


@pytest.mark.parametrize(
    "method", [mgraph.NudgedElasticBand(cycles=("2x4@0.05",)), mgraph.LLPF(ticks=4, max_steps=20)], ids=["neb", "llpf"]
)
def test_adapters_are_joined_and_swept(g: Any, method: Any) -> None:
    made = g.connect("a", "b", method=method, grid=3)
    assert made.describe()["edges"]


def test_a_merged_adapter_is_loaded_by_peft(g: Any, folder: Path) -> None:
    import transformers

    joined = g.connect("a", "c", method=mgraph.BezierCurve(**QUICK), grid=3)
    merged = joined.merge(at=[0.5], force=True, name="m")
    for point in (g.node("a"), merged):
        directory = point.export(folder / f"adapter-{point.name}")
        assert sorted(p.name for p in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        base = transformers.AutoModelForCausalLM.from_pretrained("base")
        loaded = peft.PeftModel.from_pretrained(base, str(directory))
        assert torch.equal(answers(loaded), answers(point.model()))
        assert not torch.allclose(answers(loaded), answers(loaded.unload()), atol=1e-4)
    with pytest.raises(InputError, match="exists already"):
        merged.export(folder / "adapter-m")
    merged.export(folder / "adapter-m", overwrite=True)


def test_an_adapter_comes_back_in(g: Any, folder: Path) -> None:
    a = g.node("a")
    directory = a.export(folder / "back")
    with pytest.warns(mgraph.operations.modes.SimilarModeWarning, match="the same checkpoint twice"):
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
