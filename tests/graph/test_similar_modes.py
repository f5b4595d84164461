"""Adding a mode warns when it is not an independent run, and only then."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import mgraph
from mgraph.operations.modes import SimilarModeWarning


def fine_tuned(state: dict[str, torch.Tensor], amount: float) -> dict[str, torch.Tensor]:
    """Move every float tensor by noise of this size relative to its own."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: t + amount * t.std() * torch.randn(t.shape, generator=generator) if t.ndim > 1 else t
        for name, t in state.items()
    }


def test_a_fine_tuned_copy_is_pointed_out(graph: Any, tmp_path: Path) -> None:
    torch.save(fine_tuned(graph.node("b").state_dict(), 0.5), tmp_path / "tuned.pt")
    with pytest.warns(SimilarModeWarning) as caught:
        graph.add_mode(tmp_path / "tuned.pt", name="tuned")
    (warning,) = caught
    assert "tuned is not an independent run of b" in str(warning.message)
    assert warning.filename == __file__  # it points at who asked
    assert graph.node("tuned").kind == "mode"  # a warning, not a refusal


def test_the_same_checkpoint_twice_is_pointed_out(graph: Any, tmp_path: Path) -> None:
    graph.node("c").export(tmp_path / "c.safetensors")
    with pytest.warns(SimilarModeWarning, match=r"again has exactly the parameters of c: the same checkpoint twice"):
        graph.add_mode(tmp_path / "c.safetensors", name="again")


def test_training_the_same_seed_longer_is_pointed_out(graph: Any) -> None:
    with pytest.warns(SimilarModeWarning, match="not an independent run of a"):
        graph.train(seed=0, epochs=7, lr=0.1, name="longer")


def test_independent_seeds_are_not(graph: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SimilarModeWarning)
        for seed in (11, 12):
            graph.train(seed=seed, epochs=2, lr=0.1)
        other = mgraph.create(tmp_path / "o.mgraph", arch="mlp?hidden=16,16&bn=true", data="digits", device="cpu")
        for seed in range(2):
            other.train(seed=seed, epochs=2)


def test_the_command_line_warns_on_stderr(run: Any, graph: Any, path: Path) -> None:
    torch.save(fine_tuned(graph.node("d").state_dict(), 0.3), path.parent / "tuned.pt")
    done = run("add-mode", "tuned.pt", "--name", "tuned", "--json")
    assert done.row["name"] == "tuned"
    assert done.stderr.startswith("Warning: tuned is not an independent run of d:")
    assert done.stderr.count("independent run of") == 1  # its statistics are not of its weights: also said
