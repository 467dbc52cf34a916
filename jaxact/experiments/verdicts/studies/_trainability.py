"""Claim 2: the depth from which plain networks without norm do not train.

Claim: Without batch norm, ReLU networks with He initialization above about 30 layers hardly
converge.

Source: He et al. 2015; Ioffe & Szegedy 2015; Zhang et al. 2022; Martens et al. 2021

Sentence: A 30-layer network converges from the proposed initialization, and stalls from the other
one; beyond that depth no gain was seen (He et al. 2015, section 2.2, in our words).

Hypothesis: Plain networks without norm, at the gain that keeps the variance, keep more than half of
the loss of a guess at the depth of the deepest network (40 layers or more), with ReLU and with
other activations, tailored ones included, after few steps and after many, while shallow ReLU
networks train in few.

Measurement: Cross-entropy on digits after Adam at the best of the step sizes (by the median over
seeds), over that of a guess among ten classes; 1 where training diverged. The number of steps is an
axis, since a short budget calls deep what a long one still trains.

Theory: Correlations of inputs grow to 1 as 1 - c ~ 9 pi^2 / (2 l^2) under ReLU, so that deep
networks answer every input alike; tailored activations bound the correlation at the last layer (0.9
for TAT's leaky ReLU) whatever the depth.

Practice: At fifty layers without norm, He's initialization costs time before it costs trainability:
tailored activations, or norms and skips, buy that time back.
"""

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import at_best_rate, over_chance, remaining, select
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
JUDGED = ("relu", "tanh", "gelu", "tat_relu", "dks_tanh")
HALF = 0.5
"""Share of the loss of a guess above which a network counts as hardly trained."""


REASON = "half way between a guess and a fitted training set"
BUDGETS = ("few steps", "many steps")


def _steps(table: pd.DataFrame, budget: str) -> int:
    """The step at which a budget ends."""
    return int(sorted(select(table, "loss").step.unique())[1 + BUDGETS.index(budget)])


def _at(name: str, depth: str, budget: str) -> Prediction:
    deep = depth == "last"
    where = "deepest" if deep else "shallowest"

    def effect(table: pd.DataFrame) -> pd.Series:
        return remaining(table, step=_steps(table, budget), activation=name, depth=depth)

    return Prediction(
        f"{LABELS[name]} ({where}, {budget})",
        f"With {LABELS[name]} the {where} network {'keeps' if deep else 'loses'} more than half of "
        f"the loss of a guess after {budget}.",
        effect,
        bound=HALF,
        side="above" if deep else "below",
        unit="share of the loss of a guess",
        reason=REASON,
    )


@plotted("trainability")
def _draw(table: pd.DataFrame) -> Figure:
    """Loss after training over that of a guess, by depth, at the best step size, after few steps
    and after many; dotted: one half. Median over seeds, band from least to largest.
    """
    rows = over_chance(select(table, "loss"))
    rows = _plots.where(rows, rows.step > 0)
    return _plots.lines(
        at_best_rate(rows, rows, ("activation", "depth", "step")),
        x="depth",
        by="activation",
        panel="step",
        xlabel="layers",
        ylabel="loss over that of a guess",
        bound=HALF,
        logx=True,
        names={**LABELS, **{step: f"{step} steps" for step in rows.step.unique()}},
    )


STUDY = Study(
    name="trainability",
    **words(__doc__),
    predictions=(
        _at("relu", "first", "few steps"),
        *(_at(name, "last", budget) for budget in BUDGETS for name in JUDGED),
    ),
    depends="depth, activation and the number of steps",
    budgets=budgets(
        by_preset(12, 16, 32),
        dict(
            depth=by_preset((8, 40), (5, 20, 50), (5, 10, 20, 30, 50, 100, 200)),
            activation=by_preset(JUDGED, JUDGED, tuple(LABELS)),
            rate=by_preset((0.0005, 0.002), (0.0003, 0.001), (3e-05, 0.0001, 0.0003, 0.001, 0.003)),
        ),
        dict(
            wiring="plain",
            width=by_preset(32, 64, 256),
            steps=by_preset(240, 2000, 20000),
            marks=by_preset((0, 80, 240), (0, 400, 2000), (0, 2000, 20000)),
            batch_size=32,
            measures=[
                "loss",
                "feature_participation",
                "jacobian_participation",
                "jacobian/spectral_decay",
            ],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    together=("depth",),
    plots=(_draw,),
)
