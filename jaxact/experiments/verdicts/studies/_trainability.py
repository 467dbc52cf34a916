"""Claim 2: the depth from which plain networks without norm do not train."""

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import CHANCE, remaining, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Budget, Plot, Prediction, Study

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


def _draw(table: pd.DataFrame) -> Figure:
    rows = select(table, "loss", step="last")
    share = (rows.value / CHANCE).fillna(1.0).clip(upper=1.0)
    rows = rows.assign(value=share)
    keys = ["activation", "depth"]
    medians = rows.groupby([*keys, "rate"]).value.median().reset_index()
    best = medians.loc[medians.groupby(keys).value.idxmin(), [*keys, "rate"]]
    return _plots.lines(
        rows.merge(best, on=[*keys, "rate"]),
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
    number=2,
    claim="Without batch norm, ReLU networks with He initialization above about 30 layers hardly "
    "converge.",
    source="He et al. 2015; Ioffe & Szegedy 2015; Zhang et al. 2022; Martens et al. 2021",
    hypothesis="Plain networks without norm, at the gain that keeps the variance, keep more than "
    "half of the loss of a guess at the depth of the deepest network (40 layers or more), with "
    "ReLU and with other activations, tailored ones included, while shallow ReLU networks train.",
    measurement="Cross-entropy on digits after Adam at the best of the step sizes (by the median "
    "over seeds), over that of a guess among ten classes; 1 where training diverged. The figure "
    "shows where each activation crosses one half. A short budget calls deep what a long one "
    "would still train.",
    theory="Correlations of inputs grow to 1 as 1 - c ~ 9 pi^2 / (2 l^2) under ReLU, so that deep "
    "networks answer every input alike; tailored activations bound the correlation at the last "
    "layer (0.9 for TAT's leaky ReLU) whatever the depth.",
    predictions=(
        _at("relu", "first"),
        *(_at(name, "last") for name in ("relu", "tanh", "gelu", "tat_relu", "dks_tanh")),
    ),
    depends="depth and activation",
    budgets={
        preset: Budget(
            seeds,
            {"depth": depths, "activation": functions, "rate": rates},
            {
                "wiring": "plain",
                "width": width,
                "steps": steps,
                "batch_size": 32,
                "marks": "ends",
                "measures": ["loss", "feature_rank", "jacobian_participation"],
            },
        )
        for preset, seeds, depths, functions, rates, width, steps in (
            (
                "quick",
                12,
                (8, 20, 40),
                ("relu", "tanh", "gelu", "tat_relu", "dks_tanh"),
                (5e-4, 2e-3),
                32,
                120,
            ),
            (
                "default",
                12,
                (5, 10, 20, 30, 50),
                tuple(LABELS),
                (3e-4, 1e-3, 3e-3),
                64,
                600,
            ),
            (
                "paper",
                32,
                (5, 10, 20, 30, 50, 100, 200),
                tuple(LABELS),
                (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
                256,
                10000,
            ),
        )
    },
    measure=train_cells,
    together=("depth",),
    plots=(
        Plot(
            "trainability",
            _draw,
            "Loss after training over that of a guess, by depth, at the best step size; dotted: "
            "one half. Median over seeds, band from least to largest.",
        ),
    ),
)
