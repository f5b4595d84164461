"""Options shared by commands, and flags generated from settings."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from typing_extensions import override

from mgraph.errors import InputError, NotFoundError
from mgraph.settings import SettingInfo, Settings
from mgraph_cli.output import CSV_SAFE
from mgraph_cli.progress import progress_lines

Decorator = Callable[[Any], Any]


class SectionedCommand(click.Command):
    """A command whose help lists its options under several headings."""

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section, in the order in which they first appear."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionOption(click.Option):
    """An option that is listed under its own heading."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


def with_graph(command: Any) -> Any:
    """Open the graph that ``--graph`` or the directory names, and pass it on as ``graph``."""

    @wraps(command)
    def opened(*args: Any, graph_path: Path | None, **options: Any) -> Any:
        import mgraph

        return command(*args, graph=mgraph.open(graph_path or find_graph(Path.cwd())), **options)

    return graph_option(opened)


def with_computing_graph(command: Any) -> Any:
    """Open the graph as :func:`with_graph` does, with ``--device``, ``--threads`` and ``--trust``."""

    @wraps(command)
    def opened(
        *args: Any, graph_path: Path | None, device: str, threads: int | None, trust: bool, **options: Any
    ) -> Any:
        import mgraph

        context = click.get_current_context()
        if context.get_parameter_source("graph_path") is ParameterSource.COMMANDLINE:
            context.obj.graph = str(graph_path)
        path = graph_path or find_graph(Path.cwd())
        with progress_lines(context.info_name or "mgraph"):
            graph = mgraph.open(path, device=device, threads=threads, trust=trust)
            return command(*args, graph=graph, **options)

    decorated = click.option("--trust", is_flag=True, help="Run the user code that this graph's specs name.")(opened)
    threads_help = "CPU threads (default: by the network's size)."
    decorated = click.option("--threads", type=click.IntRange(min=1), help=threads_help)(decorated)
    decorated = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda[:i] or mps.")(
        decorated
    )
    return graph_option(decorated)


def graph_option(command: Any) -> Any:
    """Add ``--graph``, passed on as ``graph_path``."""
    return click.option(
        "--graph",
        "graph_path",
        type=click.Path(path_type=Path),
        envvar="MGRAPH_GRAPH",
        help="The graph directory (default: $MGRAPH_GRAPH, or the only *.mgraph here or above).",
    )(command)


def space_option(command: Any) -> Any:
    """Add ``--space``."""
    return click.option("--space", help="Name or id of the space (needed if there are several).")(command)


def output_options(command: Any) -> Any:
    """Add ``--json``, ``--csv`` and ``--csv-safe``, passed on as ``form``."""

    @wraps(command)
    def chosen(*args: Any, csv_safe: bool, form: str, **options: Any) -> Any:
        if csv_safe and form == "json":
            raise InputError("--csv-safe prints CSV, not JSON; choose one of them.")
        click.get_current_context().meta[CSV_SAFE] = csv_safe
        return command(*args, form="csv" if csv_safe else form, **options)

    help = "Print CSV for a spreadsheet, where no text is taken for a formula."
    decorated = click.option("--csv-safe", is_flag=True, help=help)(chosen)
    decorated = click.option("--csv", "form", flag_value="csv", help="Print CSV.")(decorated)
    decorated = click.option("--json", "form", flag_value="json", help="Print one JSON document.")(decorated)
    # The default (neither) needs an option to carry it, too.
    return click.option("--text", "form", flag_value="table", default=True, hidden=True)(decorated)


def grid_option(help: str) -> Decorator:
    """Add ``--grid n`` or ``--grid n,m``."""
    return click.option("--grid", callback=lambda _ctx, _param, text: numbers(text, "--grid", int), help=help)


def inner_option(command: Any) -> Any:
    """Add ``--inner``."""
    help = "Instead of --grid, for a chain or band: its control points and this many points on every piece."
    return click.option("--inner", type=click.IntRange(min=0), help=help)(command)


def numbers(text: str | None, flag: str, kind: type[int] | type[float]) -> list[Any] | None:
    """Parse numbers with commas; InputError otherwise."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{flag} takes {what} with commas, not {text!r}.") from None


def settings_options(classes: Mapping[str, type[Settings]]) -> Decorator:
    """Add a flag for every field of the named settings classes, and ``-s key=value`` and ``--config``.

    A field that several classes have becomes one flag whose help names their defaults.
    """
    merged: dict[str, list[tuple[str, SettingInfo]]] = {}
    for name, cls in classes.items():
        for info in cls.infos():
            merged.setdefault(info.name, []).append((name, info))
    having = [name for name, cls in classes.items() if cls.infos()]
    section = f"Settings of {_listed(having)}" if len(classes) > 1 else "Settings"

    def decorate(command: Any) -> Any:
        for field, users in reversed(merged.items()):
            command = click.option(
                "--" + field.replace("_", "-"),
                field,
                cls=SectionOption,
                section=section,
                help=_help(users, len(having)),
                metavar=_metavar(users[0][1]),
            )(command)
        command = click.option(
            "--config", type=click.Path(path_type=Path), help="TOML file of settings; -s and flags override it."
        )(command)
        help = "Set any setting by name; flags override it."
        return click.option("-s", "--set", "pairs", multiple=True, metavar="KEY=VALUE", help=help)(command)

    return decorate


def preset_option(classes: Mapping[str, type[Settings]]) -> Decorator:
    """Add ``--preset``, whose help lists the presets."""
    known = [f"{_listed(list(cls.presets))} ({name})" for name, cls in classes.items() if cls.presets]
    help = f"Settings to start from, overridden by others: {', '.join(known)}."
    return click.option("--preset", metavar="NAME", help=help)


def chosen_settings(
    cls: type[Settings],
    flags: Mapping[str, Any],
    pairs: Sequence[str],
    config: Path | None,
    preset: str | None = None,
) -> Any:
    """Combine preset, config file, ``-s`` pairs and flags, later ones overriding earlier ones, into checked
    settings."""
    values = setting_values(flags, pairs, config)
    return cls.parse(values) if preset is None else cls.preset(preset, **values)


def setting_values(flags: Mapping[str, Any], pairs: Sequence[str], config: Path | None) -> dict[str, Any]:
    """Combine config file, ``-s`` pairs and flags, later ones overriding earlier ones, without checking them yet."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values |= tomllib.loads(config.read_text())
        except OSError as error:
            raise InputError(f"{config} cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:  # the parser's own, bad UTF-8, huge numbers or nesting
            raise InputError(f"{config} is not TOML: {error}.") from None
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"-s takes key=value, not {pair!r}.")
        values[key.strip().replace("-", "_")] = value.strip()
    return values | {key: value for key, value in flags.items() if value is not None}


def find_graph(start: Path) -> Path:
    """Find the only *.mgraph directory in ``start`` or the nearest directory above that has one, as git does."""
    for directory in (start, *start.parents):
        try:
            found = sorted(p for p in directory.glob("*.mgraph") if p.is_dir())
        except OSError:
            continue
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found)
            raise InputError(f"{directory} holds several graphs ({names}); choose one with --graph.")
    raise NotFoundError("There is no graph here or above; make one with mgraph init, or name one with --graph.")


def _metavar(info: SettingInfo) -> str:
    choices = ("true", "false") if info.kind == "true or false" else info.choices
    return "|".join(choices) or "VALUE"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _help(users: Sequence[tuple[str, SettingInfo]], classes: int) -> str:
    info = users[0][1]
    defaults: dict[str, list[str]] = {}
    for name, i in users:
        defaults.setdefault(i.example(), []).append(name)
    parts = [value if len(defaults) == 1 else f"{value} for {_listed(names)}" for value, names in defaults.items()]
    default = ", ".join(parts)
    whose = "" if len(users) == classes else f" ({', '.join(n for n, _ in users)})"
    text = info.help[0].upper() + info.help[1:]
    return f"{text}{whose}. [default: {default}]"
