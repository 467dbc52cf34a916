# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""Figures of the studies, in one style."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxact.experiments.rank_collapse._figures import TEXT_WIDTH, style

# Okabe & Ito's colours, told apart by every kind of colour vision; black is kept for theory.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (4, 2)), "-.")
MARKERS = "os^vD*XP"


def panels(count: int, *, height: float = 2.0, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """A row of axes across the page."""
    figure = Figure(figsize=(TEXT_WIDTH, height))
    axes = figure.subplots(1, count, squeeze=False, sharey=sharey)
    return figure, list(axes[0])


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
      names: what values are called.

    Returns:
      The figure.
    """
    called = names or {}
    of_panels = list(dict.fromkeys(table[panel])) if panel else [None]
    of_lines = list(dict.fromkeys(table[by]))
    with style():
        figure, all_axes = panels(len(of_panels), height=2.4)
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
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if logy:
                axes.set_yscale("log")
            if value is not None:
                axes.set_title(str(called.get(value, value)))
            axes.set_xlabel(xlabel)
        all_axes[0].set_ylabel(ylabel)
        handles: dict[str, Any] = {}
        for axes in all_axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        if theory:
            handles["theory"] = all_axes[0].plot([], [], color="black", linewidth=0.7)[0]
        widest = max(len(label) for label in handles)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=min(len(handles), max(1, 75 // (widest + 8))),
            handlelength=3,
        )
    return figure


def dots(
    groups: Mapping[str, pd.Series], *, ylabel: str, bound: float | None = None, logy: bool = False
) -> Figure:
    """The value of every seed as a dot, in a column for each group, with the median as a dash."""
    with style():
        figure, (axes,) = panels(1)
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
