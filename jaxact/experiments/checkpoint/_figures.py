# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The figures of a checkpoint, drawn from its table alone."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from jaxact.experiments._plots import FLOOR, SERIES, TEXT_WIDTH, Drawing, legend, panels, style

RANKS = {
    "numerical_rank": "numerical rank",
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
    "stable_rank": "stable rank",
}


def draw(table: pd.DataFrame) -> Iterator[Drawing]:
    """Draws every figure of the study.

    Args:
      table: the study's table.

    Yields:
      The drawings.
    """
    if (table.quantity == "stable_rank").any():
        yield _ranks(table)
        yield _spectra(table)


def _wide(table: pd.DataFrame, quantities: list[str]) -> pd.DataFrame:
    rows = table[table.quantity.isin(quantities)]
    keys = ["layer", "name", "rows", "columns"]
    return rows.pivot_table(index=keys, columns="quantity", values="value").reset_index()


def _ranks(table: pd.DataFrame) -> Drawing:
    """Every rank over its limit, and the units without weights, over the layers."""
    numbers = _wide(table, [*RANKS, "eliminated_outputs"])
    limit = np.minimum(numbers.rows, numbers["columns"])
    with style():
        figure, axes = panels(2, 1, 3.4, sharex=True, height_ratios=[5, 2])
        for series, (name, label) in zip(SERIES, RANKS.items(), strict=False):
            axes[0, 0].plot(numbers.layer, numbers[name] / limit, label=label, **series)
        axes[0, 0].axhline(1, **FLOOR)
        axes[0, 0].set_ylim(0, 1.05)
        axes[0, 0].set_ylabel("rank over min(rows, columns)")
        dead = numbers.eliminated_outputs
        axes[1, 0].bar(numbers.layer, dead, color=SERIES[1]["color"], width=0.8)
        axes[1, 0].set_ylim(0, max(1, dead.max()) * 1.15)
        axes[1, 0].set_ylabel("dead\noutputs")
        axes[1, 0].set_xlabel("weight matrix, in the file's order")
        legend(figure, axes[0, 0], columns=2)
    return Drawing(
        "ranks",
        figure,
        "Ranks of every weight matrix (convolutions unfolded) over the largest rank that its shape "
        "allows, which is the dashed line; below, output units whose incoming weights have a norm "
        "of at most 1e-6 of the layer's root mean square.",
        numbers,
    )


def _spectra(table: pd.DataFrame) -> Drawing:
    """A heat map of log s_i / s_1 over layers and relative rank."""
    rows = table[table.quantity == "log_singular_value"]
    grid = rows.pivot_table(
        index="index", columns="layer", values="value", aggfunc="first", dropna=False
    )
    with np.errstate(invalid="ignore"):
        decades = ((grid - grid.iloc[0]) / np.log(10)).fillna(-np.inf)
    floor = -7.0
    with style(**{"axes.grid": False}):
        figure, axes = panels(1, 1, 2.4, width=TEXT_WIDTH)
        ax = axes[0, 0]
        mesh = ax.pcolormesh(
            np.append(decades.columns.to_numpy() - 0.5, decades.columns[-1] + 0.5),
            np.linspace(0, 1, len(decades) + 1),
            np.maximum(decades.to_numpy(), 2 * floor),
            vmin=floor,
            vmax=0,
            cmap="viridis",
            rasterized=True,
        )
        ax.invert_yaxis()
        ax.set_xlabel("weight matrix, in the file's order")
        ax.set_ylabel(r"$(i - 1) / (k - 1)$")
        figure.colorbar(mesh, ax=ax, extend="min", label=r"$\log_{10}(s_i/s_1)$")
    numbers = decades.melt(ignore_index=False, value_name="log10(s_i/s_1)").reset_index()
    return Drawing(
        "spectra",
        figure,
        "Singular values s_i of every weight matrix, relative to the largest, over their rank i "
        "from 1 to k. The darkest colour is at and below the float32 floor of 1e-7.",
        numbers,
    )
