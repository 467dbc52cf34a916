"""Claim 1: the mean shift of activations, and how it accumulates.

Claim: ReLU's outputs have a positive mean, and the shift accumulates over layers; ELU, GELU, Swish
and SELU reduce it.

Source: Clevert et al. 2016; Klambauer et al. 2017; Brock et al. 2021

Sentence: "ELUs have negative values which allows them to push mean unit activations closer to zero
like batch normalization" (Clevert et al. 2016, abstract).

Hypothesis: In plain networks at initialization the share of the outputs' second moment that is the
square of the units' means over the data grows with depth for ReLU, and is smaller at the last layer
for each of the four others.

Measurement: Plain MLPs on digits at He initialization of each activation's own gain, no bias: the
mean over units and examples over the root mean square, and the mean shift (sum over units of the
squared mean over examples, over the sum of the second moments), by layer.

Theory: For wide layers the mean shift is the correlation of two examples' outputs, which the
correlation map iterates; ReLU's first mean is 1/sqrt(pi) = 0.564 root mean squares. Black lines:
the map from the average correlation of the inputs. Two examples that differ in their correlation
are averaged, which the map, convex, does not commute with; and the variance of GELU and Swish
networks leaves its fixed point (slopes 1.14 and 1.17 there), which the line does not follow.

Practice: Without norms, deep ReLU networks answer every input with nearly the same vector; take
SELU or a tailored activation, centre the weights, or normalize.
"""

import functools

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import theory
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import by_seed, select
from jaxact.experiments.verdicts._protocol import (
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)

REASON = "a twentieth of the second moment, nearly all of which is mean in deep ReLU networks"
OTHERS = {"elu": "ELU", "gelu": "GELU", "silu": "Swish", "selu": "SELU"}


def _less_than_relu(name: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        def shift(activation: str) -> pd.Series:
            return by_seed(table, "mean_shift", activation=activation, layer="last")

        return shift("relu") - shift(name)

    return Prediction(
        OTHERS[name],
        f"The mean shift at the last layer is smaller with {OTHERS[name]} than with ReLU.",
        effect,
        bound=0.05,
        unit="share of the second moment",
        reason=REASON,
    )


@predicts("accumulation", bound=0.05, unit="share of the second moment", reason=REASON)
def _accumulates(table: pd.DataFrame) -> pd.Series:
    """ReLU's mean shift is larger at the last layer than at the first."""
    last, first = (
        by_seed(table, "mean_shift", activation="relu", layer=layer) for layer in ("last", "first")
    )
    return last - first


@functools.partial(jax.jit, static_argnums=(0, 1))
def _correlations(activation: str, depth: int, start: jax.Array | float) -> jax.Array:
    return theory.mean_field(activation, depth, correlation=start).correlation[1:]


@plotted("mean_shift")
def _draw(table: pd.DataFrame) -> Figure:
    """Mean shift by layer at initialization: 0 where every unit is centred over the data, 1 where
    every input is answered alike. Median over seeds, band from least to largest.
    """
    rows = select(table, "mean_shift")
    depth = int(rows.layer.max())
    start = float(select(table, "input_cosine").value.median())
    layers = list(range(1, depth + 1))
    lines = {
        name: (layers, list(np.asarray(_correlations(name, depth, start))))
        for name in dict.fromkeys(rows.activation)
    }
    return _plots.lines(
        rows, x="layer", by="activation", xlabel="layer", ylabel="mean shift", theory=lines
    )


@predicts(
    "positive mean",
    bound=0.1,
    unit="root mean squares",
    reason="a fifth of what theory gives for ReLU, 0.564",
)
def _positive_mean(table: pd.DataFrame) -> pd.Series:
    """The outputs of the first ReLU layer have a positive mean."""
    return by_seed(table, "output_mean", activation="relu", layer="first")


STUDY = Study(
    name="mean_shift",
    **words(__doc__),
    predictions=(_positive_mean, _accumulates, *map(_less_than_relu, OTHERS)),
    depends="the part of the claim",
    budgets=budgets(
        by_preset(16, 32, 64),
        dict(activation=("relu", *OTHERS)),
        dict(
            wiring="plain",
            depth=by_preset(16, 64, 256),
            width=by_preset(64, 128, 512),
            measures=["mean_shift", "output_mean", "input_cosine"],
        ),
    ),
    measure=train_cells,
    prepare=trials,
    plots=(_draw,),
)
