"""Claim 2: the depth from which plain networks without norm do not train.

Claim: Without batch norm, ReLU networks with He initialization above about 30 layers hardly
converge.

Source: He et al. 2015; Ioffe & Szegedy 2015; Zhang et al. 2022; Martens et al. 2021

Hypothesis: Plain networks without norm, at the gain that keeps the variance, keep more than half of
the loss of a guess at the depth of the deepest network (40 layers or more), with ReLU and with
other activations, tailored ones included, while shallow ReLU networks train.

Measurement: Cross-entropy on digits after Adam at the best of the step sizes (by the median over
seeds), over that of a guess among ten classes; 1 where training diverged. The figure shows where
each activation crosses one half. A short budget calls deep what a long one would still train.

Theory: Correlations of inputs grow to 1 as 1 - c ~ 9 pi^2 / (2 l^2) under ReLU, so that deep
networks answer every input alike; tailored activations bound the correlation at the last layer (0.9
for TAT's leaky ReLU) whatever the depth.
"""

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import best, over_chance, remaining, select
from jaxact.experiments.verdicts._protocol import (
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    words,
)

LABELS = {
    "relu": "ReLU",
    "tanh": "tanh",
    "gelu": "GELU",
    "silu": "Swish",
    "selu": "SELU",
    "tat_relu": "tailored leaky ReLU (TAT)",
    "dks_tanh": "tanh (DKS)",
    "tat_silu": "Swish (TAT)",
}
HALF = 0.5
"""Share of the loss of a guess above which a network counts as hardly trained."""


def _at(name: str, which: str) -> Prediction:
    deep = which == "last"

    def effect(table: pd.DataFrame) -> pd.Series:
        return remaining(table, activation=name, depth=which)

    return Prediction(
        f"{LABELS[name]}, {'deepest' if deep else 'shallowest'}".replace(", ", " (") + ")",
        f"With {LABELS[name]} the {'deepest' if deep else 'shallowest'} network "
        f"{'keeps' if deep else 'loses'} more than half of the loss of a guess.",
        effect,
        bound=HALF,
        side="above" if deep else "below",
        unit="share of the loss of a guess",
    )


@plotted("trainability")
def _draw(table: pd.DataFrame) -> Figure:
    """Loss after training over that of a guess, by depth, at the best step size; dotted: one half.
    Median over seeds, band from least to largest.
    """
    rows = select(table, "loss", step="last")
    rows = over_chance(rows)
    networks = [own for _, own in rows.groupby(["activation", "depth"], sort=False)]
    return _plots.lines(
        pd.concat([_plots.where(own, **best(own, ("rate",))) for own in networks]),
        x="depth",
        by="activation",
        xlabel="layers",
        ylabel="loss over that of a guess",
        bound=HALF,
        logx=True,
        names=LABELS,
    )


STUDY = Study(
    name="trainability",
    **words(__doc__),
    predictions=(
        _at("relu", "first"),
        *(_at(name, "last") for name in ("relu", "tanh", "gelu", "tat_relu", "dks_tanh")),
    ),
    depends="depth and activation",
    budgets=budgets(
        by_preset(12, 12, 32),
        dict(
            depth=by_preset((8, 20, 40), (5, 10, 20, 30, 50), (5, 10, 20, 30, 50, 100, 200)),
            activation=by_preset(
                ("relu", "tanh", "gelu", "tat_relu", "dks_tanh"), tuple(LABELS), tuple(LABELS)
            ),
            rate=by_preset(
                (0.0005, 0.002), (0.0003, 0.001, 0.003), (3e-05, 0.0001, 0.0003, 0.001, 0.003)
            ),
        ),
        dict(
            wiring="plain",
            width=by_preset(32, 64, 256),
            steps=by_preset(120, 600, 10000),
            batch_size=32,
            marks="ends",
            measures=["loss", "feature_participation", "jacobian_participation"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("depth",),
    plots=(_draw,),
)
