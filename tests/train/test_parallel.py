"""Training by several processes at once: the same numbers as by one, on the CPU with gloo."""

import json
import os
import runpy
import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import mgraph
from mgraph.train.parallel import Workers, follows, joined, present, under_torchrun
from mgraph_store import Connection, Member, Node, Run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WHICH = ("0-of-1", "0-of-2", "1-of-2")  # process, of how many

SCRIPT = """
import gc
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mgraph.methods.base import Start
from mgraph.methods.curves.path import BezierCurve
from mgraph.methods.curves.surface import BezierSurface
from mgraph.data.making import make_task
from mgraph.network.flat import FlatModel
from mgraph.progress import silent
from mgraph.train.mode import train_mode
from mgraph.train.parallel import joined
from mgraph.train.settings import TrainSettings

rng = np.random.default_rng(0)
x, y = rng.normal(size=(46, 5)), np.arange(46) % 3
task = make_task(train=(x, y), valid=(x, y), test=(x, y))


def network(statistics=False):
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.BatchNorm1d(6) if statistics else nn.Tanh(), nn.Linear(6, 3)]
    return FlatModel(nn.Sequential(*layers))


def connect(method, count, statistics=False):
    flat, family = network(statistics), method.family(count)
    given = np.random.default_rng(1)
    ends = [(given.normal(size=flat.dimension) / 3).astype(np.float32) for _ in range(count)]
    method.check(flat, task, family)
    seen = []
    outcome = method.run(flat, task, family, Start.between(family, ends), lambda p: seen.append(p.loss))
    return np.concatenate([outcome.control_points.ravel(), np.array(seen, np.float32)])


def mode():
    flat, seen = network(), []
    train_mode(flat, task, TrainSettings(epochs=3, batch_size=15), progress=lambda p: seen.append(p.loss))
    return np.concatenate([flat.unpack(flat.theta).numpy(), np.array(seen, np.float32)])


def augmented():
    torch.manual_seed(0)
    flat, images = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(25, 3))), rng.random((46, 1, 5, 5))
    shown = make_task(train=(images, y), valid=(images, y), test=(images, y))
    train_mode(flat, shown, TrainSettings(epochs=3, batch_size=15, augment="crop2+flip+randaugment"))
    return flat.unpack(flat.theta).numpy()


with joined("cpu") as workers:
    group = weakref.ref(torch.distributed.group.WORLD or torch.nn.Module())
    made = {
        # 46 examples in batches of 15, the last of 1: slices of 4, 4, 4, 3, of which each process takes a half.
        "curve": connect(BezierCurve(epochs=3, bends=2, batch_size=15), 2),
        "one sample": connect(BezierCurve(epochs=2, batch_size=15, samples=1, weight_decay=0.01), 2),
        "adamw surface": connect(
            BezierSurface(epochs=2, batch_size=20, samples=3, optimizer="adamw", lr=0.01, clip=0.1, measure="area"), 4
        ),
        "mode": mode(),
        "augmented": augmented(),
        # Batch statistics are those of a process's share; the last batch, of 14, has three slices.
        "statistics": connect(BezierCurve(epochs=2, batch_size=16, samples=4), 2, statistics=True),
    }
    for name, values in made.items():
        np.save(Path(sys.argv[1]) / f"{name}-{workers.rank}-of-{workers.size}.npy", values)
gc.collect()
assert group() is None, "the group and its threads outlive their end"

if sys.argv[2:]:  # then a command, by the same processes, which meet at a port of their own
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": sys.argv[2]}
    os.chdir(sys.argv[1])
    sys.argv = ["mgraph", *sys.argv[3:]]
    from mgraph_cli.main import main

    main()
"""
CONNECT = ["connect", "a", "b", "--curve", "--epochs", "1", "--samples", "4", "--name", "two", "--grid", "3", "--json"]


def run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made: a directory with the numbers of what they trained, a graph, and what a command said."""
    directory = tmp_path_factory.mktemp("parallel")
    graph = mgraph.create(directory / "digits.mgraph", arch="mlp?hidden=8,", data="digits", device="cpu")
    for seed, name in enumerate("ab"):
        graph.train(seed=seed, epochs=1, name=name)
    script = directory / "train.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run(*TORCHRUN, script, directory, str(port), *CONNECT)
    return directory, graph, done.stdout


@pytest.fixture(scope="module")
def trained(two):
    """What one process and what two processes make, by name; the two must agree bit for bit."""
    directory, *_ = two
    script = directory / "train.py"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():  # alone: in this process
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", [str(script), str(directory)])
        runpy.run_path(str(script), run_name="__main__")
    names = [path.name.removesuffix("-0-of-1.npy") for path in directory.glob("*-0-of-1.npy")]
    assert len(names) == 6
    return {name: [np.load(directory / f"{name}-{which}.npy") for which in WHICH] for name in names}


@pytest.mark.parametrize("name", ["curve", "one sample", "adamw surface", "mode", "augmented"])
def test_two_processes_give_the_result_of_one(trained, name):
    """Control points, and the loss of every step, for the same global batch."""
    alone, first, _ = trained[name]
    np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["curve", "one sample", "adamw surface", "mode", "augmented", "statistics"])
def test_both_processes_end_with_the_same_bits(trained, name):
    _, first, second = trained[name]
    assert first.tobytes() == second.tobytes()
    assert np.isfinite(first).all()


def test_batch_statistics_are_those_of_a_share(trained):
    alone, first, _ = trained["statistics"]
    assert not np.allclose(first, alone, rtol=1e-5, atol=1e-5)


def test_torchrun_connects_once_and_says_so_once(two):
    _, graph, said = two
    assert json.loads(said)["row"]["name"] == "two"  # one document, of one process

    graph.connect("a", "b", method=mgraph.BezierCurve(epochs=1, samples=4), name="one", sweep=False)
    store = graph.session.store
    with store.reading() as reader:
        runs = [run for run in reader.all(Run) if run.command == "connect"]
        bends = {
            c.name: reader.get(Node, id=member.node_id)
            for c in reader.all(Connection)
            for member in reader.all(Member, connection_id=c.id)
            if member.role == "control"
        }
    assert [(json.loads(run.settings)["processes"], run.status) for run in runs] == [(2, "complete"), (1, "complete")]
    assert sorted(bends) == ["one", "two"]
    points = [store.read_parameters(node) for node in bends.values()]
    np.testing.assert_allclose(*points, rtol=1e-5, atol=1e-5)


def test_alone_nothing_is_joined():
    assert present() == Workers(0, 1)
    assert not under_torchrun()
    assert not follows()
    with joined("cpu") as workers:
        assert workers == Workers()
        assert not torch.distributed.is_initialized()


def test_a_share_is_a_part_and_its_fraction():
    x, y = torch.arange(7), torch.arange(7) * 10
    parts = [Workers(rank, 3).share(x, y) for rank in range(3)]
    assert torch.cat([p[0] for p in parts]).tolist() == x.tolist()
    assert torch.cat([p[1] for p in parts]).tolist() == y.tolist()
    assert [p[2] for p in parts] == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    empty = [Workers(rank, 2).share(x[:0], y[:0]) for rank in range(2)]
    assert [len(p[0]) for p in empty] == [0, 0]
    assert [p[2] for p in empty] == [0, 0]
