"""What the parts may know of each other, and how much a function may be told.

A machine that only trains may have neither DuckDB nor Zarr.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import mgraph
from mgraph.graph import keywords

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


ROOT = Path(__file__).parents[1]
MOST = 8  # parameters of a function


def functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Yield the name of every function, its line, and how many parameters it has, without self or cls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            a = node.args
            further = [one for one in (a.vararg, a.kwarg) if one is not None]
            names = [one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs, *further)]
            bound = names[:1] in (["self"], ["cls"])
            yield getattr(node, "name", "lambda"), node.lineno, len(names) - bound


def test_functions_are_counted_with_all_that_they_take() -> None:
    tree = ast.parse("class A:\n def f(self, a, /, b, *c, d, **e): ...\nasync def g(a): ...\nh = lambda x, y: 1")
    assert sorted(functions(tree)) == [("f", 2, 5), ("g", 3, 1), ("lambda", 4, 2)]


@pytest.mark.parametrize("part", ["mgraph", "cli", "store"])
def test_no_function_takes_more_than_eight_things(part: str) -> None:
    """What needs more is told a value: settings, a job, or keywords that have a type and one definition (PEP 692)."""
    found = {
        f"{path.relative_to(ROOT)}:{line} {name}": count
        for path in sorted((ROOT / part).rglob("*.py"))
        for name, line, count in functions(ast.parse(path.read_text()))
    }
    assert len(found) > 100
    assert {where: count for where, count in found.items() if count > MOST} == {}


@pytest.mark.parametrize(
    ("given", "job", "else_where"),
    [
        (
            keywords.ConnectOptions,
            mgraph.ConnectJob,
            {"grid", "inner", "splits", "examples", "bn_examples", "metrics", "align"},
        ),  # of the sweep that follows, and of what comes before
        (keywords.SweepOptions, mgraph.SweepJob, {"refine_on", "max_points"}),  # of its refinement
        (keywords.MergeOptions, mgraph.MergeJob, set()),
        (
            keywords.PlaneOptions,
            mgraph.PlaneJob,
            {"grid", "splits", "examples", "bn_examples", "metrics", "random", "pca"},
        ),  # of the sweep that follows, and how
        (keywords.ExportOptions, mgraph.ExportJob, set()),
        (keywords.ExportSetOptions, mgraph.ExportEnsembleJob, {"where", "space"}),  # of the set
        (keywords.EnsembleOptions, mgraph.EnsembleJob, {"where", "space"}),  # which members there are
        (keywords.SoupOptions, mgraph.SoupJob, {"where", "space"}),
        (keywords.PredictOptions, mgraph.PredictJob, {"where", "space"}),
        (keywords.AlignOptions, mgraph.AlignJob, set()),
        (keywords.ImportOptions, mgraph.AddModeJob, set()),
    ],
)
def test_keywords_of_a_method_are_fields_of_its_job(given: type, job: type, else_where: set[str]) -> None:
    names = {f.name for f in fields(job)}  # type: ignore[arg-type]
    assert set(given.__annotations__) - names == else_where
