"""The command group, and the one place where errors become messages and exit codes.

0 done, 1 failed, 2 wrong usage or input, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click
from typing_extensions import override

from mgraph.errors import MGraphError, MGraphWarning
from mgraph_cli.libraries import Warnings
from mgraph_cli.output import echo_json
from mgraph_cli.process import import_nothing_from_here, tune_allocator
from mgraph_cli.terminal import echo, guarded

_SECTIONS = {
    "Graphs and modes": {
        "init": "graphs",
        "join": "graphs",
        "add-space": "graphs",
        "spaces": "graphs",
        "train": "modes",
        "add-mode": "modes",
        "evaluate": "modes",
    },
    "Connections": {
        "connect": "connect",
        "sweep": "connect",
        "plane": "plane",
        "compose": "topology",
        "suggest": "explore",
        "explore": "explore",
        "resume": "resume",
    },
    "What is there": {
        "ls": "inspect",
        "show": "inspect",
        "log": "inspect",
        "tag": "labels",
        "note": "labels",
        "sql": "sql",
        "plot": "plot",
        "map": "plot",
        "matrix": "plot",
        "report": "report",
    },
    "Connectivity": {
        "components": "topology",
        "route": "topology",
        "mst": "topology",
        "dendrogram": "topology",
        "neighbours": "topology",
        "isolated": "topology",
    },
    "Comparing and aligning": {
        "compare": "measures",
        "sharpness": "measures",
        "align": "align",
    },
    "Better models": {
        "merge": "merge",
        "soup": "sets",
        "ensemble": "sets",
        "predict": "sets",
        "export": "merge",
    },
    "Sharing and upkeep": {
        "pack": "sharing",
        "unpack": "sharing",
        "copy": "upkeep",
        "check": "upkeep",
        "gc": "upkeep",
        "rm": "upkeep",
        "mv": "upkeep",
        "relocate": "upkeep",
        "du": "upkeep",
        "upgrade": "upkeep",
        "archive": "upkeep",
    },
    "What can be named": {
        "methods": "describe",
        "recipes": "describe",
        "archs": "describe",
        "datasets": "describe",
        "demo": "demo",
        "repro": "repro",
    },
}
"""Sections of the help → commands → the modules that have them."""

_COMMANDS = {name: module for commands in _SECTIONS.values() for name, module in commands.items()}


class Commands(click.Group):
    """A group that loads a command when it is named, and maps every error to one line and an exit code."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of the manual."""
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"mgraph_cli.commands.{_COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named; UsageError, with the closest one, if there is none."""
        unknown = bool(args) and args[0] not in _COMMANDS and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:  # when the shell completes, nothing is wrong yet
            close = get_close_matches(args[0], _COMMANDS, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section."""
        width = max(map(len, _COMMANDS))
        for section, names in _SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            limit = formatter.width - 6 - width
            with formatter.section(section):
                formatter.write_dl(
                    [(f"{name:{width}}", command.get_short_help_str(limit)) for name, command in found if command]
                )

    @override
    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run a command line and exit with its code."""
        given = list(sys.argv[1:] if args is None else args)
        tune_allocator()
        import_nothing_from_here()
        options["standalone_mode"] = False
        again = _Again(given)
        options["obj"] = again
        with guarded(), warnings.catch_warnings():
            warnings.simplefilter("always", MGraphWarning)
            warnings.showwarning = Warnings().show
            try:
                code = super().main(given, *rest, **options)
            except click.Abort as stopped:
                kept = _notes(stopped.__cause__)
                what = f"Interrupted. {kept}" if kept else "Interrupted; nothing half-made was stored."
                message = f"{what} {again.after(stopped.__cause__)}"
                _say(given, "interrupted", message, message)
                code = 130
            except click.exceptions.NoArgsIsHelpError as error:
                echo(*error.format_message().split("\n"))
                code = 0
            except click.ClickException as error:
                _fail(given, "usage", _usage(error))
                code = error.exit_code
            except MGraphError as error:
                if "--traceback" in given:
                    echo(*traceback.format_exc().rstrip("\n").split("\n"), err=True)
                _fail(given, error.kind, f"{error} {_notes(error)}")
                code = error.exit_code
            except Exception as error:  # our bug, or one in the user's network or data
                if "--traceback" in given:
                    echo(*traceback.format_exc().rstrip("\n").split("\n"), err=True)
                _fail(given, "unexpected", f"{_described(error)} (mgraph --traceback … shows where) {_notes(error)}")
                code = 1
        sys.exit(code if isinstance(code, int) else 0)


class _Again:
    """The command to type after an interruption: the same one, or if a run can be resumed, the one that does so."""

    def __init__(self, given: Sequence[str]) -> None:
        self.command = shlex.join(["mgraph", *given])
        self.graph: str | None = None  # if --graph names it

    def after(self, stopped: BaseException | None) -> str:
        """Say what to type."""
        run = getattr(stopped, "run_id", None)
        if run is None:
            return f"Run again: {self.command}"
        words = ["mgraph", "resume", run, *([] if self.graph is None else ["--graph", self.graph])]
        return f"Continue with: {shlex.join(words)}"


def _notes(error: BaseException | None) -> str:
    """Return the notes added to an error on its way: what an unfinished sweep has stored."""
    return " ".join(getattr(error, "__notes__", ()))


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        end = "" if message.endswith("?") else "."
        message = f"{message.rstrip('.')}{end} See: {error.ctx.command_path} --help"
    return message


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _fail(given: Sequence[str], kind: str, message: str) -> None:
    message = " ".join(message.split())
    _say(given, kind, message, f"Error: {message}")


def _say(given: Sequence[str], kind: str, message: str, line: str) -> None:
    """Say why a command did not finish: one line, or one document where JSON is wanted."""
    if "--json" in given:
        echo_json({"error": {"kind": kind, "message": message}}, err=True)
    else:
        echo(line, err=True)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mgraph")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
def cli(traceback: bool) -> None:
    """A checkpoint graph for mode connectivity.

    Train or import modes, connect them by paths and surfaces, query what is connected, and extract merged models and
    ensembles. Commands find the graph by --graph, $MGRAPH_GRAPH, or the only *.mgraph in this directory or above.

    \b
    Example:
      mgraph init digits.mgraph --arch cnn --data digits
      mgraph train --seed 1 --name a
    """


def main() -> None:
    """Enter the program."""
    cli(prog_name="mgraph")
