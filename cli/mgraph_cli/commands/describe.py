"""The available choices: methods, recipes, archs, datasets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from mgraph import ARCHITECTURES, DATASETS, METHODS, RECIPES, TrainSettings, method_named
from mgraph.errors import InputError
from mgraph.settings import format_value
from mgraph_cli.options import output_options
from mgraph_cli.output import emit
from mgraph_cli.terminal import echo


@click.command()
@click.argument("name", required=False)
@output_options
def methods(name: str | None, form: str) -> None:
    """List the connection methods, or print one method's settings (as TOML, for --config) and presets.

    \b
    Example:
      mgraph methods surface
    """
    if name is None:
        rows = [
            {
                "name": m.name,
                "summary": m.summary,
                "presets": {preset: dict(values) for preset, values in m.presets.items()},
                "references": " ".join(m.references),
            }
            for m in METHODS.values()
        ]
        emit(rows, ("name", "summary"), form=form)
        return
    method = method_named(name)
    infos = method.infos()
    if form != "table":
        columns = ("name", "kind", "default", "unit", "help")
        emit([{c: getattr(i, c) for c in columns} for i in infos], columns, form=form)
        return
    flag = f"--{name}" if name in METHODS else f"--method {name}"
    echo(f"# mgraph connect … {flag}: {method.summary}")
    for info in infos:
        unit = f" [{info.unit}]" if info.unit else ""
        # TOML has no null; the setting has its own word for it.
        value = info.nothing if info.default is None else info.default
        echo(f"{info.name} = {_toml(value)}  # {info.help}{unit}")
    for preset, values in method.presets.items():
        echo(f"# --preset {preset}: {', '.join(f'{key} = {_toml(value)}' for key, value in values.items())}")
    for reference in method.references:
        echo(f"# {reference}")


@click.command()
@click.argument("name", required=False)
@output_options
def recipes(name: str | None, form: str) -> None:
    """List the recipes of papers for training a mode (train --preset), or print one with its source.

    \b
    Example:
      mgraph recipes lenet5-mnist
    """
    if name is None:
        columns = ("name", "arch", "data", "source", "unstated")
        rows = [{c: getattr(r, c) for c in columns} | {"settings": dict(r.settings)} for r in RECIPES.values()]
        emit(rows, columns[:-1], form=form)
        return
    TrainSettings.preset(name)  # which refuses what is none
    recipe = RECIPES[name]
    if form != "table":
        rows = [{"setting": key, "value": value} for key, value in recipe.settings.items()]
        emit(rows, ("setting", "value"), form=form)
        return
    echo(f"# mgraph train --preset {name}, for {recipe.arch} on {recipe.data}")
    for key, value in recipe.settings.items():
        echo(f"{key} = {_toml(value)}")
    echo(f"# Source: {recipe.source}")
    if recipe.unstated:
        echo(f"# Not said there, or not legible, and therefore mgraph's own: {recipe.unstated}")


@click.command()
@click.argument("specs", nargs=-1, metavar="[SPEC]...")
@click.option("--input", "shape", metavar="N,N,…", help="Shape of one example [default: 3,32,32, or what it is for].")
@click.option("--classes", type=int, help="Number of outputs [default: 10, or what it is for].")
@output_options
def archs(specs: tuple[str, ...], shape: str | None, classes: int | None, form: str) -> None:
    """List the architectures that a spec can name, or those of SPECs, and how large they are.

    Parameters are counted once where they are tied; multiply-adds are those of a forward pass of one example. Language
    models count on 35 tokens of 10000.

    \b
    Example:
      mgraph archs
      mgraph archs "wrn?depth=16&width=4" "torchvision:resnet18?stem=cifar" --classes 100
    """
    given = None if shape is None else _shape(shape)
    if specs:
        rows = [{"spec": spec} | _size(spec, given, classes) for spec in specs]
        emit(rows, ("spec", *_SIZE), form=form)
        return
    rows = _rows(ARCHITECTURES.values())
    for entry, row in zip(ARCHITECTURES.values(), rows, strict=False):
        try:
            row |= dict.fromkeys(_SIZE) if entry.argument else _size(entry.name, given, classes)
        except InputError:  # not for such inputs
            row |= dict.fromkeys(_SIZE)
    rows[-1] |= dict.fromkeys(_SIZE)
    emit(rows, ("spec", *_SIZE, "summary", "options"), form=form)


_SIZE = ("parameters", "multiply_adds", "input", "classes")


def _size(spec: str, shape: tuple[int, ...] | None, classes: int | None) -> dict[str, Any]:
    from mgraph import size_of  # which needs torch, as nothing else here does

    size = size_of(spec, input_shape=shape, classes=classes)
    across = "×".join(map(str, size.input_shape))
    return dict(zip(_SIZE, (size.parameters, size.multiply_adds, across, size.classes), strict=True))


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--input is numbers with commas, such as 3,32,32; not {text!r}.") from None


@click.command()
@output_options
def datasets(form: str) -> None:
    """List the data sets that a spec can name.

    \b
    Example:
      mgraph datasets
    """
    emit(_rows(DATASETS.values()), ("spec", "summary", "options"), form=form)


def _rows(entries: Iterable[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "spec": e.usage,
            "summary": e.summary,
            "options": [p.name if p.default is None else f"{p.name}={format_value(p.default)}" for p in e.params],
        }
        for e in entries
    ]
    rows.append({"spec": "pkg.module:factory, file.py:factory", "summary": "your own", "options": []})
    return rows


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
