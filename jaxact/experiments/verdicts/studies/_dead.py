"""Claim 10: units that die.

Claim: Units die under ReLU, more so at large step sizes; activations with a slope everywhere
prevent it.

Source: Maas et al. 2013; Clevert et al. 2016; Lu et al. 2019

Sentence: "You may find that as much as 40% of your network can be 'dead' ... if the learning rate
is set too high" (Stanford's course CS231n, notes on neural networks, of ReLU).

Hypothesis: At the largest step size at which the network still trains, training makes a twentieth
of the units or more constant over the data under ReLU, more than the smallest does, and less than
that under leaky ReLU, ELU, GELU and Swish at the largest at which both they and ReLU train.

Measurement: Plain MLPs on digits by Adam over a range of step sizes: the share of units whose
output over the measured examples varies by at most 1e-6 of their layer's root mean square (for
ReLU: dead), mean over layers, at logarithmically spaced steps. A network trains at a step size if
in the median over seeds it ends below half of the loss of a guess; where it does not, units that
answer alike are no wonder, and nothing is concluded.

Practice: Constant units are a symptom of the step size: lower it before changing the activation; a
leaky slope removes them outright.
"""

import math

import pandas as pd
from matplotlib.figure import Figure

from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    largest_trained_rate,
    mean_by_seed,
    select,
)
from jaxact.experiments.verdicts._protocol import (
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)

OTHERS = {"leaky_relu": "leaky ReLU", "elu": "ELU", "gelu": "GELU", "silu": "Swish"}
TWENTIETH = "a twentieth of the units: about what seeds of one network differ by"


def _share(table: pd.DataFrame, activation: str, rate: float | str, step: str) -> pd.Series:
    rows = select(table, "constant_units", activation=activation, step=step)
    if isinstance(rate, float) and math.isnan(rate):
        return mean_by_seed(rows.assign(value=rate))
    return mean_by_seed(select(rows, "constant_units", rate=rate))


def _largest(table: pd.DataFrame, *activations: str) -> float:
    """The largest step size at which networks of all these activations train; NaN for none."""
    return largest_trained_rate(table, each=("activation",), activation=activations)


@predicts("units die", bound=0.05, unit="share of units", reason=TWENTIETH)
def _die(table: pd.DataFrame) -> pd.Series:
    """At the largest step size at which it trains the share of constant units grows under ReLU."""
    rate = _largest(table, "relu")
    return _share(table, "relu", rate, "last") - _share(table, "relu", rate, "first")


@predicts("step size", bound=0.05, unit="share of units", reason=TWENTIETH)
def _faster(table: pd.DataFrame) -> pd.Series:
    """Under ReLU more units are constant after training at that step size than at the smallest."""
    largest = _share(table, "relu", _largest(table, "relu"), "last")
    return largest - _share(table, "relu", "first", "last")


def _prevents(name: str) -> Prediction:
    return Prediction(
        f"{OTHERS[name]} prevents it",
        f"At the largest step size at which both it and ReLU train, less than a twentieth of the "
        f"units are constant with {OTHERS[name]} after training.",
        lambda table: _share(table, name, _largest(table, "relu", name), "last"),
        bound=0.05,
        side="below",
        unit="share of units",
        reason=TWENTIETH,
    )


@plotted("dead")
def _draw(table: pd.DataFrame) -> Figure:
    """Share of units that answer every example alike, through training, by step size. Median over
    seeds, band from least to largest.
    """
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
    **words(__doc__),
    predictions=(_die, _faster, *map(_prevents, OTHERS)),
    depends="the activation",
    budgets=budgets(
        by_preset(12, 24, 32),
        dict(
            activation=("relu", *OTHERS),
            rate=by_preset(
                (0.001, 0.01, 0.1),
                (0.001, 0.003, 0.01, 0.03, 0.1),
                (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1),
            ),
        ),
        dict(
            wiring="plain",
            depth=by_preset(4, 4, 8),
            width=by_preset(32, 128, 512),
            steps=by_preset(120, 1000, 20000),
            batch_size=32,
            measures=["constant_units", "loss"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    plots=(_draw,),
)
