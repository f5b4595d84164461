"""The gallery shows what its commands draw."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from PIL import Image

from mgraph_cli.main import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_gallery", DOCS / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GALLERY = _gallery()


def test_the_page_is_up_to_date_and_has_its_pictures() -> None:
    assert (DOCS / "gallery.md").read_text() == GALLERY.page(), "run: python docs/gallery.py"
    assert {file.name for file in (DOCS / "gallery").iterdir()} == {picture.file for picture in GALLERY.PICTURES}


@pytest.mark.parametrize("line", [*GALLERY.BEFORE, *(picture.command for picture in GALLERY.PICTURES)])
def test_its_commands_can_be_given(line: str) -> None:
    _, command, *rest = shlex.split(line)
    with click.Context(cli, **cli.context_settings) as above:
        found = cli.get_command(above, command)
        assert found is not None
        found.make_context(command, rest, parent=above)


@pytest.mark.stress
def test_its_pictures_are_drawn(tmp_path: Path) -> None:
    GALLERY.draw(tmp_path / "demo", tmp_path / "drawn")
    for picture in GALLERY.PICTURES:
        sizes = []
        for folder in (tmp_path / "drawn", DOCS / "gallery"):
            with Image.open(folder / picture.file) as image:
                sizes.append(image.size)
        assert sizes[0] == sizes[1]
