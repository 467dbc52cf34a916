"""The study's figures, each drawn from the table alone, with the numbers that it shows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from jaxact import analysis, wiring
from jaxact.experiments._plots import (
    MARKERS,
    TEXT_WIDTH,
    Drawing,
    band,
    by_depth,
    decades,
    heat,
    legend,
    look,
    panels,
    plain_log,
    spread,
    style,
    values_of,
    where,
)

PHASES = {"initial": "at initialization", "trained": "after training"}
RANKED = ("block_product", "features", "jacobian")
"""The objects whose ranks are drawn."""

LOSS_SHOWN = 100.0
"""Losses above this are outside the figure, so that those below can be told apart."""


def draw(table: pd.DataFrame, config: Any) -> Iterator[Drawing]:
    """Draws every figure of the study: one for each measure and object, and those of training.

    Args:
      table: the study's table.
      config: the study's config.

    Yields:
      The drawings, in the order of the report.
    """
    measures = [analysis.MEASURES[name] for name in config.measures]
    # Of the ranks the effective one stands for the others, which are in the table.
    drawn = [
        m.name for m in measures
        if m.takes and (m.name == "effective_rank" or m.name not in analysis.RANKS)
    ]  # fmt: skip
    for network in config.networks:
        of_network = where(table, network=network)
        depth = int(of_network.depth.max())
        deepest = where(of_network, depth=depth)
        deepest = where(deepest, ~deepest.parameter.str.startswith(("stem", "head")))
        for name in drawn:
            of_measure = where(deepest, quantity=name)
            for of in values_of(of_measure, "object"):
                rows = where(of_measure, object=of)
                ranked = name != "effective_rank" or of in RANKED
                if ranked and (rows.layer > 0).any():
                    yield _by_depth(where(rows, rows.layer > 0), f"{network}_{of}_{name}", of, name)
        for of in ("block_product", "jacobian"):
            rows = where(deepest, object=of, quantity="log_singular_value", phase="initial")
            if not rows.empty:
                yield _spectra(rows, f"{network}_{of}_spectrum", of, depth)
        if config.steps:
            yield _training_loss(of_network, f"{network}_training_loss")
            if {"effective_rank", "loss"} <= set(config.measures):
                yield _trainability(of_network, f"{network}_trainability", depth)


def _grid(rows: pd.DataFrame, x: str, by: str, height: float) -> tuple[Figure, Any, pd.DataFrame]:
    """A panel for each value of a column and activation, a line for each wiring."""
    kinds, names = values_of(rows, by), values_of(rows, "activation")
    figure, axes = panels(
        len(kinds), len(names), 0.7 + height * len(kinds), sharex=True, sharey="row"
    )
    numbers = []
    for i, kind in enumerate(kinds):
        for j, activation in enumerate(names):
            for word in values_of(rows, "wiring"):
                own = where(rows, **{by: kind}, activation=activation, wiring=word)
                found = spread(own, x)
                band(axes[i, j], x, found, look(word))
                numbers.append(found.assign(**{by: kind}, activation=activation, wiring=word))
            if i == 0:
                axes[i, j].set_title(activation)
    legend(figure, axes[0, 0], columns=3)
    keys = [by, "activation", "wiring", x]
    found = pd.concat(numbers).filter([*keys, "median", "min", "max"]).sort_values(keys)
    return figure, axes, found


def _by_depth(rows: pd.DataFrame, name: str, of: str, quantity: str) -> Drawing:
    """Lines over depth: a panel for each phase and activation, a line for each wiring."""
    measure = analysis.MEASURES[quantity]
    network, depth = rows.network.iloc[0], int(rows.depth.iloc[0])
    with style():
        figure, axes, numbers = _grid(rows, "layer", "phase", 1.35)
        for ax in axes.flat:
            by_depth(ax)
            if measure.greatest == "1" or (rows.value <= 0).any():
                ax.set_yscale("linear")
            elif measure.scale_free:
                plain_log(ax.yaxis)
        for ax, phase in zip(axes[:, 0], values_of(rows, "phase"), strict=True):
            ax.set_ylabel(f"{quantity.replace('_', ' ')}\n{PHASES[phase]}")
        figure.supxlabel("block", fontsize=8)
    caption = (
        f"{quantity.replace('_', ' ').capitalize()} ({measure.definition}) by depth, in {network} "
        f"networks of {depth} blocks. Object: {_lowered(analysis.OBJECTS[of].definition)} Median "
        "over seeds, band from least to largest."
    )
    return Drawing(name, figure, caption, numbers)


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]


def _spectra(rows: pd.DataFrame, name: str, of: str, depth: int) -> Drawing:
    """A heat map of log singular values over depth for each wiring, at initialization."""
    activation, seed = rows.activation.iloc[0], rows.seed.min()
    rows = where(rows, activation=activation, seed=seed)
    words = values_of(rows, "wiring")
    floor = -20.0
    numbers: list[pd.DataFrame] = []
    mesh: Any = None
    with style(**{"axes.grid": False}):
        figure, grid = panels(1, len(words), 1.9, sharey=True)
        for ax, word in zip(grid[0], words, strict=True):
            found = decades(where(rows, wiring=word))
            edges = np.arange(len(found.columns) + 1), np.arange(len(found) + 1) + 0.5
            mesh = heat(ax, *edges, found, floor)
            ax.set_xticks(np.arange(len(found.columns)) + 0.5, found.columns, rotation=90)
            ax.set_title(wiring.get(word).label.replace(", ", ",\n"))
            melted = found.melt(ignore_index=False, value_name="log10(s_i/s_1)").reset_index()
            numbers.append(melted.assign(wiring=word))
        grid[0, 0].invert_yaxis()
        grid[0, 0].set_ylabel("singular value, by rank $i$")
        figure.supxlabel("block", fontsize=8)
        figure.colorbar(mesh, ax=list(grid[0]), extend="min", label=r"$\log_{10}(s_i/s_1)$")
    return Drawing(
        name,
        figure,
        f"Singular values of the {of.replace('_', ' ')} over depth at initialization, relative to "
        f"the largest ({activation}, {depth} blocks, seed {seed}). Exact zeros and values below "
        f"1e{floor:g} have the darkest colour.",
        pd.concat(numbers).filter(["wiring", "layer", "index", "log10(s_i/s_1)"]),
    )


def _training_loss(rows: pd.DataFrame, name: str) -> Drawing:
    """Training loss over steps: a panel for each depth and activation, a line a wiring."""
    with style():
        figure, axes, numbers = _grid(where(rows, quantity="training_loss"), "step", "depth", 1.25)
        for ax in axes.flat:
            ax.set_yscale("log")
            ax.yaxis.set_minor_formatter(NullFormatter())
        for ax, depth in zip(axes[:, 0], values_of(rows, "depth"), strict=True):
            ax.set_ylim(top=min(ax.get_ylim()[1], LOSS_SHOWN))
            ax.set_ylabel(f"training loss\n{depth} blocks")
        figure.supxlabel("step", fontsize=8)
    return Drawing(
        name,
        figure,
        "Training loss (cross-entropy in nats) by step: median over seeds, band from least to "
        f"largest; what lies above {LOSS_SHOWN:g} is cut off.",
        numbers,
    )


def _trainability(rows: pd.DataFrame, name: str, depth: int) -> Drawing:
    """Effective rank of the last Jacobian at initialization against the loss after training."""
    ranks = where(rows, object="jacobian", quantity="effective_rank", phase="initial")
    ranks = where(ranks, ranks.layer == ranks.depth)
    losses = where(rows, quantity="loss", phase="trained")
    keys = ["wiring", "activation", "depth", "seed"]
    numbers = ranks.filter([*keys, "value"]).rename(columns={"value": "effective_rank"})
    numbers = numbers.merge(losses.filter([*keys, "value"]), on=keys, validate="one_to_one")
    numbers = numbers.rename(columns={"value": "loss"})
    names = values_of(numbers, "activation")
    markers = dict(zip(names, MARKERS * len(names), strict=False))
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.6))
        axes: Axes = figure.subplots()
        for word in values_of(numbers, "wiring"):
            own = look(word)
            for activation in names:
                points = where(numbers, wiring=word, activation=activation)
                axes.scatter(
                    points.effective_rank,
                    points.loss,
                    s=6 + 24 * np.log2(points.depth + 1) / np.log2(depth + 1),
                    marker=markers[activation],
                    facecolors="none",
                    edgecolors=own["color"],
                    linewidths=0.9,
                )
            axes.plot([], [], "s", color=own["color"], label=own["label"])
        for activation in names:
            axes.plot(
                [], [], markers[activation], color="0.4", markerfacecolor="none", label=activation
            )
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
        numbers,
    )
