"""What all figures share: colours, sizes, selections of rows, and how figures become files."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.ticker import NullLocator as NoTicks

from jaxact import wiring

# Okabe & Ito's colours, told apart by every kind of colour vision, and by dashes in print; black is
# kept for theory.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), "-.")
MARKERS = "os^vD*XP"
SERIES: tuple[dict[str, Any], ...] = tuple(
    dict(color=color, linestyle=DASHES[i % 6], marker=MARKERS[i]) for i, color in enumerate(COLOURS)
)
FIRST = ("plain", "original", "post", "pre", "scaled", "norm_free")
"""The wirings that most figures show, which have a colour each."""
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "jaxact",
    "pdf.fonttype": 42,
}
TEXT_WIDTH = 5.5
"""Inches: the text width of a one-column paper, or a figure across two columns."""
COLUMN_WIDTH = 3.25
"""Inches: one column of a two-column paper."""
FLOOR = dict(color="0.35", linestyle="--", linewidth=0.8)
"""The line of a limit: of precision, of width, of the batch."""


class Drawing(NamedTuple):
    """A figure with its file name, caption, and the numbers it shows."""

    name: str
    figure: Figure
    caption: str
    numbers: pd.DataFrame


def where(table: pd.DataFrame, mask: Any = None, /, **values: Any) -> pd.DataFrame:
    """The rows of a mask in which columns have given values, or one of several in a tuple."""
    chosen = np.ones(len(table), bool) if mask is None else np.array(mask, bool)
    for column, value in values.items():
        chosen &= table[column].isin(value if isinstance(value, tuple) else (value,)).to_numpy()
    return cast(pd.DataFrame, table[chosen])


def values_of(table: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column, in the order in which they come."""
    return list(dict.fromkeys(table[column]))


def spread(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Median, least and largest value over seeds (each seed's mean) at each x."""
    by_seed: Any = rows.groupby([x, "seed"], observed=True).value.mean()
    return by_seed.groupby(x).agg(["median", "min", "max"]).reset_index()


def look(word: str) -> dict[str, Any]:
    """How a wiring is drawn, the same in every figure; beyond the colours darker, marks hollow."""
    words = list(dict.fromkeys([*FIRST, *wiring.names(), word]))
    again, number = divmod(words.index(word), len(SERIES))
    color = tuple(part * 0.55**again for part in to_rgb(SERIES[number]["color"]))
    return {
        "color": color,
        "linestyle": DASHES[(number + 2 * again) % len(DASHES)],
        "marker": (MARKERS, "<>phHd8v")[again % 2][number],
        "fillstyle": ("full", "none", "left")[again % 3],
        "label": wiring.get(word).label,
    }


def band(axes: Axes, x: str, rows: pd.DataFrame, series: Mapping[str, Any]) -> None:
    """Median over seeds as a line, with a band from least to largest."""
    if len(rows) > 20:
        series = {**series, "marker": None}
    axes.plot(rows[x], rows["median"], **series)
    axes.fill_between(
        rows[x], rows["min"], rows["max"], color=series["color"], alpha=0.2, linewidth=0
    )


def decades(rows: pd.DataFrame) -> pd.DataFrame:
    """Log10 of singular values over the largest, by index and layer; -inf for an exact zero."""
    grid: Any = rows.pivot_table(
        index="index", columns="layer", values="value", aggfunc="first", dropna=False
    )
    with np.errstate(invalid="ignore"):
        return ((grid - grid.iloc[0]) / np.log(10)).fillna(-np.inf)


def heat(axes: Axes, x: Any, y: Any, values: pd.DataFrame, floor: float) -> Any:
    """A map of `decades` between edges x and y; what lies below ``floor`` has the last colour."""
    return axes.pcolormesh(
        x,
        y,
        np.maximum(values.to_numpy(), 2 * floor),
        vmin=floor,
        vmax=0,
        cmap="viridis",
        rasterized=True,
    )


def style(**changes: Any) -> AbstractContextManager[None]:
    """The settings under which figures are made and saved."""
    settings: dict[Any, Any] = {**RC, **changes}
    return mpl.rc_context(settings)


def panels(
    rows: int, columns: int, height: float, *, width: float = TEXT_WIDTH, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes as an array (rows, columns); make it within `style`."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def plain_log(axis: Axis) -> None:
    """A logarithmic axis of less than about two decades, labelled 1, 2, 5, 10, ..."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def by_depth(ax: Axes) -> None:
    """Logarithmic axes for what falls with depth: depths as powers of two."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:g}")


def legend(
    figure: Figure, axes: Axes | Sequence[Axes], columns: int | None = None, *, length: int = 3
) -> None:
    """One legend above all panels, of as many columns as asked for or as there is room for."""
    handles: dict[str, Any] = {}
    for one in [axes] if isinstance(axes, Axes) else axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    room = max(1, 75 // (max(map(len, handles), default=0) + 8))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=columns or min(len(handles), room),
        handlelength=length,
    )


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a PNG or SVG file."""
    file = io.BytesIO()
    with style():
        figure.savefig(
            file, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None
        )
    return file.getvalue()


def curves(figure: Figure) -> list[dict[str, Any]]:
    """The named lines of a figure that was rendered, for a page that tells them on hovering.

    Args:
      figure: after `rendered`, which lays it out.

    Returns:
      Of each line its ``name``, its ``panel``, whether it is ``joined``, and its ``points``: x and
      y in points from the upper left, then the two values. A line without a name has that of one
      that looks like it.
    """
    drawn = [(axes, line) for axes in figure.axes for line in axes.lines]
    names = {_looks(line): str(line.get_label()) for _, line in drawn if _named(line)}
    found = []
    for axes, line in drawn:
        name = str(line.get_label()) if _named(line) else names.get(_looks(line))
        if name is None:
            continue
        values = np.asarray(line.get_xydata(), np.float64)
        with np.errstate(all="ignore"):
            places = line.get_transform().transform(values)
        inside = [bool(axes.bbox.padded(1).contains(*place)) for place in places]
        places = (places * (1, -1) + (0, figure.bbox.height)) * 72 / figure.dpi
        kept = np.hstack([places, values])[inside]
        rows = [[float(f"{v:.4g}") for v in row] for row in kept[:: len(kept) // 400 + 1]]
        joined = line.get_linestyle() != "None"
        if rows:
            found.append(
                {"name": name, "panel": axes.get_title(), "joined": joined, "points": rows}
            )
    return found


def _named(line: Line2D) -> bool:
    return not str(line.get_label()).startswith("_")


def _looks(line: Line2D) -> tuple[Any, ...]:
    return line.get_color(), line.get_linestyle(), line.get_marker()


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    by: str,
    panel: str | None = None,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    theory: Mapping[Any, tuple[Sequence[float], Sequence[float]]] | None = None,
    bound: float | None = None,
    names: Mapping[Any, str] | None = None,
    sharey: bool = True,
) -> Figure:
    """Lines over a column, one for each value of another, in a panel for each value of a third.

    Args:
      table: rows of one quantity.
      x: the column along the abscissa.
      by: the column whose values are lines.
      panel: the column whose values are panels.
      xlabel: of the abscissa.
      ylabel: of the ordinate.
      logx: whether the abscissa is logarithmic.
      logy: whether the ordinate is.
      theory: by value of ``by`` (and of ``panel``, as a pair, where there are panels) the abscissae
        and ordinates of a thin black line.
      bound: where to draw a dotted horizontal line.
      names: what values are called; lines come in its order.
      sharey: whether the panels have one ordinate.

    Returns:
      The figure.
    """
    called, curves = names or {}, theory or {}
    of_panels = values_of(table, panel) if panel else [None]
    keys = list(called)
    of_lines = sorted(values_of(table, by), key=lambda v: keys.index(v) if v in keys else len(keys))
    with style():
        figure, grid = panels(1, len(of_panels), 2.4, sharey=sharey)
        for axes, value in zip(grid[0], of_panels, strict=True):
            rows = where(table, **{panel: value}) if panel else table
            for number, name in enumerate(of_lines):
                own = where(rows, **{by: name})
                if own.empty:
                    continue
                label = str(called.get(name, name))
                band(axes, x, _spread_of_rows(own, x), {**SERIES[number % 8], "label": label})
                key = (value, name) if panel else name
                if key in curves:
                    axes.plot(*curves[key], color="black", linewidth=0.7, zorder=3)
            if bound is not None:
                axes.axhline(bound, color="black", linestyle=":", linewidth=0.8)
            if logx:
                _log_ticks(axes, sorted(set(rows[x])))
            elif np.all(np.asarray(table[x]) % 1 == 0):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if logy:
                axes.set_yscale("log")
            if value is not None:
                axes.set_title(str(called.get(value, value)))
        figure.supxlabel(xlabel, fontsize=8)
        grid[0, 0].set_ylabel(ylabel)
        if curves:
            grid[0, -1].plot([], [], color="black", linewidth=0.7, label="theory")
        legend(figure, list(grid[0]))
    return figure


def _spread_of_rows(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    by_x: Any = rows.groupby(x).value
    return by_x.agg(["median", "min", "max"]).reset_index()


def _log_ticks(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if len(values) <= 6:
        axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    axes.xaxis.set_minor_locator(NoTicks())


def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    by: str,
    panel: str,
    xlabel: str,
    ylabel: str,
    called: Callable[[Any], str],
    logy: bool = False,
) -> Figure:
    """The column ``value`` against another, logarithmic one, a colour for each value of ``by``.

    Args:
      table: a row for each point.
      x: the column along the abscissa.
      by: the column whose values have colours and markers.
      panel: the column whose values are panels.
      xlabel: of the abscissa.
      ylabel: of the ordinate.
      called: what the values of ``by`` are called.
      logy: whether the ordinate is logarithmic.

    Returns:
      The figure.
    """
    of_panels = values_of(table, panel)
    with style():
        figure, grid = panels(1, len(of_panels), 2.4, sharey=True)
        for axes, value in zip(grid[0], of_panels, strict=True):
            for number, name in enumerate(values_of(table, by)):
                own = where(table, **{panel: value, by: name})
                look = {**SERIES[number % 8], "linestyle": "none", "label": called(name)}
                axes.plot(own[x], own.value, **look)
            axes.set_xscale("log")
            plain_log(axes.xaxis)
            axes.set_title(value)
            if logy:
                axes.set_yscale("log")
        figure.supxlabel(xlabel, fontsize=8)
        grid[0, 0].set_ylabel(ylabel)
        legend(figure, list(grid[0]))
    return figure


def dots(
    groups: Mapping[str, pd.Series], *, ylabel: str, bound: float | None = None, logy: bool = False
) -> Figure:
    """The value of every seed as a dot, in a column for each group, with the median as a dash."""
    with style():
        figure, grid = panels(1, 1, 2.0)
        axes = grid[0, 0]
        for place, values in enumerate(groups.values()):
            apart = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(place + apart, values, "o", color=COLOURS[place % 8], markersize=2.5)
            axes.plot(
                [place - 0.25, place + 0.25], [np.median(values)] * 2, color="black", linewidth=1
            )
        if bound is not None:
            axes.axhline(bound, color="black", linestyle=":", linewidth=0.8)
        if logy:
            axes.set_yscale("log")
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_ylabel(ylabel)
    return figure
