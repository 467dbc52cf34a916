# pandas annotates a selection of rows as a union of frame, series and array.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
"""The study's figures, each drawn from the table alone, with the numbers that it shows."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from jaxact.experiments._plots import (
    LABELS,
    TEXT_WIDTH,
    Drawing,
    legend,
    panels,
    plain_log,
    style,
)
from jaxact.experiments._plots import PLACEMENTS as STYLES
from jaxact.experiments.rank_collapse._config import PLACEMENTS, RankCollapse

MARKERS = "osD^vP*X"
PHASES = {"initial": "at initialization", "trained": "after training"}

LOSS_SHOWN = 100.0
"""Losses above this are outside the figure, so that those below can be told apart."""


def draw(table: pd.DataFrame, config: RankCollapse) -> Iterator[Drawing]:
    """Draws every figure of the study.

    Args:
      table: the study's table.
      config: the study's config.

    Yields:
      The drawings, in the order of the report.
    """
    for network in config.networks:
        of_network = table[table.network == network]
        depth = int(of_network.depth.max())
        deepest = of_network[of_network.depth == depth]
        for object_, what in (
            ("block_product", "the product of the blocks' linear maps (skip included)"),
            ("features", "the features of real images"),
            ("jacobian", "the input-to-layer Jacobian"),
        ):
            yield _by_depth(
                deepest,
                f"{network}_{object_}",
                (object_, "effective_rank"),
                ylabel="effective rank",
                caption=f"Effective rank (exponential of the entropy of the singular values) of "
                f"{what}, by depth, in {network} networks of {depth} blocks: "
                "median over seeds, band from least to largest.",
            )
        for object_ in ("block_product", "jacobian"):
            yield _spectra(deepest, f"{network}_{object_}_spectrum", object_, depth)
        yield _by_depth(
            deepest,
            f"{network}_gradient",
            ("gradient", "norm"),
            ylabel="gradient norm",
            caption=f"Frobenius norm of the loss's gradient in the weights of each block, in "
            f"{network} networks of {depth} blocks: median over seeds, band from least to largest.",
        )
        yield _by_depth(
            deepest,
            f"{network}_similarity",
            ("features", "cosine_similarity"),
            ylabel="cosine similarity",
            caption=f"Mean cosine between the features of different images in {network} networks "
            f"of {depth} blocks; at 1 every input is answered alike.",
            logy=False,
        )
        if config.steps:
            yield _training_loss(of_network, f"{network}_training_loss")
            yield _trainability(of_network, f"{network}_trainability", depth)


def _grid_of_axes(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    return panels(rows, columns, height, sharex=True, sharey="row")


def _spread(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Median, least and largest value over seeds (and parameters of one layer) at each x."""
    by_seed = rows.groupby([x, "seed"], observed=True).value.mean()
    return by_seed.groupby(x).agg(["median", "min", "max"]).reset_index()


def _line(axes: Axes, spread: pd.DataFrame, x: str, placement: str, markers: bool) -> None:
    style = STYLES[placement] if markers else {**STYLES[placement], "marker": None}
    axes.plot(spread[x], spread["median"], label=LABELS[placement], **style)
    axes.fill_between(
        spread[x], spread["min"], spread["max"], color=style["color"], alpha=0.2, linewidth=0
    )


def _by_depth(
    rows: pd.DataFrame,
    name: str,
    what: tuple[str, str],
    *,
    ylabel: str,
    caption: str,
    logy: bool = True,
) -> Drawing:
    """Lines over depth: a panel for each phase and activation, a line for each placement."""
    rows = rows[(rows.object == what[0]) & (rows.quantity == what[1])]
    if what[0] == "features":
        rows = rows[rows.layer > 0]
    rows = rows[~rows.parameter.str.startswith(("stem", "head"))]
    phases = [p for p in PHASES if p in set(rows.phase)]
    names = list(dict.fromkeys(rows.activation))
    numbers = []
    with style():
        figure, axes = _grid_of_axes(len(phases), len(names), 0.7 + 1.35 * len(phases))
        for i, phase in enumerate(phases):
            for j, activation in enumerate(names):
                panel = rows[(rows.phase == phase) & (rows.activation == activation)]
                for placement in (p for p in PLACEMENTS if p in set(panel.placement)):
                    spread = _spread(panel[panel.placement == placement], "layer")
                    _line(axes[i, j], spread, "layer", placement, markers=len(spread) <= 12)
                    numbers.append(
                        spread.assign(phase=phase, activation=activation, placement=placement)
                    )
                axes[i, j].set_xscale("log", base=2)
                axes[i, j].xaxis.set_major_formatter("{x:g}")
                if logy:
                    axes[i, j].set_yscale("log")
                if what[1] == "effective_rank":
                    plain_log(axes[i, j].yaxis)
                if i == 0:
                    axes[i, j].set_title(activation)
            axes[i, 0].set_ylabel(f"{ylabel}\n{PHASES[phase]}")
        figure.supxlabel("block", fontsize=8)
        legend(figure, axes[0, 0])
    keys = ["phase", "activation", "placement", "layer"]
    return Drawing(
        name, figure, caption, pd.concat(numbers)[[*keys, "median", "min", "max"]].sort_values(keys)
    )


def _spectra(rows: pd.DataFrame, name: str, object_: str, depth: int) -> Drawing:
    """A heat map of log singular values over depth for each placement, at initialization."""
    rows = rows[
        (rows.object == object_)
        & (rows.quantity == "log_singular_value")
        & (rows.phase == "initial")
    ]
    activation, seed = rows.activation.iloc[0], rows.seed.min()
    rows = rows[(rows.activation == activation) & (rows.seed == seed)]
    placements = [p for p in PLACEMENTS if p in set(rows.placement)]
    floor = -20.0
    numbers = []
    with style(**{"axes.grid": False}):
        figure = Figure(figsize=(TEXT_WIDTH, 1.9))
        axes = figure.subplots(1, len(placements), sharey=True, squeeze=False)[0]
        mesh = None
        for ax, placement in zip(axes, placements, strict=True):
            grid = rows[rows.placement == placement].pivot_table(
                index="index", columns="layer", values="value", aggfunc="first", dropna=False
            )
            decades = (grid - grid.iloc[0]).fillna(-np.inf) / np.log(10)
            mesh = ax.pcolormesh(
                np.arange(len(decades.columns) + 1),
                np.arange(len(decades) + 1) + 0.5,
                np.maximum(decades.to_numpy(), 2 * floor),
                vmin=floor,
                vmax=0,
                cmap="viridis",
                rasterized=True,
            )
            ax.set_xticks(np.arange(len(decades.columns)) + 0.5, decades.columns, rotation=90)
            ax.set_title(LABELS[placement].replace("residual, ", "residual,\n"))
            numbers.append(
                decades.melt(ignore_index=False, value_name="log10(s_i/s_1)")
                .reset_index()
                .assign(placement=placement)
            )
        axes[0].invert_yaxis()
        axes[0].set_ylabel("singular value, by rank $i$")
        figure.supxlabel("block", fontsize=8)
        if mesh is not None:
            figure.colorbar(mesh, ax=list(axes), extend="min", label=r"$\log_{10}(s_i/s_1)$")
    what = {
        "block_product": "the product of the blocks' linear maps",
        "jacobian": "the input-to-layer Jacobian at one image",
    }[object_]
    return Drawing(
        name,
        figure,
        f"Singular values of {what} over depth at initialization, relative to the largest "
        f"({activation}, {depth} blocks, seed {seed}). Exact zeros and values below 1e{floor:g} "
        "have the darkest colour.",
        pd.concat(numbers)[["placement", "layer", "index", "log10(s_i/s_1)"]],
    )


def _training_loss(rows: pd.DataFrame, name: str) -> Drawing:
    """Training loss over steps: a panel for each depth and activation, a line a placement."""
    rows = rows[rows.quantity == "training_loss"]
    depths, names = sorted(set(rows.depth)), list(dict.fromkeys(rows.activation))
    numbers = []
    with style():
        figure, axes = _grid_of_axes(len(depths), len(names), 0.7 + 1.25 * len(depths))
        for i, depth in enumerate(depths):
            for j, activation in enumerate(names):
                panel = rows[(rows.depth == depth) & (rows.activation == activation)]
                for placement in (p for p in PLACEMENTS if p in set(panel.placement)):
                    spread = _spread(panel[panel.placement == placement], "step")
                    _line(axes[i, j], spread, "step", placement, markers=False)
                    numbers.append(
                        spread.assign(depth=depth, activation=activation, placement=placement)
                    )
                axes[i, j].set_yscale("log")
                axes[i, j].yaxis.set_minor_formatter(NullFormatter())
                if i == 0:
                    axes[i, j].set_title(activation)
            axes[i, 0].set_ylim(top=min(axes[i, 0].get_ylim()[1], LOSS_SHOWN))
            axes[i, 0].set_ylabel(f"training loss\n{depth} blocks")
        figure.supxlabel("step", fontsize=8)
        legend(figure, axes[0, 0])
    keys = ["depth", "activation", "placement", "step"]
    return Drawing(
        name,
        figure,
        "Training loss (cross-entropy in nats) by step: median over seeds, band from least to "
        f"largest; what lies above {LOSS_SHOWN:g} is cut off.",
        pd.concat(numbers)[[*keys, "median", "min", "max"]].sort_values(keys),
    )


def _trainability(rows: pd.DataFrame, name: str, depth: int) -> Drawing:
    """Effective rank of the last Jacobian at initialization against the loss after training."""
    ranks = rows[
        (rows.object == "jacobian")
        & (rows.quantity == "effective_rank")
        & (rows.phase == "initial")
        & (rows.layer == rows.depth)
    ]
    losses = rows[(rows.quantity == "loss") & (rows.phase == "trained")]
    keys = ["placement", "activation", "depth", "seed"]
    numbers = ranks[[*keys, "value"]].merge(
        losses[[*keys, "value"]], on=keys, suffixes=("_rank", "_loss"), validate="one_to_one"
    )
    names = list(dict.fromkeys(numbers.activation))
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.6))
        axes = figure.subplots()
        for placement in (p for p in PLACEMENTS if p in set(numbers.placement)):
            for marker, activation in zip(MARKERS * len(names), names, strict=False):
                points = numbers[
                    (numbers.placement == placement) & (numbers.activation == activation)
                ]
                axes.scatter(
                    points.value_rank,
                    points.value_loss,
                    s=6 + 24 * np.log2(points.depth + 1) / np.log2(depth + 1),
                    marker=marker,
                    facecolors="none",
                    edgecolors=STYLES[placement]["color"],
                    linewidths=0.9,
                )
            axes.plot([], [], "s", color=STYLES[placement]["color"], label=LABELS[placement])
        for marker, activation in zip(MARKERS * len(names), names, strict=False):
            axes.plot([], [], marker, color="0.4", markerfacecolor="none", label=activation)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_log(axes.xaxis)
        axes.set_xlabel("effective rank of the input-to-last-block Jacobian at initialization")
        axes.set_ylabel("loss after training")
        figure.legend(loc="outside right upper")
    return Drawing(
        name,
        figure,
        "Collapse and trainability side by side: each point is one network; larger marks are "
        "deeper networks.",
        numbers.rename(columns={"value_rank": "effective_rank", "value_loss": "loss"}),
    )
