"""Claim 12: residual networks as ensembles of shallow paths."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import CHANCE, by_seed, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Budget, Plot, Prediction, Study

LABELS = {
    "pre": "pre-norm residual",
    "scaled": r"residual, branch/$\sqrt{L}$",
    "plain_norm": "plain, layer norm",
}


def damage(table: pd.DataFrame, wiring: str) -> pd.Series:
    """Median over blocks of what their removal adds to the loss, of what a guess would add."""
    single = select(table, "lesion_loss", wiring=wiring, step="last")
    median = single.groupby("seed").value.median().sort_index()
    whole = by_seed(table, "loss", wiring=wiring, step="last")
    return (median - whole) / (CHANCE - whole)


def _harmless(wiring: str, label: str) -> Prediction:
    return Prediction(
        f"{label} withstands a lesion",
        f"Removing a block of a trained {label} network adds less than a tenth of what a guess "
        "would (the median block).",
        lambda table: damage(table, wiring),
        bound=0.1,
        side="below",
        unit="share of the way to a guess",
    )


def _smooth(table: pd.DataFrame) -> pd.Series:
    """The largest rise of the loss from one more block removed, of the whole rise."""
    rows = select(table, "lesions_loss", wiring="pre", step="last")
    curve = rows.pivot_table(index="seed", columns="layer", values="value").sort_index(axis=1)
    whole = by_seed(table, "loss", wiring="pre", step="last")
    rises = np.diff(np.column_stack([whole, curve]), axis=1)
    return pd.Series(rises.max(axis=1) / rises.sum(axis=1), index=curve.index)


def _draw(table: pd.DataFrame) -> Figure:
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
        bound=CHANCE,
        names=LABELS,
    )


STUDY = Study(
    name="paths",
    number=12,
    claim="Deep residual networks act as ensembles of shallow paths.",
    source="Veit et al. 2016",
    hypothesis="Removing one block of a trained residual network hardly matters while it ruins a "
    "plain one; the loss rises smoothly with the number of blocks removed; and the gradient at "
    "the input has passed through less than half of the blocks.",
    measurement="MLPs trained on digits by Adam: the loss with each block replaced by the "
    "identity, with several at random, and the mean length of the gradient's paths, weighted by "
    "the norm of their sum, over the number of blocks.",
    theory="Of the 2^L paths most pass through about L/2 blocks; a branch of relative size s "
    "weights a path by s for each block, so that path lengths have mean L s / (1 + s).",
    predictions=(
        _harmless("pre", "pre-norm residual"),
        _harmless("scaled", "scaled residual"),
        Prediction(
            "plain network does not",
            "Removing a block of a trained plain network adds more than half of what a guess "
            "would (the median block).",
            lambda table: damage(table, "plain_norm"),
            bound=0.5,
            unit="share of the way to a guess",
        ),
        Prediction(
            "loss rises smoothly",
            "No one more block removed makes more than half of the rise of the loss (pre-norm).",
            _smooth,
            bound=0.5,
            side="below",
            unit="share of the rise",
        ),
        Prediction(
            "paths are short",
            "The gradient passes through less than half of the blocks (pre-norm).",
            lambda table: by_seed(table, "effective_depth", wiring="pre", step="last"),
            bound=0.5,
            side="below",
            unit="share of the blocks",
        ),
    ),
    depends="the wiring and the part of the claim",
    budgets={
        preset: Budget(
            seeds,
            {"wiring": tuple(LABELS)},
            {
                "activation": "relu",
                "depth": depth,
                "width": width,
                "steps": steps,
                "rate": 1e-3,
                "batch_size": 32,
                "examples": 128,
                "marks": "ends",
                "measures": ["loss", "lesion_loss", "lesions_loss", "effective_depth"],
            },
        )
        for preset, seeds, depth, width, steps in (
            ("quick", 12, 12, 32, 250),
            ("default", 16, 24, 64, 2000),
            ("paper", 32, 54, 256, 20000),
        )
    },
    measure=train_cells,
    together=("wiring",),
    plots=(
        Plot(
            "paths",
            _draw,
            "Loss of trained networks without one block, and without several at random; dotted: "
            "the loss of a guess; losses above 10 are drawn there.",
        ),
    ),
)
