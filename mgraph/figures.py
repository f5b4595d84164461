"""What all pictures have in common: their style, and how they are written."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError
from mgraph.shown import visible, visible_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")


def check_path(path: Path) -> None:
    """Raise InputError for a picture that cannot be written, because of its type or its directory."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name} must end in {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist; create it first.")


def style() -> AbstractContextManager[Any]:
    """Return the settings with which a picture is drawn and written."""
    import matplotlib as mpl

    # Matplotlib first reads settings from the working directory, which may be a stranger's, and they may start TeX.
    fixed = dict(mpl.rcParamsDefault) if Path("matplotlibrc").exists() else {}
    fixed.pop("backend", None)
    return mpl.rc_context({**fixed, "svg.hashsalt": "mgraph", "font.size": 9})


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a picture; the same numbers give the same file. Raises InputError if it cannot be written."""
    _take_literally(figure)
    metadata = {".png": {"Software": "mgraph"}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # no date
    try:
        figure.savefig(path, dpi=150, metadata=metadata[path.suffix])
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _take_literally(figure: Figure) -> None:
    """Keep text that came with a graph from being parsed as matplotlib formulas; only numbers on axes may be some."""
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    ticks: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        made = (
            *axis.get_major_ticks(),
            *axis.get_minor_ticks(),
        )  # as many as findobj finds
        ticks |= {label for tick in made for label in (tick.label1, tick.label2)}
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter):  # names, whose texts are made when the picture is drawn
            axis.set_major_formatter(FuncFormatter(partial(_literal, formatter)))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:
            text.set_text(visible_lines(text.get_text()))
            text.set_parse_math(False)


def _literal(formatter: Any, *tick: Any) -> str:
    return visible(str(formatter(*tick))).replace("$", r"\$")
