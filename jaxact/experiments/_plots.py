"""What all figures share: colours, sizes, and how they become files."""

import io
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

# Okabe & Ito's colours, told apart by every kind of colour vision, and by dashes in print.
SERIES: tuple[dict[str, Any], ...] = (
    dict(color="#000000", linestyle="-", marker="o"),
    dict(color="#D55E00", linestyle=(0, (5, 1)), marker="s"),
    dict(color="#0072B2", linestyle=(0, (3, 1, 1, 1)), marker="^"),
    dict(color="#CC79A7", linestyle=(0, (1, 1)), marker="v"),
    dict(color="#009E73", linestyle=(0, (4, 2)), marker="D"),
    dict(color="#E69F00", linestyle=(0, (6, 1, 1, 1)), marker="P"),
    dict(color="#56B4E9", linestyle=(0, (2, 1)), marker="X"),
)
PLACEMENTS = dict(zip(("plain", "post", "pre", "none", "scaled"), SERIES, strict=False))
LABELS = {
    "plain": "plain",
    "post": "post-norm",
    "pre": "pre-norm",
    "none": "residual, no norm",
    "scaled": r"residual, branch/$\sqrt{L}$",
}
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


def legend(figure: Figure, axes: Axes, columns: int = 3, *, length: int = 3) -> None:
    """One legend above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=length)


def rendered(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a PNG or SVG file."""
    file = io.BytesIO()
    with style():
        figure.savefig(
            file, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None
        )
    return file.getvalue()
