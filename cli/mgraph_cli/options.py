"""Options shared by commands, and flags generated from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from typing_extensions import override

from mgraph.errors import InputError
from mgraph.settings import Option, SettingInfo, Settings, options_of
from mgraph_cli.completion import BY_KIND, SPACES
from mgraph_cli.finding import find_graph
from mgraph_cli.output import CSV_SAFE
from mgraph_cli.progress import progress_lines

Decorator = Callable[[Any], Any]


_TYPED = "mgraph.typed"
"""In a context: the words of its command line."""


class SectionedCommand(click.Command):
    """A command whose help lists its options under several headings, and of settings those of the method named."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; a help text then knows which method it names."""
        ctx.meta[_TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section, in the order in which they first appear."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                title = param.title(ctx) if isinstance(param, SectionOption) else "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class SectionOption(click.Option):
    """An option that is listed under its own heading."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section

    def title(self, ctx: click.Context) -> str:
        """Return the heading."""
        return self.section


class MethodSetting(SectionOption):
    """A setting of several methods, which help shows as that of the method on the command line, or not at all."""

    def __init__(self, *args: Any, users: Mapping[str, SettingInfo], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._users = users

    @override
    def title(self, ctx: click.Context) -> str:
        """Return the heading, which names the method."""
        return f"Settings of --{self._method(ctx)}"

    @override
    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Describe the setting as the method has it."""
        info = self._users.get(self._method(ctx))
        record = None if info is None else super().get_help_record(ctx)
        return None if info is None or record is None else (record[0], _help([("", info)], 1))

    def _method(self, ctx: click.Context) -> str:
        return next((word[2:] for word in ctx.meta.get(_TYPED, ()) if word[2:] in self._users), "")


def with_graph(command: Any) -> Any:
    """Open the graph that ``--graph`` or the directory names, and pass it on as ``graph``."""

    @wraps(command)
    def opened(*args: Any, graph_path: Path | None, **options: Any) -> Any:
        import mgraph

        return command(*args, graph=mgraph.open(graph_path or find_graph(Path.cwd())), **options)

    return graph_option(opened)


def with_computing_graph(command: Any) -> Any:
    """Open the graph as :func:`with_graph` does, with ``--device``, ``--threads``, ``--workers`` and ``--trust``."""

    @wraps(command)
    def opened(
        *args: Any,
        graph_path: Path | None,
        device: str,
        threads: int | None,
        workers: int | None,
        trust: bool,
        **options: Any,
    ) -> Any:
        import mgraph

        context = click.get_current_context()
        if context.get_parameter_source("graph_path") is ParameterSource.COMMANDLINE:
            context.obj.graph = str(graph_path)
        path = graph_path or find_graph(Path.cwd())
        with progress_lines(context.info_name or "mgraph"):
            graph = mgraph.open(path, device=device, threads=threads, workers=workers, trust=trust)
            return command(*args, graph=graph, **options)

    decorated = click.option("--trust", is_flag=True, help="Run the user code that this graph's specs name.")(opened)
    workers_help = "Processes that read streamed data; 0: none (default: by the number of processors)."
    decorated = click.option("--workers", type=click.IntRange(min=0), help=workers_help)(decorated)
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
    help = "Name or id of the space (needed if there are several)."
    return click.option("--space", help=help, shell_complete=SPACES)(command)


def dark_option(command: Any) -> Any:
    """Add ``--dark``."""
    return click.option("--dark", is_flag=True, help="Draw on a dark background.")(command)


def check_dark(output: Path | None, *, dark: bool) -> None:
    """Raise InputError for ``--dark`` where nothing is drawn."""
    if dark and output is None:
        raise InputError("--dark is for a picture; say where: -o picture.png")


def output_options(command: Any) -> Any:
    """Add ``--json``, ``--csv`` and ``--csv-safe``, passed on as ``form``."""

    @wraps(command)
    def chosen(*args: Any, csv_safe: bool, form: str, **options: Any) -> Any:
        if csv_safe and form == "json":
            raise InputError("--csv-safe prints CSV, not JSON; choose one of them.")
        click.get_current_context().meta[CSV_SAFE] = csv_safe
        return command(*args, form="csv" if csv_safe else form, **options)

    help = "Print CSV for a spreadsheet, in which no text can act as a formula."
    decorated = click.option("--csv-safe", is_flag=True, help=help)(chosen)
    decorated = click.option("--csv", "form", flag_value="csv", help="Print CSV.")(decorated)
    decorated = click.option("--json", "form", flag_value="json", help="Print one JSON document.")(decorated)
    # The default (neither) needs an option to carry it, too.
    return click.option("--text", "form", flag_value="table", default=True, hidden=True)(decorated)


def keyword_options(
    keywords: type, *, only: Sequence[str] = (), without: Sequence[str] = (), section: str | None = None
) -> Decorator:
    """Add an option for every keyword of a TypedDict that describes one (all, ``only`` some, or those ``without``
    some)."""

    def decorate(command: Any) -> Any:
        for name, (kind, option) in reversed(options_of(keywords).items()):
            if name not in without and (not only or name in only):
                command = _keyword_option(name, kind, option, section)(command)
        return command

    return decorate


def _keyword_option(name: str, kind: type, option: Option, section: str | None) -> Decorator:
    flag = option.flag or "--" + name.replace("_", "-")
    how: dict[str, Any] = {"help": option.help, "metavar": option.shown}
    if option.names is not None:
        how["shell_complete"] = BY_KIND[option.names]
    if kind is bool:
        negated = flag.startswith("--no-")
        how |= {"is_flag": True, "callback": lambda _ctx, _param, given: given != negated}
    elif option.many == "repeated":
        how["multiple"] = True
    elif option.many == "commas":
        how["callback"] = lambda _ctx, _param, text: numbers(text, flag, int) if kind is int else _words(text)
    else:
        how["type"] = kind if option.low is None else click.IntRange(min=option.low)
    if option.default is not None:
        how |= {"default": option.default, "show_default": True}
    if section is not None:
        how |= {"cls": SectionOption, "section": section}
    return click.option(flag, name, **how)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",")]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given or have a default; the methods of a graph know the other defaults."""
    return {name: value for name, value in options.items() if value is not None}


def grid_option(help: str) -> Decorator:
    """Add ``--grid n`` or ``--grid n,m``."""
    return click.option("--grid", callback=lambda _ctx, _param, text: numbers(text, "--grid", int), help=help)


def numbers(text: str | None, flag: str, kind: type[int] | type[float]) -> list[Any] | None:
    """Parse numbers with commas; InputError otherwise."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(f"{flag} takes {what} with commas, not {text!r}.") from None


@dataclass(frozen=True)
class GivenSettings:
    """Settings as typed: a preset, a TOML file, ``-s key=value``, and flags, later ones overriding earlier ones."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    pairs: Sequence[str] = ()
    config: Path | None = None
    preset: str | None = None

    def of(self, cls: type[Settings]) -> Any:
        """Return them as checked settings of a class."""
        values = self.values()
        return cls.parse(values) if self.preset is None else cls.preset(self.preset, **values)

    def values(self) -> dict[str, Any]:
        """Combine everything but the preset, without checking it yet."""
        values: dict[str, Any] = {}
        if self.config is not None:
            values |= _read_toml(self.config)
        for pair in self.pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"-s takes key=value, not {pair!r}.")
            values[key.strip().replace("-", "_")] = value.strip()
        return values | given(self.flags)


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # the parser's own, bad UTF-8, huge numbers or nesting
        raise InputError(f"{path} is not TOML: {error}.") from None


def settings_options(classes: Mapping[str, type[Settings]], *, flags: bool = True, presets: bool = False) -> Decorator:
    """Add ``-s key=value`` and ``--config``, passed on with all others as ``settings``, :class:`GivenSettings`.

    With ``flags``, every field of the named settings classes has one: a field of several classes becomes one flag whose
    help names their defaults. With ``presets`` there is ``--preset`` too.
    """
    merged: dict[str, list[tuple[str, SettingInfo]]] = {}
    for name, cls in classes.items() if flags else ():
        for info in cls.infos():
            merged.setdefault(info.name, []).append((name, info))
    having = [name for name, cls in classes.items() if cls.infos()]
    section = f"Settings of {_listed(having)}" if len(classes) > 1 else "Settings"

    def decorate(command: Any) -> Any:
        @wraps(command)
        def bundled(
            *args: Any, pairs: Sequence[str], config: Path | None, preset: str | None = None, **options: Any
        ) -> Any:
            typed = {name: options.pop(name) for name in merged}
            return command(*args, settings=GivenSettings(typed, pairs, config, preset), **options)

        decorated: Any = bundled
        for name, users in reversed(merged.items()):
            how: dict[str, Any] = {"cls": SectionOption}
            if len(classes) > 1:
                how = {"cls": MethodSetting, "users": dict(users)}
            if (alone := users[0][1].alone) is not None:
                how |= {"is_flag": False, "flag_value": alone}
            decorated = click.option(
                "--" + name.replace("_", "-"),
                name,
                section=section,
                help=_help(users, len(having)),
                metavar=_metavar(users[0][1]),
                **how,
            )(decorated)
        what, whose = ("; -s and flags override", "") if flags else ("; -s overrides", " of the method, as for connect")
        help = f"TOML file of settings{what} it."
        decorated = click.option("--config", type=click.Path(path_type=Path), help=help)(decorated)
        if presets:
            decorated = _preset_option(classes)(decorated)
        help = "Set any setting by name; flags override it." if flags else f"Set any setting{whose}."
        return click.option("-s", "--set", "pairs", multiple=True, metavar="KEY=VALUE", help=help)(decorated)

    return decorate


def _preset_option(classes: Mapping[str, type[Settings]]) -> Decorator:
    known = [f"{_listed(list(cls.presets))} ({name})" for name, cls in classes.items() if cls.presets]
    help = f"Settings to start from, overridden by others: {', '.join(known)}."
    return click.option("--preset", metavar="NAME", help=help)


def _metavar(info: SettingInfo) -> str:
    choices = ("true", "false") if info.kind == "true or false" else info.choices
    value = "|".join(choices) or "VALUE"
    return value if info.alone is None else f"[{value}]"


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
