"""Upkeep: check, gc, rm, mv, relocate, du, copy, upgrade, archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgraph.errors import InputError
from mgraph_cli.completion import ANYTHING, ARCHS, DATA, NODES, SPACES
from mgraph_cli.finding import find_graph
from mgraph_cli.options import graph_option, output_options, with_computing_graph, with_graph
from mgraph_cli.output import emit, emit_one, note
from mgraph_cli.terminal import echo

if TYPE_CHECKING:
    from mgraph import Graph, UpkeepPlan

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@click.command()
@click.option("--deep", is_flag=True, help="Read every row and every tensor, and compare digests.")
@click.option("--repair", is_flag=True, help="Repair what can be proven (implies --deep).")
@graph_option
@output_options
@click.pass_context
def check(ctx: click.Context, deep: bool, repair: bool, graph_path: Path | None, form: str) -> None:
    """Check that nothing is lost or damaged; exit code 1 if something is.

    Every problem comes with its outcome: 'repairable' by --repair, to 'remake' by a command, or 'lost'.

    \b
    Example:
      mgraph check --deep
    """
    import mgraph

    found = mgraph.check(graph_path or find_graph(Path.cwd()), deep=deep, repair=repair)
    for line in found.repaired:
        note(line)
    emit(found.rows(), ("problem", "outcome", "remedy"), form=form, empty="No problems.")
    if not found.ok:
        ctx.exit(1)


@click.command()
@click.option("--older-than", type=float, default=24.0, show_default=True, help="Minimum age of garbage, in hours.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--claim", is_flag=True, help="Nobody else uses the tensors at this URL, or is writing some.")
@with_graph
@output_options
def gc(older_than: float, dry_run: bool, claim: bool, graph: Graph, form: str) -> None:
    """Delete what nothing refers to: leftovers of killed processes, objects without a row, states of complete runs.

    Recent files stay, because they may belong to a process that is still at work. Tensors at a URL stay while a copy of
    this graph's directory uses them, too; with --claim that copy loses them. Of a
    graph that machines share, what is newer than the oldest open transaction stays; with --claim there is none.

    \b
    Example:
      mgraph gc --dry-run
    """
    if claim and dry_run:
        raise click.UsageError("--claim changes something by itself: give it without --dry-run.")
    plan = graph.gc(older_than=older_than, dry_run=True, claim=claim)
    rows = [{**row, "size": _size(row["nbytes"])} for row in plan.rows] if form == "table" else plan.rows
    emit(rows, ("kind", "name", "size", "why"), form=form, empty="No garbage.")
    _carry_out(plan, dry_run)


@click.command()
@click.argument("things", nargs=-1, required=True, shell_complete=ANYTHING)
@click.option("--cascade", is_flag=True, help="Also remove what depends on it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@with_graph
@output_options
def rm(things: tuple[str, ...], cascade: bool, dry_run: bool, graph: Graph, form: str) -> None:
    """Remove nodes, connections, sweeps or spaces, with everything that belongs to them.

    If something else depends on them, this is refused and the message names it; --cascade removes that too. A
    connection is removed with its control points, samples and numbers, but not the modes that it joins. A merged node
    stays when the nodes it was made of are removed.

    \b
    Example:
      mgraph rm curve --dry-run
    """
    plan = graph.remove(*things, cascade=cascade, dry_run=True)
    emit(plan.rows if form != "table" else _shortened(plan), ("kind", "name", "id", "why"), form=form)
    _carry_out(plan, dry_run)


@click.command()
@click.argument("old", shell_complete=ANYTHING)
@click.argument("new")
@with_graph
@output_options
def mv(old: str, new: str, graph: Graph, form: str) -> None:
    """Give a node, connection or space another name.

    \b
    Example:
      mgraph mv a first
    """
    renamed = graph.rename(old, new)
    emit_one({"id": renamed.id, "name": renamed.name}, form=form)


@click.command()
@click.argument("which", nargs=-1, metavar="[SPACE] | OLD NEW", shell_complete=SPACES)
@click.option("--arch", help="Where the architecture's code is now: file.py:fn or pkg.module:fn.", shell_complete=ARCHS)
@click.option("--data", help="Where the data, or their code, are now: a spec.", shell_complete=DATA)
@click.option("--loss", help="Where the code of your own evaluation loss is now.")
@click.option("--trust", is_flag=True, help="With OLD NEW: trust the code there, even if it was not trusted before.")
@graph_option
@output_options
def relocate(
    which: tuple[str, ...],
    arch: str | None,
    data: str | None,
    loss: str | None,
    trust: bool,
    graph_path: Path | None,
    form: str,
) -> None:
    """Say where the code or data of a space are now, after they or the graph were moved.

    Give the new specs of a space, or an old and a new path (file or folder) for all spaces. A spec changes only if the
    code there has the hash that the space recorded, or the data have the fingerprint; nothing else changes.

    \b
    Example:
      mgraph relocate net-data --arch code/net.py:net --data code/net.py:data
      mgraph relocate ../old-project ../new-project
    """
    import mgraph

    if len(which) > 2 or (len(which) == 2 and (arch, data, loss) != (None, None, None)):
        raise click.UsageError("Give a SPACE with --arch, --data or --loss, or OLD and NEW alone.")
    graph = mgraph.open(graph_path or find_graph(Path.cwd()), trust=trust)
    if len(which) == 2:
        changed = graph.relocate(paths=(which[0], which[1]))
    else:
        changed = graph.relocate(which[0] if which else None, arch=arch, data=data, loss=loss)
    ids = {one.id for one in changed}
    emit([row for row in graph.spaces() if row["id"] in ids], ("name", "id", "arch", "data", "loss"), form=form)
    for row in graph.connections():
        if row["id"] in ids:
            note(f"Note: the family of {row['name'] or row['id']} is named by its new path.")


@click.command()
@with_graph
@output_options
def du(graph: Graph, form: str) -> None:
    """Show where the bytes are, by kind and by connection, and what recipes and sharing save.

    'whole' is what the nodes would take as one checkpoint file each, 'disk' what they take here.

    \b
    Example:
      mgraph du
    """
    found = graph.usage()
    columns = ("nodes", "stored", "whole", "disk", "saved")
    if form == "json":
        emit_one(found, form=form)
        return
    if form == "csv":
        rows = [{"type": "kind", "name": r.pop("kind"), **r} for r in found["kinds"]]
        rows += [{"type": "connection", "name": r.pop("connection"), **r} for r in found["connections"]]
        emit(rows, ("type", "name", *columns), form=form)
        return
    for title, key in (("kinds", "kind"), ("connections", "connection")):
        rows = [{**r, **{c: _size(r[c]) for c in columns[2:]}} for r in found[title]]
        if rows:
            emit(rows, (key, *columns), title=title)
    parts = {name: size for name, size in found["files"].items() if size}
    emit_one({k: _size(v) for k, v in {"buffers": found["buffers"], **parts, "garbage": found["garbage"]}.items() if v})
    echo("", f"total {_size(found['total'])}")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="[SOURCE] COPY", type=click.Path(path_type=Path))
@graph_option
@output_options
def copy(paths: tuple[Path, ...], graph_path: Path | None, form: str) -> None:
    """Copy a whole graph to a new directory, while others keep using it.

    The copy is the graph at one moment, and shares nothing with the original: tensors at a URL are copied into its
    directory. Saved states of interrupted runs are not copied; in the copy, such a run can only start again.

    \b
    Example:
      mgraph copy digits.mgraph backup.mgraph
    """
    import mgraph

    if len(paths) > 2:
        raise InputError(f"A graph is copied to one new directory, not {len(paths) - 1}: [SOURCE] COPY.")
    source = paths[0] if len(paths) == 2 else graph_path or find_graph(Path.cwd())
    made = mgraph.open(source).copy(paths[-1])
    if form == "json":
        emit_one(made, form=form)
        return
    size = made.pop("nbytes") if form == "csv" else _size(made.pop("nbytes"))
    unfinished = made.pop("unfinished")
    emit_one(made | {"size": size}, form=form)
    if unfinished:
        note(f"Saved states are not copied, so in the copy these start again: {', '.join(unfinished)}.")


@click.command()
@graph_option
@output_options
def upgrade(graph_path: Path | None, form: str) -> None:
    """Upgrade a graph of an older format to the current one, permanently.

    Such a graph can be read as it is, even on a read-only medium; to change it, upgrade it, which happens completely or
    not at all. An older mgraph cannot open it afterwards: keep a copy (mgraph copy) if you need one that can.

    If several machines share it, an older mgraph can then open it on none of them, and each has to upgrade it.

    \b
    Example:
      mgraph upgrade --graph digits.mgraph
    """
    import mgraph

    done = mgraph.upgrade(graph_path or find_graph(Path.cwd()))
    emit_one(done, form=form)


@click.command()
@click.argument("node", shell_complete=NODES)
@click.option(
    "--rounding", default="bf16", show_default=True, metavar="bf16|bitround:N", help="Bits of the mantissa to keep."
)
@click.option("--name", help="Name of the rounded copy.")
@with_computing_graph
@output_options
def archive(node: str, rounding: str, name: str | None, graph: Graph, form: str) -> None:
    """Store a copy of a node with rounded parameters, compressed, and what the rounding changes.

    bf16 keeps 7 bits of every parameter's mantissa, bitround:N keeps N. Loss and metrics of the original and of the
    copy are measured and kept with the copy; show says that it is lossy. The original stays too: to free its space,
    remove it (mgraph rm) if nothing depends on it.

    \b
    Example:
      mgraph archive a --rounding bitround:10 --name a-small
    """
    archived = graph.node(node).archive(rounding, name=name)
    facts = {"id": archived.node.id, "name": archived.node.name, "of": node, "rounding": rounding}
    sizes = {"raw_bytes": archived.raw_bytes, "stored_bytes": archived.stored_bytes}
    if form == "json":
        emit_one(facts | sizes | {"changes": archived.changes()}, form=form)
        return
    columns = ("split", "metric", "before", "after", "change")
    if form == "csv":
        emit(archived.changes(), columns, form=form)
        return
    emit_one(facts | {"stored": f"{_size(archived.stored_bytes)} of {_size(archived.raw_bytes)}"})
    echo()
    emit(archived.changes(), columns)


def _carry_out(plan: UpkeepPlan, dry_run: bool) -> None:
    for line in plan.notes:
        note(line)
    if dry_run:
        if plan.rows:
            note(f"Nothing was deleted; without --dry-run, {_size(plan.nbytes)} would be freed.")
        return
    plan.apply()
    if plan.nbytes:
        note(f"{_size(plan.nbytes)} were freed.")


def _shortened(plan: UpkeepPlan) -> list[dict[str, Any]]:
    """Count the many samples and controls that have the same reason instead of listing each."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in plan.rows:
        key = (row["kind"], row["why"]) if row["name"] is None else (row["id"], "")
        rows.setdefault(key, []).append(row)
    return [group[0] if len(group) == 1 else {**group[0], "id": f"{len(group)} of them"} for group in rows.values()]


def _size(nbytes: int) -> str:
    """Write bytes for people, with decimal prefixes."""
    value, unit = float(nbytes), 0
    while abs(value) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"
