"""What all pictures have in common: their style and colours, and how they are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgraph.errors import InputError
from mgraph.shown import visible, visible_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")

_LIGHT = {"train": "#0072b2", "valid": "#d98c00", "test": "#c0392b", "faint": "#9db8cc"}
_DARK = {"train": "#56b4e9", "valid": "#f0b43c", "test": "#ff8a70", "faint": "#4d6b80"}

# Of lines and bars that have no colour of their own; they can be told apart without seeing red or green, too.
_LIGHT_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7d1f", "#56b4e9", "#e69f00", "#7f7f7f")
_DARK_CYCLE = ("#56b4e9", "#ff8f5a", "#2fc99a", "#e9a3c9", "#d8ca5c", "#a9d8f5", "#f0b43c", "#b5b5b5")


@dataclass(frozen=True)
class Look:
    """How a picture looks, its title, and what its file says ``about`` itself: command, graph, sweep."""

    dark: bool = False
    about: Mapping[str, str] | None = None
    title: str = ""


LIGHT = Look()

_BELOW = 0.46  # inches from an Axes to the legend below: room for numbers and a label


def check_path(path: Path) -> None:
    """Raise InputError for a picture that cannot be written, because of its type or its directory."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name} must end in {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist; create it first.")


def style(*, dark: bool = False) -> AbstractContextManager[Any]:
    """Return the settings with which a picture is drawn and written, on white or on a dark background."""
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    # Matplotlib first reads settings from the working directory, which may be a stranger's, and they may start TeX.
    fixed = dict(mpl.rcParamsDefault) if Path("matplotlibrc").exists() else {}
    fixed.pop("backend", None)
    if dark:
        from matplotlib.style import library

        fixed |= {**library["dark_background"], "axes.facecolor": "#16181d", "figure.facecolor": "#16181d"}
        fixed["savefig.facecolor"] = "#16181d"
    cycle = cycler(color=_DARK_CYCLE if dark else _LIGHT_CYCLE)
    return mpl.rc_context({**fixed, "svg.hashsalt": "mgraph", "font.size": 9, "axes.prop_cycle": cycle})


def ink() -> str:
    """Return the colour of lines and text on the present background."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def paper() -> str:
    """Return the colour of the present background."""
    import matplotlib as mpl

    return str(mpl.rcParams["axes.facecolor"])


def colours() -> Mapping[str, str]:
    """Return the colour of every split, and a faint one, which can be told apart without seeing red or green."""
    from matplotlib.colors import to_rgb

    return _DARK if sum(to_rgb(paper())) < 1.5 else _LIGHT


def cycle() -> Sequence[str]:
    """Return colours for lines that are told apart, on the present background."""
    return _DARK_CYCLE if colours() is _DARK else _LIGHT_CYCLE


def legend_below(axes: Axes, handles: Sequence[Any] | Mapping[str, Any] | None = None, *, columns: int = 4) -> None:
    """Explain the curves of an Axes, or some ``handles`` (by label), below it, where the legend hides nothing."""
    how: dict[str, Any] = {} if handles is None else {"handles": handles}
    if isinstance(handles, Mapping):
        how = {"handles": list(handles.values()), "labels": list(handles)}
    count = len(axes.get_legend_handles_labels()[1]) if handles is None else len(handles)
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.figure
    down = ScaledTranslation(0, -_BELOW, figure.dpi_scale_trans)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "frameon": False}
    place["bbox_transform"] = axes.transAxes + down
    axes.legend(**how, **place, fontsize=8, ncols=min(columns, max(1, count)))


@contextmanager
def drawing_on(ax: Axes | None, projection: str | None = None) -> Iterator[Axes]:
    """Give the Axes to draw on: ``ax``, or that of a new figure, which is pyplot's if that is in use.

    Afterwards text that came with the graph is taken literally; other text of the figure stays as it is.
    """
    if ax is None:
        from matplotlib.figure import Figure

        # Not imported here: it chooses a backend, which a settings file in the working directory may name.
        pyplot = sys.modules.get("matplotlib.pyplot")
        make: Any = Figure if pyplot is None else pyplot.figure
        ax = make(layout="constrained").add_subplot(projection=projection)
    figure: Any = ax.get_figure(root=True)
    before = _said(figure)
    yield ax
    _take_literally(figure, before)


def write_figure(figure: Figure, path: Path, about: Mapping[str, str] | None = None) -> Path:
    """Write a picture; the same numbers give the same file. Raises InputError if it cannot be written.

    ``about`` says what it shows (command, graph, sweep), and is kept in the file.
    """
    _take_literally(figure)
    try:
        figure.savefig(path, dpi=150, metadata=_metadata(path.suffix, about or {}))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _metadata(suffix: str, about: Mapping[str, str]) -> dict[str, str | None]:
    """Return what a file of that type says about itself; without a date, so that it depends on the numbers only."""
    text = "; ".join(f"{what}: {visible(value)}" for what, value in about.items())
    fixed: dict[str, str | None] = {"CreationDate": None} if suffix == ".pdf" else {"Date": None}
    if suffix == ".png":
        fixed = {"Software": "mgraph"}
    return fixed | ({"Subject" if suffix == ".pdf" else "Description": text} if text else {})


def _said(figure: Figure) -> frozenset[Any]:
    """Return the texts of a figure with what they say, and the formatters of its axes."""
    from matplotlib.text import Text

    texts = [(text, text.get_text()) for text in figure.findobj(Text) if isinstance(text, Text)]
    return frozenset(texts) | {axis.get_major_formatter() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}


def _take_literally(figure: Figure, known: frozenset[Any] = frozenset()) -> None:
    """Keep text that came with a graph from being parsed as matplotlib formulas; only numbers on axes may be some.

    What was ``known`` before, as :func:`_said` returns it, is left alone.
    """
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
        # Of names, whose texts are made when the picture is drawn.
        if isinstance(formatter, FuncFormatter) and formatter not in known:
            axis.set_major_formatter(FuncFormatter(partial(_literal, formatter)))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks and (text, text.get_text()) not in known:
            text.set_text(visible_lines(text.get_text()))
            text.set_parse_math(False)
            text.set_usetex(False)


def _literal(formatter: Any, *tick: Any) -> str:
    return visible(str(formatter(*tick))).replace("$", r"\$")
