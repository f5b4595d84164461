"""Trust: code named by a graph runs only after this user said so."""

import json
import os
import subprocess
import sys

import pytest

from mgraph import trust
from mgraph.errors import InputError, UntrustedError


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path / "config" / "trust.json"


def test_the_secret_is_drawn_once_and_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "config"))
    first = trust.secret()
    assert len(first) == 32
    assert trust.secret() == first
    assert [p.name for p in (tmp_path / "config").iterdir()] == ["secret"]
    assert (tmp_path / "config" / "secret").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "another"))
    assert trust.secret() != first
    (tmp_path / "file").touch()
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "file"))  # where nothing can be kept
    assert trust.secret() == trust.secret() != first


def test_only_the_exact_triple_is_trusted(tmp_path):
    graph = tmp_path / "g.mgraph"
    assert not trust.is_trusted(graph, "m.py:net", "h1")
    trust.trust(graph, "m.py:net", "h1")
    assert trust.is_trusted(graph, "m.py:net", "h1")
    assert not trust.is_trusted(graph, "m.py:net", "h2")
    assert not trust.is_trusted(graph, "n.py:net", "h1")
    assert not trust.is_trusted(tmp_path / "other.mgraph", "m.py:net", "h1")
    trust.require(graph, "m.py:net", "h1")


def test_refusal_says_whether_it_changed_and_what_to_type(tmp_path):
    graph = tmp_path / "g.mgraph"
    with pytest.raises(UntrustedError, match=r"^nets/m\.py, .* not trusted yet; .*--trust"):
        trust.require(graph, "nets/m.py:net?width=3", "h1")
    trust.trust(graph, "nets/m.py:net?width=3", "h1")
    with pytest.raises(UntrustedError, match=r"^nets/m\.py, .* has changed .*--trust"):
        trust.require(graph, "nets/m.py:net?width=3", "h2")


def test_relative_paths_and_links_are_the_same_graph(tmp_path, monkeypatch):
    graph = tmp_path / "g.mgraph"
    graph.mkdir()
    (tmp_path / "link.mgraph").symlink_to(graph)
    trust.trust(graph, "m.py:net", "h")
    monkeypatch.chdir(tmp_path)
    assert trust.is_trusted("g.mgraph", "m.py:net", "h")
    assert trust.is_trusted("link.mgraph", "m.py:net", "h")


def test_memory_is_one_readable_file_without_repeats(tmp_path, configuration):
    for _ in range(2):
        trust.trust(tmp_path / "g", "m.py:net", "h")
    trust.trust(tmp_path / "g", "d.py:data", "k")
    entries = json.loads(configuration.read_text())["trusted"]
    assert [(e["spec"], e["hash"]) for e in entries] == [("m.py:net", "h"), ("d.py:data", "k")]
    assert [p.name for p in configuration.parent.iterdir()] == ["trust.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"trusted": [1]}', '{"trusted": [{"graph": "g"}]}'])
def test_a_damaged_memory_trusts_nothing(tmp_path, configuration, content):
    configuration.parent.mkdir()
    configuration.write_text(content)
    with pytest.raises(InputError, match="damaged"):
        trust.is_trusted(tmp_path, "m.py:net", "h")


def test_an_unwritable_directory_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MGRAPH_CONFIG_DIR", str(tmp_path / "file" / "sub"))
    with pytest.raises(InputError, match=r"MGRAPH_CONFIG_DIR|cannot be read"):
        trust.trust(tmp_path, "m.py:net", "h")


def test_specs_trust_and_registries_never_load_torch():
    code = (
        "import sys, mgraph.specs, mgraph.trust, mgraph.factories, "
        "mgraph.builtin, mgraph.jobs.registry; sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
