"""The figures of a checkpoint, drawn from its table alone."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from jaxact import analysis
from jaxact.experiments._plots import (
    COLOURS,
    FLOOR,
    SERIES,
    Drawing,
    decades,
    heat,
    legend,
    lines,
    panels,
    style,
    values_of,
    where,
)
from jaxact.experiments.checkpoint._findings import by_kind

MARKED = 60
"""Up to so many matrices have marks on their lines."""

AXIS = "weight matrix, in order of depth"


def draw(table: pd.DataFrame) -> Iterator[Drawing]:
    """Draws every figure of the study.

    Args:
      table: the study's table.

    Yields:
      The drawings.
    """
    measured = values_of(table, "quantity")
    ranks = [m.name for m in analysis.taking("spectrum") if m.scale_free and m.name in measured]
    files = values_of(table, "file")
    if ranks and len(files) > 1:
        yield _compared(table, ranks)
    for file in files:
        own = where(table, file=file)
        ending = f"_{file}" if len(files) > 1 else ""
        if "effective_rank" in ranks:
            rows = where(own, quantity="effective_rank")
            yield from _by_layer(where(rows, object="weight"), f"layers{ending}")
            yield from _heads(where(rows, object="circuit"), f"heads{ending}")
        if ranks:
            yield _ranks(own, ranks, f"ranks{ending}")
        if "log_singular_value" in measured:
            yield _spectra(
                where(own, object="weight", quantity="log_singular_value"), f"spectra{ending}"
            )


def wide(table: pd.DataFrame, quantities: list[str]) -> pd.DataFrame:
    """A row for each layer, a column for each quantity; missing where it was not measured."""
    keys = ["file", "layer", "name", "rows", "columns"]
    rows = where(table, table["index"] == 0, object="weight")
    found = rows.pivot_table(index=keys, columns="quantity", values="value", aggfunc="first")
    return found.reindex(columns=quantities).reset_index().rename_axis(columns=None)


def _by_layer(rows: pd.DataFrame, figure_name: str) -> Iterator[Drawing]:
    """Effective rank over its limit by layer, a line for each kind of matrix that repeats."""
    rows = by_kind(rows)
    repeats = rows.groupby("kind").number.transform("nunique")
    rows = where(rows, (repeats >= 3) & (rows.number >= 0))
    if rows.empty:
        return
    rows = rows.assign(value=rows.value / rows.possible)
    figure = lines(
        rows, x="number", by="kind", xlabel="layer", ylabel="effective rank\nover the possible",
        names={kind: _short(kind) for kind in values_of(rows, "kind")},
    )  # fmt: skip
    yield Drawing(
        figure_name,
        figure,
        "Effective rank over min(rows, columns) by layer, a line for each kind of matrix of which "
        "there are three layers or more.",
        rows.filter(["kind", "number", "name", "value"]),
    )


def _short(kind: str) -> str:
    """What is behind the layer's number."""
    return kind.partition("#")[2].strip(".").removesuffix(".weight").removesuffix(".kernel") or kind


def _heads(rows: pd.DataFrame, figure_name: str) -> Iterator[Drawing]:
    """Effective rank of circuits over the width of a head, by attention layer."""
    if rows.empty:
        return
    layers = {name: place for place, name in enumerate(values_of(rows, "attention"), start=1)}
    rows = rows.assign(value=rows.value / rows.possible, place=rows.attention.map(layers))
    figure = lines(
        rows, x="place", by="part", xlabel="attention, in order of depth",
        ylabel="effective rank\nover the head's width",
        names={name: name.replace("_", "-") for name in values_of(rows, "part")},
    )  # fmt: skip
    yield Drawing(
        figure_name,
        figure,
        "Effective rank of W_Q^T W_K (query-key) and W_O W_V (value-output) of every head over the "
        "head's width: median over the heads of a layer, band from least to largest.",
        rows.filter(["attention", "part", "head", "value"]),
    )


def _shares(table: pd.DataFrame, quantities: list[str], ranks: list[str]) -> pd.DataFrame:
    """`wide`, with every rank over the largest that the shape allows."""
    numbers = wide(table, quantities)
    limit = np.minimum(numbers["rows"], numbers["columns"])
    numbers[ranks] = numbers[ranks].div(limit, axis=0)
    return numbers


def _compared(table: pd.DataFrame, ranks: list[str]) -> Drawing:
    """Every rank over its limit by layer, a panel for each rank and a line for each file."""
    numbers = _shares(table, ranks, ranks)
    rows = numbers.melt(["file", "layer"], ranks, "rank").dropna()
    return Drawing(
        "compared",
        lines(
            rows, x="layer", by="file", panel="rank", xlabel=AXIS,
            ylabel="rank over\nmin(rows, columns)",
            names={name: name.replace("_", "\n", 1).replace("_", " ") for name in ranks},
        ),
        "Ranks of every weight matrix over the largest rank that its shape allows, a line for each "
        "file.",
        numbers,
    )  # fmt: skip


def _ranks(table: pd.DataFrame, ranks: list[str], figure_name: str) -> Drawing:
    """Every rank over its limit, and the units without weights, over the layers."""
    numbers = _shares(table, [*ranks, "eliminated_outputs"], ranks)
    with style():
        figure, axes = panels(2, 1, 3.4, sharex=True, height_ratios=[5, 2])
        for series, name in zip(SERIES, ranks, strict=False):
            look = {**series, "label": name.replace("_", " ")}
            if len(numbers) > MARKED:
                look["marker"] = None
            axes[0, 0].plot(numbers["layer"], numbers[name], **look)
        axes[0, 0].axhline(1, **FLOOR)
        axes[0, 0].set_ylim(0, 1.05)
        axes[0, 0].set_ylabel("rank over min(rows, columns)")
        dead = numbers["eliminated_outputs"]
        axes[1, 0].bar(numbers["layer"], dead, color=COLOURS[0], width=0.8)
        axes[1, 0].set_ylim(0, max(1, dead.max()) * 1.15)
        axes[1, 0].set_ylabel("dead\noutputs")
        axes[1, 0].set_xlabel(AXIS)
        legend(figure, axes[0, 0], columns=2)
    return Drawing(
        figure_name,
        figure,
        "Ranks of every weight matrix (convolutions unfolded) over the largest rank that its shape "
        "allows, which is the dashed line; below, output units whose incoming weights have a norm "
        "of at most 1e-6 of the layer's root mean square.",
        numbers,
    )


def _spectra(rows: pd.DataFrame, figure_name: str) -> Drawing:
    """A heat map of log s_i / s_1 over layers and relative rank."""
    found = decades(rows)
    with style(**{"axes.grid": False}):
        figure, axes = panels(1, 1, 2.4)
        ax = axes[0, 0]
        edges = np.append(found.columns.to_numpy() - 0.5, found.columns[-1] + 0.5)
        mesh = heat(ax, edges, np.linspace(0, 1, len(found) + 1), found, -7.0)
        ax.invert_yaxis()
        ax.set_xlabel(AXIS)
        ax.set_ylabel(r"$(i - 1) / (k - 1)$")
        figure.colorbar(mesh, ax=ax, extend="min", label=r"$\log_{10}(s_i/s_1)$")
    return Drawing(
        figure_name,
        figure,
        "Singular values s_i of every weight matrix, relative to the largest, over their rank i "
        "from 1 to k. The darkest colour is at and below the float32 floor of 1e-7.",
        found.melt(ignore_index=False, value_name="log10(s_i/s_1)").reset_index(),
    )
