"""A graph's directory from a stranger: whatever its entries are, nothing outside it is opened, changed or removed."""

from __future__ import annotations

import ast
import contextlib
import errno
import fcntl
import os
import pickle
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mgraph_store
from mgraph_store import GraphStore, assert_consistent, new_id
from mgraph_store.errors import EntryError, MovedError, MovedWarning, StoreError
from mgraph_store.folder import Folder
from mgraph_store.root import Root
from mgraph_store.states import StateFiles
from mgraph_store.upkeep.check import examine
from mgraph_store.upkeep.collect import plan_collection

FILES = ("index.duckdb", "index.duckdb.wal", "gate.lock", "index.lock", "tensors.json")
FOLDERS = ("journal", "tmp", "states", "tensors.zarr", "damaged")


def link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / ("folder" if place.name in FOLDERS else "file"))


def dangling(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "missing")


def hard_link(place: Path, outside: Path) -> None:
    place.hardlink_to(outside / "file")


def pipe(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def sock(place: Path, outside: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # its path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(place.name)
    os.chdir(here)


def other(place: Path, outside: Path) -> None:
    if place.name in FOLDERS:
        place.write_text("x")
    else:
        place.mkdir()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user's; at the end of the test it must be as it was."""
    path = tmp_path / "mine"
    (path / "folder" / "project").mkdir(parents=True)
    for name in ("file", "folder/run.log", "folder/0123456789abcdef.log", "folder/project/results.csv"):
        (path / name).write_text("my thesis")
        os.utime(path / name, (1, 1))
    before = pictured(path)
    yield path
    assert pictured(path) == before


def pictured(path: Path) -> dict[str, Any]:
    return {
        str(p.relative_to(path)): (p.lstat().st_mtime, p.read_bytes() if p.is_file() else None)
        for p in sorted(path.rglob("*"))
    }


def use(path: Path) -> None:
    """Do everything that a store does; what it refuses, it refuses."""
    actions: tuple[Callable[[GraphStore], Any], ...] = (
        lambda store: store.reading().__enter__(),
        lambda store: plan_collection(store, 0).apply(store),
        lambda store: examine(store, deep=True),
        lambda store: store.states(new_id("r")).save({}, {"x": np.zeros(3)}, items=0),
        lambda store: write(store),
    )
    for action in actions:
        with contextlib.suppress(StoreError):
            action(GraphStore.open(path))
        with contextlib.suppress(StoreError):
            action(GraphStore(path))


def write(store: GraphStore) -> None:
    with store.transaction() as tx:
        tx.write_parameters([np.ones(17, np.float32)])
        tx.write_buffers({"float32": np.ones(4, np.float32)})


@pytest.mark.parametrize("what", [link, dangling, hard_link, pipe, sock, other])
@pytest.mark.parametrize("entry", [*FILES, *FOLDERS])
def test_an_entry_that_is_something_else_is_refused_by_name(
    graph: Any, tmp_path: Path, outside: Path, entry: str, what: Callable[[Path, Path], None]
) -> None:
    if what is hard_link and entry in (*FOLDERS, "tensors.json"):
        pytest.skip("directories have no second names, and this file is only read")
    path = shutil.copytree(graph.store.path, tmp_path / "g.mgraph")
    with contextlib.suppress(FileNotFoundError):
        (shutil.rmtree if entry in FOLDERS else os.remove)(path / entry)
    what(path / entry, outside)
    with pytest.raises(EntryError, match=rf"^{entry} in graph \S+ is a \S.* should be") as refused:
        GraphStore.open(path)
    assert refused.value.exit_code == 2
    use(path)


@pytest.mark.parametrize("entry", ["journal/count", "tensors.zarr/KEY", "tensors.zarr/KEY/float32/c/0"])
def test_an_entry_further_down_is_not_followed(graph: Any, tmp_path: Path, outside: Path, entry: str) -> None:
    (node,) = graph.add(np.arange(17, dtype=np.float32), names=("m",))
    path = shutil.copytree(graph.store.path, tmp_path / "g.mgraph")
    place = path / entry.replace("KEY", node.tensor_key)
    place.rename(outside.parent / "moved")
    for target in (outside.parent / "moved", outside / "file", outside / "folder"):
        place.symlink_to(target)  # even where what it leads to is right
        with pytest.raises(EntryError, match="is a symbolic link"):
            GraphStore.open(path).read_parameters("m") if "KEY" in entry else write_note(GraphStore.open(path))
        use(path)
        place.unlink()


def write_note(store: GraphStore) -> None:
    from mgraph_store import Run

    with store.transaction() as tx:
        tx.add(Run(new_id("r"), "train", "{}"))


@pytest.mark.parametrize("entry", ["index.lock", "journal", "tmp", "tensors.zarr", "states"])
def test_a_link_that_appears_between_look_and_use(
    graph: Any, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """One look after the other, every third, is followed by the entry's replacement before anything else happens."""
    real = os.stat
    for n in range(0, 40, 3):
        path = shutil.copytree(graph.store.path, tmp_path / f"{n}.mgraph")
        store, looks = GraphStore.open(path), 0
        (path / "states").mkdir(exist_ok=True)

        def swapped(*arguments: Any, path: Path = path, n: int = n, **options: Any) -> os.stat_result:
            nonlocal looks
            try:
                return real(*arguments, **options)
            finally:
                looks += 1
                if looks == n + 1:
                    (path / entry).rename(path / "before")
                    link(path / entry, outside)

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", swapped)
            with contextlib.suppress(StoreError):
                write(store)
                write_note(store)
            with contextlib.suppress(StoreError):
                store.states(new_id("r")).save({}, {"x": np.zeros(3)}, items=0)
            with contextlib.suppress(StoreError):
                plan_collection(store, 0).apply(store)
        shutil.rmtree(path)


def test_only_links_themselves_are_removed(graph: Any, outside: Path) -> None:
    path = graph.store.path
    for place in (path / "tmp" / "tleftbysomebody", path / "tmp" / "x" / "deep"):
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(outside / "folder")
    plan_collection(graph.store, 0).apply(graph.store)
    assert list((path / "tmp").iterdir()) == []


def test_a_name_leads_to_no_other_folder(tmp_path: Path) -> None:
    for name in ("..", "a/../..", "."):
        with pytest.raises(ValueError, match="leads out"):
            Folder(tmp_path).sub(name)


def test_what_is_below_an_open_folder_is_opened_from_there(tmp_path: Path) -> None:
    graph = Folder(tmp_path)
    for name in ("a/b/c", "a/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("first")
    inner = graph.sub("a/b")
    with inner.opened() as descriptor:
        near = graph.with_open(inner, descriptor).sub("a")
        (tmp_path / "a/b").rename(tmp_path / "moved")
        (tmp_path / "a/b/c").mkdir(parents=True)
        for place in ("a/b/c", "a/other"):
            (tmp_path / place / "file").write_text("second")
        assert near.sub("b/c").read("file") == b"first"  # still in the folder that is open
        assert near.sub("other").read("file") == b"second"
        assert graph.sub("a/b/c").read("file") == b"second"
        assert near.sub("b").is_folder("c")
        assert near.sub("b").entries() == ["c"]
        os.fstat(descriptor)  # nobody has closed it
        (tmp_path / "moved/link").symlink_to(tmp_path)
        with pytest.raises(EntryError, match="a/b/link in graph"):
            near.sub("b/link").read("file")


def test_a_graph_may_be_reached_by_a_link(graph: Any, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(graph.store.path)
    store = GraphStore.open(tmp_path / "data")
    write_note(store)
    assert_consistent(graph.store)


# Moved and replaced


def test_what_was_under_way_goes_where_the_graph_went(graph: Any, tmp_path: Path) -> None:
    store, path = graph.store, graph.store.path
    path.rename(tmp_path / "moved.mgraph")
    with pytest.warns(MovedWarning, match=r"was moved to \S+moved.mgraph while it was in use"):
        (node,) = graph.add(np.ones(17, np.float32), names=("later",))
    assert not path.exists()
    GraphStore.create(path)
    assert GraphStore.open(tmp_path / "moved.mgraph").read_parameters("later").sum() == 17
    assert store.read_parameters(node.id).sum() == 17
    with GraphStore.open(path).reading() as reader:
        assert reader.all(type(node)) == []
    assert_consistent(GraphStore.open(tmp_path / "moved.mgraph"))
    shutil.move(tmp_path / "moved.mgraph", tmp_path / "back.mgraph")
    shutil.rmtree(path)
    (tmp_path / "back.mgraph").rename(path)


def test_nothing_is_stored_into_another_graph(tmp_path: Path) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph")
    shutil.rmtree(store.path)
    with pytest.raises(MovedError, match="was removed while it was in use"):
        write_note(store)
    files = StateFiles(store.folder, new_id("r"))
    with pytest.raises(StoreError):
        files.save({}, {"x": np.zeros(1)}, items=0)
    assert not store.path.exists()
    GraphStore.create(store.path)
    with pytest.raises(MovedError, match="another one is there now"):
        write_note(store)


def test_an_index_that_is_replaced_while_it_is_opened_is_not_used(
    graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mgraph_store.index.instances import Instances

    theirs = GraphStore.create(tmp_path / "theirs.mgraph").index.path
    opened = Instances.opened

    @contextlib.contextmanager
    def slow(instances: Instances, index: Path, *, read_only: bool) -> Iterator[Any]:
        with monkeypatch.context() as patched:
            patched.setattr(graph.store.index, "place", lambda: theirs)
            with opened(instances, theirs, read_only=read_only) as con:
                yield con

    with monkeypatch.context() as patched:
        patched.setattr(Instances, "opened", slow)
        patched.setattr(graph.store.index, "place", lambda: theirs)
        with pytest.raises(MovedError, match="was replaced"), graph.store.reading():
            pass


def test_a_root_can_be_handed_to_another_process(tmp_path: Path) -> None:
    root = Root(tmp_path)
    assert pickle.loads(pickle.dumps(root)).identity == root.identity


# Who may read


def test_a_file_that_replaces_another_is_as_private_as_that(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in ("old", "new"):
        folder.write(name, name.encode())
    (tmp_path / "old").chmod(0o640)
    folder.rename("new", folder, "old")
    assert (tmp_path / "old").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    folder.write("other", b"")
    folder.rename("other", folder, "moved")  # replaces nothing
    assert (tmp_path / "moved").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_files_to_their_owner(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in ("old", "new"):
        folder.write(name, b"")
    os.chown(tmp_path / "old", 12345, 54321)
    folder.rename("new", folder, "old")
    found = (tmp_path / "old").stat()
    assert (found.st_uid, found.st_gid) == (12345, 54321)


# File systems without locks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store = GraphStore.create(tmp_path / "g.mgraph")

    def refuses(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    expected = r"^The file system at \S+ has no file locks \(flock: .*a local one for example.*Lustre"
    with pytest.raises(StoreError, match=expected):
        GraphStore.create(tmp_path / "other.mgraph")
    assert [p.name for p in tmp_path.iterdir()] == ["g.mgraph"]
    with pytest.raises(StoreError, match=expected), store.reading():
        pass
    with pytest.raises(StoreError, match=expected):
        write_note(store)


# Nothing goes around it

_OPENING = {"open", "fdopen", "rmtree", "copyfile", "copytree", "copy", "move"}
_ON_PATHS = {
    *("read_bytes", "read_text", "write_bytes", "write_text", "touch", "unlink", "rmdir", "rename", "mkdir"),
    *("iterdir", "glob", "rglob", "symlink_to", "hardlink_to", "is_file", "is_dir", "exists", "lstat", "stat"),
    *("walk", "scandir", "listdir", "remove", "removedirs", "makedirs"),
}
_ALLOWED = {
    "folder.py": "this is where it is done",
    "root.py": "likewise",
    "store.py": "makes a directory beside the new graph's place, and deletes one that was just made",
    "sharedlog.py": "looks whether there is the directory that the user named",
    "index/shared.py": "likewise",
    "machines.py": "makes directories beside graphs",
    "upkeep/copying.py": "makes a directory beside the copy's place",
    "exchange/bundle.py": "reads and writes the file that the user named",
    "index/processes.py": "reads /proc",
    "underway.py": "likewise",
    "tensors/chunkfiles.py": "from a descriptor of a folder",
    "flushing.py": "likewise, and only what it makes itself",
    "index/index.py": "looks at what DuckDB has opened",
    "upkeep/repair.py": "makes a directory, from a descriptor of a folder",
    "tensors/objects.py": "likewise",
    "index/older.py": "makes a directory of its own among the system's temporary ones, and deletes that",
    "objectstorage.py": "looks whether there are AWS profiles",
    "tensors/remote.py": "not on this machine",
    "tensors/zarrobjects.py": "not on this machine",
}


def calls_on_paths(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if isinstance(owner, ast.Name) and owner.id in ("os", "shutil"):
            wrong = name in _OPENING | _ON_PATHS
        elif owner is None:
            wrong = name == "open"
        else:
            wrong = name in _ON_PATHS and not _is_folder(owner)
        found |= {name} if wrong else set()
    return found


_FOLDERS = (
    *("folder", "_root", "_temporary", "making", "graph", "saved", "unfinished", "_all", "new", "journal", "tensor"),
    *("copy", "tx"),
)


def _is_folder(owner: ast.AST) -> bool:
    return any(word in ast.unparse(owner) for word in _FOLDERS)


def test_every_file_of_a_graph_is_opened_here() -> None:
    root = Path(mgraph_store.__file__).parent
    found = {str(p.relative_to(root)): calls_on_paths(p.read_text()) for p in root.rglob("*.py")}
    assert {name for name, calls in found.items() if calls} <= set(_ALLOWED), found
    assert calls_on_paths("path.read_bytes(); shutil.rmtree(x); open(y)") == {"read_bytes", "rmtree", "open"}
