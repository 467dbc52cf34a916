# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""Figures of the studies, in one style."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from jaxact.experiments._plots import panels, plain_log, style

# Okabe & Ito's colours, told apart by every kind of colour vision; black is kept for theory.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), "-.")
MARKERS = "os^vD*XP"


def line(axes: Axes, rows: pd.DataFrame, x: str, number: int, label: str) -> None:
    """Median over seeds at each x, with a band from least to largest."""
    spread = rows.groupby(x).value.agg(["median", "min", "max"]).reset_index()
    look = dict(color=COLOURS[number % 8], linestyle=DASHES[number % 6], marker=MARKERS[number % 8])
    if len(spread) > 20:
        look.pop("marker")
    axes.plot(spread[x], spread["median"], label=label, **look)
    axes.fill_between(
        spread[x], spread["min"], spread["max"], color=look["color"], alpha=0.2, linewidth=0
    )


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
    called = names or {}
    of_panels = list(dict.fromkeys(table[panel])) if panel else [None]
    of_lines = sorted(dict.fromkeys(table[by]), key=lambda value: _place(value, called))
    with style():
        figure, grid = panels(1, len(of_panels), 2.4, sharey=sharey)
        all_axes = list(grid[0])
        for axes, value in zip(all_axes, of_panels, strict=True):
            rows = table if panel is None else table[table[panel] == value]
            for number, name in enumerate(of_lines):
                own = rows[rows[by] == name]
                if own.empty:
                    continue
                line(axes, own, x, number, str(called.get(name, name)))
                key = name if panel is None else (value, name)
                if theory and key in theory:
                    axes.plot(*theory[key], color="black", linewidth=0.7, zorder=3)
            if bound is not None:
                axes.axhline(bound, color="black", linestyle=":", linewidth=0.8)
            if logx:
                axes.set_xscale("log", base=2)
                axes.xaxis.set_major_formatter("{x:g}")
                values = sorted(set(rows[x]))
                if len(values) <= 6:
                    axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
                axes.xaxis.set_minor_locator(NullLocator())
            elif np.all(np.asarray(table[x]) % 1 == 0):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if logy:
                axes.set_yscale("log")
            if value is not None:
                axes.set_title(str(called.get(value, value)))
        figure.supxlabel(xlabel, fontsize=8)
        all_axes[0].set_ylabel(ylabel)
        if theory:
            all_axes[-1].plot([], [], color="black", linewidth=0.7, label="theory")
        _legend(figure, all_axes)
    return figure


def _place(value: Any, names: Mapping[Any, str]) -> int:
    keys = list(names)
    return keys.index(value) if value in keys else len(keys)


def _legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """One legend above all panels, of as many columns as there is room for."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    widest = max(len(label) for label in handles)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=min(len(handles), max(1, 75 // (widest + 8))),
        handlelength=3,
    )


def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    by: str,
    panel: str,
    xlabel: str,
    ylabel: str,
    names: Mapping[Any, str],
) -> Figure:
    """The column ``value`` against another, logarithmic one, a colour for each value of ``by``.

    Args:
      table: a row for each point.
      x: the column along the abscissa.
      by: the column whose values have colours and markers.
      panel: the column whose values are panels.
      xlabel: of the abscissa.
      ylabel: of the ordinate.
      names: what the values of ``by`` are called.

    Returns:
      The figure.
    """
    of_panels = list(dict.fromkeys(table[panel]))
    with style():
        figure, grid = panels(1, len(of_panels), 2.4, sharey=True)
        for axes, value in zip(grid[0], of_panels, strict=True):
            rows = table[table[panel] == value]
            for number, name in enumerate(dict.fromkeys(table[by])):
                own = rows[rows[by] == name]
                axes.plot(
                    own[x],
                    own.value,
                    MARKERS[number % 8],
                    color=COLOURS[number % 8],
                    label=names.get(name, name),
                )
            axes.set_xscale("log")
            plain_log(axes.xaxis)
            axes.set_title(value)
        figure.supxlabel(xlabel, fontsize=8)
        grid[0, 0].set_ylabel(ylabel)
        _legend(figure, list(grid[0]))
    return figure


def dots(
    groups: Mapping[str, pd.Series], *, ylabel: str, bound: float | None = None, logy: bool = False
) -> Figure:
    """The value of every seed as a dot, in a column for each group, with the median as a dash."""
    with style():
        figure, grid = panels(1, 1, 2.0)
        axes = grid[0, 0]
        for place, values in enumerate(groups.values()):
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(place + spread, values, "o", color=COLOURS[place % 8], markersize=2.5)
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
