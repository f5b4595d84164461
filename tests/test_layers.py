"""What must load without what: a machine that only trains may have neither DuckDB nor Zarr."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAINING = (
    "mgraph.train.engine, mgraph.train.mode, mgraph.evaluate.sweep, mgraph.evaluate.summary, "
    "mgraph.methods.curves.surface, mgraph.merge.ensemble, "
    "mgraph.architectures.loading, mgraph.data.loading, mgraph.network.checkpoints"
)
BLOCKER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def run(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    program = BLOCKER.format(blocked=blocked) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_training_and_evaluation_run_without_the_stores_libraries() -> None:
    code = f"""
import {TRAINING}
import numpy as np, torch
from mgraph.methods.base import Start
from mgraph.methods.curves.surface import BezierSurface
from mgraph.data.loading import load_task
from mgraph.architectures.loading import build_network
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
task = load_task("digits")
flat = FlatModel(build_network("mlp?hidden=4,", input_shape=(1, 8, 8), classes=10, seed=0))
ends = [np.random.default_rng(i).normal(size=flat.dimension).astype(np.float32) / 10 for i in range(4)]
method = BezierSurface(epochs=1)
family = method.family(4)
outcome = method.run(flat, task, family, Start.between(family, ends), silent)
print(outcome.control_points.shape)
"""
    done = run(code, "duckdb", "_duckdb", "zarr")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(9, ")


@pytest.mark.parametrize("module", ["mgraph", "mgraph.settings", "mgraph.methods.registry", "mgraph.families"])
def test_descriptions_run_without_torch(module: str) -> None:
    done = run(f"import {module}; print('loaded')", "torch")
    assert (done.returncode, done.stdout.strip()) == (0, "loaded"), done.stderr
