"""A graph with one small space, whose invariants are checked when the test is done."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mgraph_store import (
    Connection,
    GraphStore,
    Layout,
    Member,
    Node,
    NodeBuffers,
    NodeTerm,
    Space,
    TensorSpec,
    assert_consistent,
    columns,
    new_id,
)
from mgraph_store.index import following
from mgraph_store.index.following import follow_at_last

if TYPE_CHECKING:
    from s3server import S3Server

LAYOUT = Layout(
    (
        TensorSpec("first.weight", (3, 4), "float32", "parameter"),
        TensorSpec("first.running_mean", (4,), "float32", "statistic"),
        TensorSpec("first.num_batches_tracked", (), "int64", "statistic"),
        TensorSpec("second.bias", (5,), "float32", "parameter"),
    ),
    {"third.weight": "first.weight"},
)


def make_space(name: str = "only", layout: Layout = LAYOUT) -> Space:
    return Space(
        id=new_id("a"),
        name=name,
        arch="mlp?hidden=8",
        data="digits",
        loss="cross-entropy",
        layout=layout.to_json(),
        layout_hash=layout.fingerprint,
        data_hash="0" * 32,
    )


class Helper:
    """A store, its only space, and short ways to put things in."""

    def __init__(self, store: GraphStore, space: Space | None = None) -> None:
        self.store = store
        self.space = space or make_space()
        if space is None:
            with store.transaction() as tx:
                tx.add(self.space)

    def parameters(self, seed: int = 0) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).standard_normal(LAYOUT.size).astype(np.float32)

    def node(self, ref: Any, name: str | None = None, **more: Any) -> Node:
        return Node(
            id=new_id("m"),
            kind="mode",
            space_id=self.space.id,
            name=name,
            tensor_key=ref.key,
            tensor_row=ref.row,
            digest=ref.digest,
            nbytes=ref.nbytes,
            **more,
        )

    def add(self, *rows: np.ndarray[Any, Any], names: tuple[str, ...] = (), codec: str = "none") -> list[Node]:
        with self.store.transaction() as tx:
            refs = tx.write_parameters(rows, codec=codec)
            nodes = [self.node(r, names[i] if names else None) for i, r in enumerate(refs)]
            tx.add(*nodes)
        return nodes

    def add_buffers(self, node: Node, groups: dict[str, np.ndarray[Any, Any]], policy: str = "own") -> None:
        with self.store.transaction() as tx:
            ref = tx.write_buffers(groups)
            tx.add(NodeBuffers(node.id, policy, ref.key, ref.digest, ref.nbytes))

    def derive(self, coefficients: list[float], sources: list[Node]) -> Node:
        node = Node(id=new_id("s"), kind="sample", space_id=self.space.id, kernel=1)
        with self.store.transaction() as tx:
            tx.add(node)
            tx.add(*(NodeTerm(node.id, k, s.id, c) for k, (c, s) in enumerate(zip(coefficients, sources, strict=True))))
        return node

    def connection(self, a: Node, b: Node, name: str | None = None) -> list[Connection | Member]:
        """The rows, not yet stored, of a connection between two nodes: itself first, then its ends."""
        made = Connection(new_id("k"), kind="linear", space_id=self.space.id, family="{}", settings="{}", name=name)
        return [made, *(Member(made.id, node.id, "end", k) for k, node in enumerate((a, b)))]

    def partial(
        self,
        ranges: list[tuple[int, int]],
        row: np.ndarray[Any, Any],
        coefficients: list[float],
        sources: list[Node],
        name: str | None = None,
    ) -> Node:
        """Add a node that stores some columns of ``row`` and takes the others from a sum."""
        with self.store.transaction() as tx:
            (ref,) = tx.write_parameters([columns.take(row, ranges)])
            node = self.node(ref, name, kernel=1, columns=columns.to_json(ranges))
            tx.add(node)
            tx.add(*(NodeTerm(node.id, k, s.id, c) for k, (c, s) in enumerate(zip(coefficients, sources, strict=True))))
        return node

    def files(self) -> set[str]:
        """All files and directories but the index and the locks."""
        root = self.store.path
        return {str(p.relative_to(root)) for part in ("tensors.zarr", "tmp") for p in (root / part).rglob("*")}

    def counts(self) -> dict[str, int]:
        with self.store.reading() as reader:
            tables = [r[0] for r in reader.query("SELECT table_name FROM duckdb_tables()")[1]]
            return {t: reader.query(f"SELECT count(*) FROM {t}")[1][0][0] for t in tables}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A server that speaks S3, with a bucket."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    from s3server import serving

    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def gs() -> Iterator[None]:
    """A server that speaks Google's protocol, with a bucket."""
    pytest.importorskip("moto.server", reason="moto is not installed")
    from gcsserver import serving

    with serving():
        yield


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server that speaks Azure's protocol, with a container."""
    from azureserver import PROGRAM, serving

    if PROGRAM is None:
        pytest.skip("Azurite is not installed (npm install -g azurite)")
    with serving(tmp_path_factory.mktemp("azurite")):
        yield


@pytest.fixture(scope="session")
def graph_helper() -> Callable[[Path], Helper]:
    """Make a graph with one small space at a path; nobody checks it at the end."""
    return lambda path: Helper(GraphStore.create(path, lock_timeout=30))


@pytest.fixture(scope="session")
def _empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of which most tests begin with a copy, which is quicker than making one each."""
    return GraphStore.create(tmp_path_factory.mktemp("empty") / "test.mgraph").path


@pytest.fixture(scope="session")
def copied_helper(_empty: Path) -> Callable[[Path], Helper]:
    """Make a graph with one small space at a path, as quickly as may be; nobody checks it at the end."""
    return lambda path: Helper(GraphStore.open(shutil.copytree(_empty, path), lock_timeout=30))


@pytest.fixture(scope="session")
def _begun(_empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Helper:
    """A graph with one small space, for those tests that begin with one."""
    helper = Helper(GraphStore.open(shutil.copytree(_empty, tmp_path_factory.mktemp("begun") / "test.mgraph")))
    follow_at_last()
    return helper


@pytest.fixture
def store(request: pytest.FixtureRequest, _empty: Path, _begun: Helper, tmp_path: Path) -> GraphStore:
    made, place = _begun.store.path if "graph" in request.fixturenames else _empty, tmp_path / "test.mgraph"
    # Without the times of the files: an index that has just been written is left alone for a while.
    return GraphStore.open(shutil.copytree(made, place, copy_function=shutil.copyfile), lock_timeout=10)


@pytest.fixture
def graph(store: GraphStore, _begun: Helper) -> Iterator[Helper]:
    helper = Helper(store, _begun.space)
    yield helper
    assert_consistent(store)


@pytest.fixture
def damaged(store: GraphStore, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """A graph that the test will spoil, not checked at the end; its index follows every commit at once."""
    monkeypatch.setattr(following, "RESTING", 0.0)
    return Helper(store)


@pytest.fixture(autouse=True)
def _nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no index follow by itself a second after a test has written: that would open it at any moment."""
    monkeypatch.setattr(following._Later, "arm", lambda _: None)


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """Start Python on a script; arguments come as JSON in sys.argv[1]."""

    def start(script: str, **arguments: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def space_factory() -> Callable[..., Space]:
    return make_space


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the most bytes of a chunk, so that there are several without megabytes; they need not be whole pages."""

    def limit(nbytes: int) -> None:
        for module in ("tensors.objects", "transaction"):
            monkeypatch.setattr(f"mgraph_store.{module}.CHUNK_BYTES", nbytes)
        monkeypatch.setattr("mgraph_store.tensors.objects.PAGE", math.gcd(nbytes, 8))

    return limit


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows whenever a store opens the index."""
    seen: list[None] = []
    real = GraphStore.reading

    def reading(self: GraphStore, **options: Any) -> Any:
        seen.append(None)
        return real(self, **options)

    monkeypatch.setattr(GraphStore, "reading", reading)
    return seen
