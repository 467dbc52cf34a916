"""Claim 12: residual networks as ensembles of shallow paths.

Claim: Deep residual networks act as ensembles of shallow paths.

Source: Veit et al. 2016

Sentence: "Most of the gradient in a residual network with 110 layers comes from paths that are only
10-34 layers deep" (Veit et al. 2016, abstract).

Hypothesis: Removing one block of a trained residual network hardly matters while it ruins a plain
one; the loss rises smoothly with the number of blocks removed; and the gradient at the input has
passed through less than half of the blocks.

Measurement: MLPs trained on digits by Adam: the loss with each block replaced by the identity, with
several at random, and the mean length of the gradient's paths, weighted by the norm of their sum,
over the number of blocks.

Theory: Of the 2^L paths most pass through about L/2 blocks; a branch of relative size s weights a
path by s for each block, so that path lengths have mean L s / (1 + s).

Practice: Blocks of a residual network can be dropped or skipped one at a time at little cost, in
training and after; those of a plain one cannot.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import wiring
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import by_seed, select, trains
from jaxact.experiments.verdicts._protocol import (
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)

LABELS = {word: wiring.get(word).label for word in ("pre", "scaled", "original+plain")}


def damage(table: pd.DataFrame, word: str) -> pd.Series:
    """Median over blocks of what their removal adds to the loss, of what a guess would add."""
    single = select(table, "lesion_loss", wiring=word, step="last")
    by_its_seed: Any = single.groupby("seed")
    median = by_its_seed.value.median().sort_index()
    whole = by_seed(table, "loss", wiring=word, step="last")
    return (median - whole) / (single.chance.iloc[0] - whole)


def _harmless(word: str, label: str) -> Prediction:
    return Prediction(
        f"{label} withstands a lesion",
        f"Removing a block of a trained {label} network adds less than a tenth of what a guess "
        "would (the median block).",
        lambda table: damage(table, word),
        bound=0.1,
        side="below",
        unit="share of the way to a guess",
        reason="a tenth of what there is to lose",
        gates=(trains(wiring=word),),
    )


HALF = "half of the whole"


@predicts(
    "loss rises smoothly",
    bound=0.5,
    side="below",
    unit="share of the rise",
    reason=HALF,
    gates=(trains(wiring="pre"),),
)
def _smooth(table: pd.DataFrame) -> pd.Series:
    """No one more block removed makes more than half of the rise of the loss (pre-norm)."""
    # The largest rise of the loss from one more block removed, of the whole rise.
    rows = select(table, "lesions_loss", wiring="pre", step="last")
    curve = rows.pivot_table(index="seed", columns="layer", values="value").sort_index(axis=1)
    whole = by_seed(table, "loss", wiring="pre", step="last")
    rises = np.diff(np.column_stack([whole, curve]), axis=1)
    return pd.Series(rises.max(axis=1) / rises.sum(axis=1), index=curve.index)


@plotted("paths")
def _draw(table: pd.DataFrame) -> Figure:
    """Loss of trained networks without one block, and without several at random; dotted: the loss
    of a guess; losses above 10 are drawn there.
    """
    frames = [
        select(table, "lesion_loss", step="last").assign(panel="one block removed"),
        select(table, "lesions_loss", step="last").assign(panel="several removed"),
    ]
    rows = pd.concat(frames)
    return _plots.lines(
        rows.assign(value=rows.value.clip(upper=10.0)),
        x="layer",
        by="wiring",
        panel="panel",
        xlabel="block removed, or number of blocks",
        ylabel="loss",
        bound=rows.chance.iloc[0],
        names=LABELS,
    )


@predicts(
    "plain network does not",
    bound=0.5,
    unit="share of the way to a guess",
    reason=HALF,
    gates=(trains(wiring="original+plain"),),
)
def _plain_network_does_not(table: pd.DataFrame) -> pd.Series:
    """Removing a block of a trained plain network adds more than half of what a guess would (the
    median block).
    """
    return damage(table, "original+plain")


@predicts(
    "paths are short",
    bound=0.5,
    side="below",
    unit="share of the blocks",
    reason=HALF,
    gates=(trains(wiring="pre"),),
)
def _paths_are_short(table: pd.DataFrame) -> pd.Series:
    """The gradient passes through less than half of the blocks (pre-norm)."""
    return by_seed(table, "effective_depth", wiring="pre", step="last")


STUDY = Study(
    name="paths",
    **words(__doc__),
    predictions=(
        _harmless("pre", "pre-norm residual"),
        _harmless("scaled", "scaled residual"),
        _plain_network_does_not,
        _smooth,
        _paths_are_short,
    ),
    depends="the wiring and the part of the claim",
    budgets=budgets(
        by_preset(12, 16, 32),
        dict(wiring=tuple(LABELS)),
        dict(
            activation="relu",
            depth=by_preset(12, 24, 54),
            width=by_preset(32, 64, 256),
            steps=by_preset(250, 2000, 20000),
            rate=0.001,
            batch_size=32,
            examples=128,
            marks="ends",
            measures=["loss", "lesion_loss", "lesions_loss", "effective_depth"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("wiring",),
    plots=(_draw,),
)
