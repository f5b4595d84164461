"""The table of an experiment: published, ours, and the difference in the paper's units; as Markdown and CSV (no
torch)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgraph.repro.experiment import FAITHFUL, OURS, VARIANTS, Experiment, Published, Row, Spread

COLUMNS = (
    *("row", "quantity", "unit", "published", "faithful", "faithful_error", "faithful_difference"),
    *("ours", "ours_error", "ours_difference", "repeats", "status", "source"),
)

RUN, NOT_RUN = "run", "not run"
NEVER = "never run by us: it needs a GPU for hours or days"


@dataclass
class Table:
    """One record for every number; ``files`` are where it was written, ``notes`` what a reader should know."""

    experiment: Experiment
    scale: str
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def add(self, row: Row, numbers: Mapping[str, Mapping[str, Spread]] | None, why: str = "") -> None:
        """Add a row of this scale that was run, or, with None, one that was not; ``why`` says more about that."""
        if numbers is None:
            status = f"{NOT_RUN}: {why}" if why else NOT_RUN
            for quantity, published in row.published.items():
                self._add(row, quantity, published, {}, status)
            return
        measured = {quantity for by_quantity in numbers.values() for quantity in by_quantity}
        for quantity in (q.name for q in self.experiment.quantities):
            if quantity in measured or quantity in row.published:
                by_variant = {v: numbers[v][quantity] for v in VARIANTS if quantity in numbers.get(v, {})}
                status = RUN if by_variant else NOT_RUN
                self._add(row, quantity, row.published.get(quantity), by_variant, status)

    def _add(
        self, row: Row, quantity: str, published: Published | None, found: Mapping[str, Spread], status: str
    ) -> None:
        record: dict[str, Any] = dict.fromkeys(COLUMNS)
        record |= {"row": row.name, "quantity": quantity, "unit": self.experiment.unit(quantity), "status": status}
        if published is not None:
            record |= {"published": published.said or published.value, "source": published.source}
        for variant, spread in found.items():
            record |= {variant: spread.mean, f"{variant}_error": spread.error, "repeats": len(spread.values)}
            if published is not None and published.value is not None:
                record[f"{variant}_difference"] = spread.mean - published.value
        self.records.append(record)

    def markdown(self) -> str:
        """Write it for people: a table with one number per line, and what to know about it."""
        e = self.experiment
        lines = [f"# {e.name}: {e.title}", "", f"Scale {self.scale}. {_MEANT[self.scale]}", ""]
        columns = [v for v in VARIANTS if any(r[v] is not None for r in self.records)] or [OURS]
        heads = ["row", "quantity", "published"]
        heads += [cell for v in columns for cell in (v, f"{v} − published")]
        lines.append(f"| {' | '.join(heads)} |")
        lines.append(f"|{'---|' * len(heads)}")
        for r in self.records:
            unit = f" ({r['unit']})" if r["unit"] else ""
            cells = [r["row"], f"{r['quantity']}{unit}", _cell(r["published"])]
            for v in columns:
                shown = r["status"] if r["status"] != RUN else _measured(r[v], r[f"{v}_error"])
                cells += [shown, _signed(r[f"{v}_difference"])]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *[f"- {note}" for note in self.notes], ""]
        return "\n".join(lines)

    def csv(self) -> str:
        """Write it for programs, with all digits."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return text.getvalue()

    def write(self, graph: Path) -> None:
        """Write both beside the graph, as GRAPH.EXPERIMENT.md and .csv, in the place of earlier ones."""
        self.files = []
        for ending, text in (("md", self.markdown()), ("csv", self.csv())):
            file = graph.absolute().parent / f"{graph.stem}.{self.experiment.name}.{ending}"
            aside = file.with_name(f".{file.name}.{os.getpid()}")
            aside.write_text(text, encoding="utf-8")
            aside.replace(file)
            self.files.append(file)


_MEANT = {
    "tiny": "Tiny networks on tiny data: it shows that everything runs, and differences from the published numbers say "
    "nothing about the paper.",
    "small": "For two CPU cores and about an hour: smaller networks, or less training, than the paper's.",
    "paper": "The published setting.",
}


def usual_notes(experiment: Experiment, scale: str, rows: Sequence[Row], *, errors: bool) -> list[str]:
    """Return what readers of any table should know; ``errors``: whether any number has a standard error."""
    notes = []
    others = [row.name for row in rows if scale not in row.setups]
    if others:
        notes.append(f"Not at the scale {scale}: {', '.join(others)}.")
    if any(set(row.variants) == set(VARIANTS) for row in rows):
        cost = " and for the same number of passes" if experiment.same_cost else ""
        notes.append(
            f"{FAITHFUL}: as the authors did it, as far as they say; {OURS}: mgraph's defaults; both on the same modes"
            f"{cost}."
        )
    repeated = any(scale in row.setups and row.setups[scale].repeats > 1 for row in rows)
    if errors:
        notes.append(
            "± is the standard error of the mean over repeats, each with its own modes."
            if repeated
            else "± is the standard error over test examples, of a single repeat."
        )
    return notes + ([experiment.deviations] if experiment.deviations else [])


def _measured(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return _cell(value) + ("" if error is None else f" ± {error:.2g}")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)
