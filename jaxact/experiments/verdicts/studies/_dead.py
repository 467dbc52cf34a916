"""Claim 10: units that die."""

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import by_seed, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Budget, Plot, Prediction, Study

OTHERS = {"leaky_relu": "leaky ReLU", "elu": "ELU", "gelu": "GELU", "silu": "Swish"}


def _share(table: pd.DataFrame, activation: str, rate: str, step: str) -> pd.Series:
    return by_seed(table, "constant_units", activation=activation, rate=rate, step=step)


def _die(table: pd.DataFrame) -> pd.Series:
    return _share(table, "relu", "last", "last") - _share(table, "relu", "last", "first")


def _faster(table: pd.DataFrame) -> pd.Series:
    return _share(table, "relu", "last", "last") - _share(table, "relu", "first", "last")


def _prevents(name: str) -> Prediction:
    return Prediction(
        f"{OTHERS[name]} prevents it",
        f"At the largest step size less than a twentieth of the units are constant with "
        f"{OTHERS[name]} after training.",
        lambda table: _share(table, name, "last", "last"),
        bound=0.05,
        side="below",
        unit="share of units",
    )


def _draw(table: pd.DataFrame) -> Figure:
    rows = select(table, "constant_units")
    rows = rows.groupby(["activation", "rate", "seed", "step"]).value.mean().reset_index()
    rows["step"] = rows.step.clip(lower=0.5)
    return _plots.lines(
        rows,
        x="step",
        by="activation",
        panel="rate",
        xlabel="training step (0 at 0.5)",
        ylabel="share of constant units",
        logx=True,
        names={
            "relu": "ReLU",
            **OTHERS,
            **{rate: f"step size {rate:g}" for rate in rows.rate.unique()},
        },
    )


STUDY = Study(
    name="dead",
    number=10,
    claim="Units die under ReLU, more so at large step sizes; activations with a slope everywhere "
    "prevent it.",
    source="Maas et al. 2013; Clevert et al. 2016; Lu et al. 2019",
    hypothesis="Training at a large step size makes a twentieth of the units or more constant over "
    "the data under ReLU, more than a small one does, and less than that under leaky ReLU, ELU, "
    "GELU and Swish.",
    measurement="Plain MLPs on digits by Adam over a range of step sizes: the share of units whose "
    "output over the measured examples varies by at most 1e-6 of their layer's root mean square "
    "(for ReLU: dead), mean over layers, at logarithmically spaced steps.",
    theory="",
    predictions=(
        Prediction(
            "units die",
            "At the largest step size the share of constant units grows in training under ReLU.",
            _die,
            bound=0.05,
            unit="share of units",
        ),
        Prediction(
            "step size",
            "Under ReLU more units are constant at the largest step size than at the smallest.",
            _faster,
            bound=0.05,
            unit="share of units",
        ),
        *map(_prevents, OTHERS),
    ),
    depends="the activation",
    budgets={
        preset: Budget(
            seeds,
            {"activation": ("relu", *OTHERS), "rate": rates},
            {
                "wiring": "plain",
                "depth": depth,
                "width": width,
                "steps": steps,
                "batch_size": 32,
                "measures": ["constant_units", "loss"],
            },
        )
        for preset, seeds, rates, depth, width, steps in (
            ("quick", 12, (1e-3, 1e-2, 1e-1), 4, 32, 120),
            ("default", 12, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 4, 128, 1000),
            ("paper", 32, (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 8, 512, 20000),
        )
    },
    measure=train_cells,
    plots=(
        Plot(
            "dead",
            _draw,
            "Share of units that answer every example alike, through training, by step size. "
            "Median over seeds, band from least to largest.",
        ),
    ),
)
