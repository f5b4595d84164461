"""Graphs whose tensors lie at a URL: servers that the tests start, which speak S3 and Azure's protocol, and memory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mgraph_store import (
    GraphStore,
    Layout,
    Node,
    NodeBuffers,
    NodeTerm,
    TensorSpec,
    assert_consistent,
    combine,
    garbage,
    new_id,
    problems,
)
from mgraph_store.errors import CorruptError, InputError, NameTakenError, StoreError
from mgraph_store.exchange.arrival import unpack
from mgraph_store.exchange.bundle import pack
from mgraph_store.objectstorage import ObjectStorage, check_url
from mgraph_store.tensors.arrays import chunks_at_a_time
from mgraph_store.tensors.claims import SharedTensorsWarning
from mgraph_store.tensors.zarrobjects import Below
from mgraph_store.upkeep.collect import plan_collection, remove_objects
from mgraph_store.upkeep.copying import copy
from mgraph_store.upkeep.removal import plan_removal

pytest.importorskip("obstore", reason="obstore is not installed")

if TYPE_CHECKING:
    from s3server import S3Server

SIZE = (1 << 20) + 5
LARGE = Layout(
    (
        TensorSpec("weight", (SIZE,), "float32", "parameter"),
        TensorSpec("mean", (4,), "float32", "statistic"),
        TensorSpec("count", (), "int64", "statistic"),
    )
)


OTHERS = [pytest.param(name, marks=pytest.mark.stress) for name in ("gs", "az")]


@pytest.fixture(params=["s3", "memory", *OTHERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place at a URL."""
    if request.param != "memory":
        request.getfixturevalue(request.param)
    return f"{request.param}://bucket/{tmp_path.name}/tensors"


# What asks a place for nothing that others here do not: with S3, which takes seconds, in make stress.
ON_S3_TOO = pytest.mark.parametrize(
    "place", ["memory", pytest.param("s3", marks=pytest.mark.stress), *OTHERS], indirect=True
)


@pytest.fixture
def fill(space_factory: Callable[..., Any]) -> Callable[[GraphStore], list[Node]]:
    """Put three large nodes, two small ones that share a segment, buffers and a sum into a store."""

    def fill(store: GraphStore) -> list[Node]:
        spaces = [space_factory("large", LARGE), space_factory()]
        rows = [np.random.default_rng(i).standard_normal(SIZE if i < 2 else 17).astype(np.float32) for i in range(4)]
        with store.transaction() as tx:
            tx.add(*spaces)
            refs = tx.write_parameters(rows)
            nodes = [
                Node(
                    new_id("m"),
                    "mode",
                    spaces[i // 2].id,
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
            total = Node(new_id("s"), "sample", spaces[0].id, name="sum", kernel=1)
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


@ON_S3_TOO
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


@ON_S3_TOO
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


@ON_S3_TOO
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
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    nodes = fill(store)
    stored = ObjectStorage(place)
    chunk = f"{nodes[0].tensor_key}/float32/c/1"
    data = bytearray(stored.read(chunk))
    data[5] ^= 1
    stored.put(chunk, bytes(data))
    with pytest.raises(CorruptError, match="checksum"):
        store.read_parameters("n0")
    opened = store.tensor_store.open(str(nodes[0].tensor_key))
    stored.delete([chunk])
    with pytest.raises(CorruptError, match="is missing"):
        opened.read()
    with pytest.raises(CorruptError, match="lacks chunk c/1"):
        store.read_parameters("n0")
    stored.delete([file.name for file in stored.find(str(nodes[1].tensor_key))])
    with pytest.raises(CorruptError, match="is missing"):
        store.read_parameters("n1")
    segment = f"{nodes[2].tensor_key}/c/0/0"
    stored.put(segment, stored.read(segment)[:-30])
    with pytest.raises(CorruptError):
        store.read_parameters("n2")
    assert len(problems(store)) >= 3


@pytest.mark.parametrize("scheme", ["memory", "az"])
def test_what_zarr_says_of_a_place_is_its_url(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "somebody")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    below = Below(ObjectStorage(f"{scheme}://bucket/graph"), "t123", read_only=True)
    assert f"{below!r} {below}" == f"Below({scheme}://bucket/graph/t123) {scheme}://bucket/graph/t123"


def refusal(tmp_path: Path, url: str = "s3://bucket/x") -> str:
    """Try to make a graph with its tensors at a URL; return what is said."""
    with pytest.raises((StoreError, InputError)) as caught:
        GraphStore.create(tmp_path / "g.mgraph", tensors=url)
    assert not (tmp_path / "g.mgraph").exists()
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert "Debug" not in said
    return said


def test_a_bucket_that_is_missing_is_named(s3: S3Server, tmp_path: Path) -> None:
    assert "there is no bucket 'no-such-bucket'" in refusal(tmp_path, "s3://no-such-bucket/x")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "SignatureDoesNotMatch"), "refuses your credentials (SignatureDoesNotMatch: As told)"),
        ((401, "Unauthorized"), "refuses your credentials"),
        ((301, "PermanentRedirect"), "set AWS_REGION"),
        ((400, "AuthorizationHeaderMalformed"), "set AWS_REGION"),
        ((400, "OutOfOrder"), "cannot be reached or refuses (OutOfOrder: As told)"),
    ],
)
def test_what_a_service_refuses_is_one_sentence(
    s3: S3Server, tmp_path: Path, answer: tuple[int, str], said: str
) -> None:
    s3.refuses = answer
    try:
        assert said in refusal(tmp_path)
    finally:
        s3.refuses = None


def test_what_google_refuses_is_one_sentence(gs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no bucket 'no-such-bucket'" in refusal(tmp_path, "gs://no-such-bucket/x")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "expired")
    assert "gs://bucket/x refuses your credentials (AuthenticationRequired: As told)" in refusal(
        tmp_path, "gs://bucket/x"
    )
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:9")
    assert "cannot be reached (Connection refused): check the network" in refusal(tmp_path, "gs://bucket/x")


def test_an_address_that_does_not_answer_is_said_not_to(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached (Connection refused): check the network" in refusal(tmp_path)


def test_other_services_are_reached_by_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert "no credentials for az://container/x" in refusal(tmp_path, "az://container/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    for scheme in ("az", "abfs"):
        place = ObjectStorage(f"{scheme}://container/x")
        assert getattr(place.client, "config", {})["container_name"] == "container"
        assert "cannot be reached (Connection refused)" in refusal(tmp_path, place.url)
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    for scheme in ("gs", "gcs"):
        assert getattr(ObjectStorage(f"{scheme}://bucket/x").client, "config", {})["bucket"] == "bucket"


def test_credentials_come_from_where_the_aws_tools_look(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "There are no credentials for s3" in refusal(tmp_path)
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = test\naws_secret_access_key = test\n")
    (tmp_path / "config").write_text("[profile mine]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    GraphStore.create(tmp_path / "g.mgraph", tensors=f"s3://bucket/{tmp_path.name}")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert "The config profile (other) could not be found" in refusal(tmp_path / "h.mgraph", "s3://bucket/y")


@pytest.mark.parametrize(
    ("missing", "said"),
    [("obstore", 'pip install "mgraph[remote]"'), ("boto3", "pip install boto3, or set AWS_ACCESS_KEY_ID")],
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, said: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setitem(sys.modules, missing, None)
    assert said in refusal(tmp_path)


def test_a_forked_process_is_told_that_it_cannot(tmp_path: Path, python: Callable[..., Any]) -> None:
    script = """
import json, os, sys
from mgraph_store import GraphStore
path = json.loads(sys.argv[1])["path"]
GraphStore.create(path, tensors="memory://x/y")
if os.fork() == 0:
    try:
        GraphStore.open(path).tensor_store.keys()
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.wait()
"""
    process = python(script, path=str(tmp_path / "g.mgraph"))
    said, _ = process.communicate(timeout=60)
    assert said.startswith("StoreError memory://x/y cannot be used in a process that was forked")


@pytest.mark.parametrize(
    "url",
    ["", "bucket", "file:///etc", "/etc", "http://x/y", "simplecache::s3://x/y", "s3://", "s3://a/../b", "s3://a b",
     "s3://a//b", "s3://a/./b", "zip://x::s3://y", "reference://x", "s3://x?y=z", "local://x", "python://x",
     "S3://x/y", "s3:/x"],
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


@ON_S3_TOO
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


# Copies of the directory, which share the tensors


@pytest.fixture
def original(place: str, tmp_path: Path, fill: Callable[[GraphStore], list[Node]]) -> GraphStore:
    store = GraphStore.create(tmp_path / "g.mgraph", tensors=place, lock_timeout=30)
    fill(store)
    return store


def copied(store: GraphStore) -> GraphStore:
    """Copy a graph's directory as a backup program does."""
    return GraphStore.open(shutil.copytree(store.path, store.path.with_name("backup.mgraph")), lock_timeout=30)


def add(store: GraphStore, name: str) -> None:
    with store.reading() as reader:
        like = reader.find_node("n0")
    with store.transaction() as tx:
        (ref,) = tx.write_parameters([np.full(SIZE, len(name), np.float32)])
        made = replace(like, id=new_id("m"), name=name, tensor_key=ref.key, digest=ref.digest, nbytes=ref.nbytes)
        tx.add(replace(made, tensor_row=ref.row))


def remove(store: GraphStore, name: str) -> None:
    with store.reading() as reader:
        plan = plan_removal(reader, [reader.find_node(name)], cascade=True)
    plan.apply(store)


@ON_S3_TOO
def test_gc_in_a_copy_deletes_nothing_of_the_original(original: GraphStore) -> None:
    backup = copied(original)
    add(original, "later")
    plan = plan_collection(backup, min_age=0)
    assert not plan.items
    assert "shared with another copy of this graph" in str(plan.shared)
    assert str(original.path) in str(plan.shared)
    assert_consistent(original, deep=True)


@ON_S3_TOO
def test_a_copy_that_has_looked_at_its_tensors_keeps_them(original: GraphStore) -> None:
    backup = copied(original)
    assert backup.read_parameters("n1").size == SIZE
    with pytest.warns(SharedTensorsWarning, match="nothing is deleted there"):
        remove(original, "n1")
    assert_consistent(backup, deep=True)
    assert plan_collection(original, min_age=0).shared is not None
    with pytest.warns(SharedTensorsWarning):
        remove_objects(original, garbage(original))
    assert_consistent(backup, deep=True)


@ON_S3_TOO
def test_when_the_copy_is_gone_the_tensors_can_be_claimed(original: GraphStore) -> None:
    backup = copied(original)
    backup.read_parameters("n1")
    original.tensor_store.take_over()
    remove(original, "n1")
    assert not garbage(original)
    with pytest.raises(StoreError, match=r"belong to another copy .* mgraph copy"):
        add(GraphStore.open(backup.path), "late")
    assert "belong to another copy" in str(plan_collection(GraphStore.open(backup.path), 0).shared)
    assert_consistent(original, deep=True)


def test_a_copy_may_be_the_one_that_claims(original: GraphStore) -> None:
    backup = copied(original)
    backup.tensor_store.take_over()
    add(backup, "later")
    remove(backup, "n1")
    assert not garbage(backup)
    assert_consistent(backup, deep=True)
    with pytest.raises(StoreError, match="belong to another copy"):
        add(GraphStore.open(original.path), "late")


@ON_S3_TOO
def test_a_copy_says_only_once_that_it_is_there(original: GraphStore, place: str) -> None:
    backup = copied(original)
    for _ in range(3):
        GraphStore.open(backup.path).read_parameters("n1")
        GraphStore.open(original.path).read_parameters("n1")
    assert sum("claim-" in name for name in ObjectStorage(place).names()) == 2


@ON_S3_TOO
def test_a_graph_that_is_moved_stays_the_only_one(original: GraphStore) -> None:
    moved = GraphStore.open(original.path.rename(original.path.with_name("moved.mgraph")))
    assert plan_collection(moved, 0).shared is None
    remove(moved, "n1")
    assert not garbage(moved)


@ON_S3_TOO
def test_a_graph_of_before_claims_makes_one(original: GraphStore, place: str) -> None:
    stored = ObjectStorage(place)
    stored.delete([name for name in stored.names() if "claim-" in name])
    (original.path / "tensors.json").write_text(json.dumps({"url": place}))
    store = GraphStore.open(original.path)
    remove(store, "n1")
    assert not garbage(store)
    assert "claim" in json.loads((original.path / "tensors.json").read_text())


def test_of_many_who_want_a_place_one_gets_it(place: str, tmp_path: Path) -> None:
    """And the others, who clean up, leave it whole."""

    def create(i: int) -> bool:
        try:
            GraphStore.create(tmp_path / f"{i}.mgraph", tensors=place)
        except NameTakenError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(create, range(6)))
    assert sum(got) == 1
    assert [p.name for p in tmp_path.glob("*.mgraph")] == [f"{got.index(True)}.mgraph"]
    store = GraphStore.open(tmp_path / f"{got.index(True)}.mgraph")
    assert store.tensor_store.refusal() is None


def test_storage_that_ignores_conditions_is_recognised(s3: S3Server, tmp_path: Path) -> None:
    s3.ignores_conditions = True
    try:
        with pytest.warns(SharedTensorsWarning, match="ignores the conditions"):
            GraphStore.create(tmp_path / "g.mgraph", tensors=f"s3://bucket/{tmp_path.name}")
    finally:
        s3.ignores_conditions = False


def test_a_lost_answer_is_not_taken_for_a_conflict(s3: S3Server, tmp_path: Path) -> None:
    s3.answers_lost = 1  # the first try puts the object, and the second finds it there
    GraphStore.create(tmp_path / "g.mgraph", tensors=f"s3://bucket/{tmp_path.name}")
    assert s3.answers_lost == 0


def test_a_write_that_met_another_one_is_tried_again(s3: S3Server, tmp_path: Path) -> None:
    s3.conflicts = 2  # as if somebody had put the object and removed it meanwhile
    GraphStore.create(tmp_path / "g.mgraph", tensors=f"s3://bucket/{tmp_path.name}")
    assert s3.conflicts == 0


def test_storage_without_conditional_writes_is_refused(s3: S3Server, tmp_path: Path) -> None:
    place = ObjectStorage(f"s3://bucket/{tmp_path.name}")
    s3.refuses = (501, "NotImplemented")
    try:
        with pytest.raises(StoreError, match="without conditional writes"):
            place.put_new("x", b"1")
    finally:
        s3.refuses = None


def test_of_several_limits_the_lowest_holds() -> None:
    import zarr

    usual = zarr.config.get("async.concurrency")
    with chunks_at_a_time(4):
        assert zarr.config.get("async.concurrency") == 4
        with chunks_at_a_time(1):
            assert zarr.config.get("async.concurrency") == 1
        assert zarr.config.get("async.concurrency") == 4
    assert zarr.config.get("async.concurrency") == usual
