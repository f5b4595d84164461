"""Graphs whose tensors lie at a URL: an S3-compatible server that the tests start, and fsspec's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgraph_store import GraphStore, Node, NodeBuffers, NodeTerm, assert_consistent, combine, garbage, new_id, problems
from mgraph_store.errors import CorruptError, InputError, NameTakenError, StoreError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import pack
from mgraph_store.tensors.remote import check_url
from mgraph_store.upkeep.collect import plan_collection
from mgraph_store.upkeep.copying import copy

pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")

SIZE = (1 << 20) + 5


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of a server that speaks S3, with a bucket."""
    import fsspec
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def send_header(self, keyword: str, value: str) -> None:
            if keyword != "Server":  # moto sends its own, and clients refuse two
                super().send_header(keyword, value)

        def log(self, *_: Any) -> None: ...

    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{server.port}"})
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    fsspec.filesystem("s3").clear_instance_cache()
    patch.undo()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place at a URL."""
    base = request.getfixturevalue("s3") + "/" if request.param == "s3" else "memory://"
    return f"{base}{tmp_path.name}/tensors"


@pytest.fixture
def fill(space_factory: Callable[..., Any]) -> Callable[[GraphStore], list[Node]]:
    """Put three large nodes, two small ones that share a segment, buffers and a sum into a store."""

    def fill(store: GraphStore) -> list[Node]:
        space = space_factory()
        rows = [np.random.default_rng(i).standard_normal(SIZE if i < 2 else 17).astype(np.float32) for i in range(4)]
        with store.transaction() as tx:
            tx.add(space)
            refs = tx.write_parameters(rows)
            nodes = [
                Node(
                    new_id("m"),
                    "mode",
                    space.id,
                    name=f"n{i}",
                    tensor_key=r.key,
                    tensor_row=r.row,
                    digest=r.digest,
                    nbytes=r.nbytes,
                )
                for i, r in enumerate(refs)
            ]
            groups = {"float32": np.ones(4, np.float32), "int64": np.array([3])}
            ref = tx.write_buffers(groups, codec="blosc")
            total = Node(new_id("s"), "sample", space.id, name="sum", kernel=1)
            tx.add(*nodes, total, NodeBuffers(nodes[0].id, "own", ref.key, ref.digest, ref.nbytes))
            tx.add(*(NodeTerm(total.id, k, nodes[k].id, c) for k, c in enumerate((0.25, 0.75))))
        return nodes

    return fill


def test_a_graph_with_tensors_at_a_url_is_like_any_other(
    place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]
) -> None:
    GraphStore.create(tmp_path / "g.mgraph", tensors=place)
    store = GraphStore.open(tmp_path / "g.mgraph", lock_timeout=30)
    nodes = fill(store)
    assert not (tmp_path / "g.mgraph" / "tensors.zarr").exists()
    rows = [store.read_parameters(n) for n in nodes]
    for i, row in enumerate(rows):
        expected = np.random.default_rng(i).standard_normal(SIZE if i < 2 else 17).astype(np.float32)
        assert row.tobytes() == expected.tobytes()
    assert store.read_parameters("sum").tobytes() == combine([0.25, 0.75], rows[:2]).tobytes()
    assert store.read_buffers("n0")["int64"].tolist() == [3]
    assert_consistent(store, deep=True)
    assert not garbage(store)
    with pytest.raises(NameTakenError, match="already holds something"):
        GraphStore.create(tmp_path / "h.mgraph", tensors=place)
    assert not (tmp_path / "h.mgraph").exists()


def test_a_copy_has_the_tensors_in_its_own_directory(
    place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]
) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    nodes = fill(store)
    copy(store, tmp_path / "copy.mgraph")
    made = GraphStore.open(tmp_path / "copy.mgraph")
    assert not (made.path / "tensors.json").exists()
    assert made.tensor_store.keys() == store.tensor_store.keys()
    for node in nodes:
        assert made.read_parameters(node.id).tobytes() == store.read_parameters(node).tobytes()
    assert_consistent(made, deep=True)
    plan_collection(made, 0).apply(made)
    assert_consistent(store, deep=True)


def test_what_fails_leaves_nothing_at_the_url(
    place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]
) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    fill(store)
    keys = store.tensor_store.keys()

    def fail() -> None:
        with store.transaction() as tx:
            tx.write_parameters([np.ones(SIZE, np.float32)])
            assert store.tensor_store.keys() > keys
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.tensor_store.keys() == keys
    with pytest.raises(NameTakenError):
        fill(store)
    assert store.tensor_store.keys() == keys


def test_garbage_is_found_and_collected(place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    fill(store)
    store.tensor_store.write("tgarbage1", {"float32": np.ones(3, np.float32)})
    assert garbage(store) == ["tgarbage1"]
    assert not plan_collection(store, min_age=3600).items
    plan = plan_collection(store, min_age=0)
    assert [i.name for i in plan.items if i.kind == "object"] == ["tgarbage1"]
    plan.apply(store)
    assert not garbage(store)
    assert_consistent(store, deep=True)


def test_a_lost_or_changed_file_is_noticed(
    place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]
) -> None:
    import fsspec

    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    nodes = fill(store)
    fs, root = fsspec.core.url_to_fs(place)
    chunk = f"{root}/{nodes[0].tensor_key}/float32/c/1"
    data = bytearray(fs.cat_file(chunk))
    data[5] ^= 1
    fs.pipe_file(chunk, bytes(data))
    with pytest.raises(CorruptError, match="checksum"):
        store.read_parameters("n0")
    fs.rm_file(chunk)
    with pytest.raises(CorruptError, match="lacks chunk c/1"):
        store.read_parameters("n0")
    fs.rm(f"{root}/{nodes[1].tensor_key}", recursive=True)
    with pytest.raises(CorruptError, match="is missing"):
        store.read_parameters("n1")
    segment = f"{root}/{nodes[2].tensor_key}/c/0/0"
    fs.pipe_file(segment, fs.cat_file(segment)[:-30])
    with pytest.raises(CorruptError):
        store.read_parameters("n2")
    assert len(problems(store)) >= 3


def test_an_address_that_does_not_answer_is_said_not_to(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="cannot be reached or refuses"):
        GraphStore.create(tmp_path / "g.mgraph", tensors="s3://no-such-bucket/x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    ["", "bucket", "file:///etc", "/etc", "http://x/y", "simplecache::s3://x/y", "s3://", "s3://a/../b", "s3://a b",
     "zip://x::s3://y", "reference://x", "s3://x?y=z", "local://x", "python://x", "S3://x/y", "s3:/x"],
)  # fmt: skip
def test_only_plain_urls_of_known_kinds_are_places(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a place for tensors"):
        check_url(url)
    with pytest.raises(InputError):
        GraphStore.create(tmp_path / "g.mgraph", tensors=url)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 3}', '{"url": "file:///etc"}', "[" * 100_000])
def test_a_changed_note_of_the_url_is_refused(store: GraphStore, text: str) -> None:
    (store.path / "tensors.json").write_text(text)
    with pytest.raises((CorruptError, InputError)):
        GraphStore.open(store.path)
    (store.path / "tensors.json").unlink()


def test_names_do_not_matter_for_a_copy(place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]) -> None:
    # A bundle takes a graph from one place to another.
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    nodes = fill(store)
    pack(store, [n.id for n in nodes], tmp_path / "all.zip")
    local = GraphStore.create(tmp_path / "local.mgraph", lock_timeout=30)
    unpack(local, tmp_path / "all.zip")
    for node in nodes:
        assert local.read_parameters(node.id).tobytes() == store.read_parameters(node).tobytes()
    with store.reading() as reader:
        stored = reader.find_node("n0")
    with store.transaction() as tx:
        tx.update(replace(stored, name="renamed"))
    assert store.read_parameters("renamed").size == SIZE
