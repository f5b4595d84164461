"""Modes written by the loops and trainers of others."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import mgraph
from mgraph.errors import InputError, LayoutMismatchError, NameTakenError
from mgraph.graph.recorder import RecordedElsewhereWarning


@pytest.fixture
def g(tmp_path: Path) -> Any:
    return mgraph.create(tmp_path / "g.mgraph", arch="mlp?hidden=4,", data="digits", device="cpu")


def network_of(g: Any, seed: int = 7) -> torch.nn.Module:
    module: torch.nn.Module = g.session.workspace(g.session.space()).new_module(seed)
    return module.train()


def shake(network: torch.nn.Module) -> None:
    """A step of some training."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)


def test_a_plain_loop_leaves_a_trajectory(g: Any) -> None:
    """Every mode is what the network was at that moment; the loop's network and random numbers stay as they were."""
    network = network_of(g)
    recorder = mgraph.Recorder(g.path, name="run", every=2, device="cpu")
    seen = {}
    torch.manual_seed(3)
    for epoch in range(1, 6):
        shake(network)
        seen[f"run-{epoch}"] = {name: value.clone() for name, value in network.state_dict().items()}
        before = torch.get_rng_state()
        recorder.save(network, epoch)
        assert torch.equal(torch.get_rng_state(), before)
        assert network.training
    last = recorder.finish(network)
    assert last is not None
    assert [row["name"] for row in g.nodes(sort="created")] == ["run-2", "run-4", "run"]
    for name in ("run-2", "run-4"):
        assert all(torch.equal(v, seen[name][k]) for k, v in g.node(name).state_dict().items())
    infos = [g.node(name).describe()["info"] for name in ("run-2", "run-4", "run")]
    assert [info.get("epoch") for info in infos] == [2, 4, None]
    assert len({info["trajectory"] for info in infos}) == 1
    assert last.evaluate("test")["loss"].value > 0
    assert [point.name for point in recorder.points] == ["run-2", "run-4", "run"]


NAMES = {8: "one", 9: "three"}


@pytest.mark.stress  # the plain loop does, too, beside one
def test_it_writes_beside_others(g: Any) -> None:
    recorders = {mgraph.Recorder(g.path, name=name, device="cpu"): network_of(g, seed) for seed, name in NAMES.items()}
    for epoch in (1, 2):
        for recorder, network in recorders.items():
            g.train(epochs=1, seed=10 * epoch + len(recorder.name), name=f"{recorder.name}-own-{epoch}")
            shake(network)
            recorder.save(network.state_dict(), epoch)
    assert {row["name"] for row in g.nodes()} >= {"one-1", "one-2", "three-1", "three-2"}


@pytest.mark.filterwarnings("ignore::mgraph.operations.modes.SimilarModeWarning")
def test_names_are_looked_at_before_the_training(g: Any) -> None:
    network = network_of(g)
    late = mgraph.Recorder(g, name="run")
    mgraph.Recorder(g, name="run").save(network, 3)
    with pytest.raises(NameTakenError, match="There is a mode run-3 already"):
        mgraph.Recorder(g, name="run")
    mgraph.Recorder(g, name="runner")
    shake(network)
    with pytest.warns(RecordedElsewhereWarning, match=r"run-3 belongs to mode .* stored without a name"):
        point = late.save(network, 3)
    assert point is not None
    assert point.name is None
    with pytest.raises(InputError, match="every must be at least 1"):
        mgraph.Recorder(g, name="b", every=0)


def test_another_network_is_refused(g: Any) -> None:
    with pytest.raises(LayoutMismatchError):
        mgraph.Recorder(g, name="a").finish(torch.nn.Linear(64, 10))
    assert not g.nodes()


def test_only_the_first_process_writes(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = mgraph.Recorder(g, name="a")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert recorder.finish(network_of(g)) is None
    assert not g.nodes()


def test_parameters_that_are_spread_over_processes_are_refused_in_each(g: Any) -> None:
    """Gathering them in the one that writes would wait for the others for ever."""

    class FullyShardedDataParallel(torch.nn.Sequential):
        pass

    recorder = mgraph.Recorder(g, name="a")
    with pytest.raises(InputError, match=r"it is of FSDP\. Gather its full state dict"):
        recorder.finish(FullyShardedDataParallel(network_of(g)))
    network = network_of(g)
    next(network.parameters()).ds_id = 0  # as DeepSpeed marks its own
    with pytest.raises(InputError, match=r"spread over processes, first 1\.weight"):
        recorder.write(network, 1, first=False)


class Callback:
    """What those of the two libraries inherit from here, where they need not be installed."""


def test_the_callbacks_save_at_the_end_of_epochs(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.SimpleNamespace(Callback=Callback))
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(TrainerCallback=Callback))
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    network, other = network_of(g), network_of(g, 8)
    wrapped = torch.nn.ModuleDict({"model": other})  # as in a LightningModule
    theirs = mgraph.Recorder(g, name="l", every=2).lightning()
    trainer = types.SimpleNamespace(is_global_zero=True, current_epoch=0)
    hugging = mgraph.Recorder(g, name="h", every=1).huggingface()
    state = types.SimpleNamespace(is_world_process_zero=True, epoch=0.0)
    for epoch in range(3):
        shake(other)
        trainer.current_epoch, state.epoch = epoch, epoch + 1.0
        theirs.on_train_epoch_end(trainer, wrapped)
        shake(network)
        hugging.on_epoch_end(None, state, None, model=network, optimizer=None)
    shake(other)
    theirs.on_train_end(trainer, wrapped)
    assert [row["name"] for row in g.nodes(sort="created")] == ["h-1", "l-2", "h-2", "h-3", "l"]
    trainer.is_global_zero = state.is_world_process_zero = False
    theirs.on_train_end(trainer, wrapped)
    hugging.on_train_end(None, state, None, model=network)
    assert len(g.nodes()) == 5


def test_what_is_not_installed_is_said(g: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    recorder = mgraph.Recorder(g, name="a")
    with pytest.raises(InputError, match="lightning is not installed; install it with pip install lightning"):
        recorder.lightning()
    with pytest.raises(InputError, match="transformers is not installed"):
        recorder.huggingface()


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore")  # of the library, on whatever it announces
def test_lightning_itself_records_and_its_directory_comes_in(g: Any, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Fit(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network_of(g)

        def training_step(self, batch: Any, number: int) -> Any:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    examples = torch.utils.data.TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 10)
    recorder = mgraph.Recorder(g, name="l", every=1)
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[recorder.lightning()],
        enable_progress_bar=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(Fit(), torch.utils.data.DataLoader(examples, batch_size=8))
    assert [point.name for point in recorder.points] == ["l-1", "l-2", "l"]
    assert g.add_mode(next(tmp_path.glob("lightning_logs")), name="x").digest == g.node("l").digest
