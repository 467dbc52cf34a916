"""Claim 7: how much of its range an activation uses at initialization; Su's function and Swish.

Claim: Swish and its kin use more of their range than ReLU at initialization, since half of normal
inputs fall where ReLU is flat; J. Su's max(x, x exp(-|x|)) serves as Swish does.

Source: Ramachandran et al. 2017; Hendrycks & Gimpel 2016; J. Su 2017

Hypothesis: Half of standard normal inputs have slope 0 under ReLU; for the others the share with a
slope of at most 0.01 in size is smaller by at least a quarter, also in a network on data; Su's
function is near Swish in value and trains to the same loss.

Measurement: The share of standard normal inputs by bisection of the slope's crossings; the share
over units and digits in plain networks at initialization; the largest distance of values on [-20,
20]; the loss after Adam on digits, paired by seed.

Theory: P(Z < 0) = 1/2 for ReLU, exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis, theory
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import by_seed, remaining, select
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)

KIN = {"silu": "Swish", "mish": "Mish", "gelu": "GELU", "su": "Su's function"}


def _statistics(name: str) -> dict[str, float]:
    """What no network is needed for."""
    x = jnp.linspace(-20.0, 20.0, 400_001)
    gap = jnp.max(jnp.abs(activations.get(name)(x) - activations.silu(x)))
    return {
        "flat": float(theory.flat_fraction(name, tolerance=0.01)),
        "distance_from_swish": float(gap),
    }


def _measure(batch: Batch) -> list[pd.DataFrame]:
    frames = []
    for cell, rows in zip(batch.cells, train_cells(batch), strict=True):
        exact = [
            analysis.tidy(value, {}, quantity=name, seed=-1, step=0, layer=0)
            for name, value in _statistics(cell["activation"]).items()
        ]
        frames.append(pd.concat([rows, *exact], ignore_index=True))
    return frames


def _value(table: pd.DataFrame, quantity: str, activation: str) -> float:
    return float(select(table, quantity, activation=activation).value.iloc[0])


def _range(name: str) -> Prediction:
    return Prediction(
        f"{KIN[name]} (normal inputs)",
        f"The share of standard normal inputs where the slope is at most 0.01 is smaller for "
        f"{KIN[name]} than for ReLU.",
        lambda table: _value(table, "flat", "relu") - _value(table, "flat", name),
        bound=0.25,
        unit="share of inputs",
        exact=True,
    )


def _in_network(name: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        relu, other = (
            by_seed(table, "flat_share", activation=which, step="first") for which in ("relu", name)
        )
        return relu - other

    return Prediction(
        f"{KIN[name]} (in a network)",
        f"The same of the inputs of the activation in a plain network on digits at "
        f"initialization, for {KIN[name]}.",
        effect,
        bound=0.25,
        unit="share of inputs",
    )


@predicts("Su's function (training)", bound=0.02, side="below", unit="share of the loss of a guess")
def _su_trains_alike(table: pd.DataFrame) -> pd.Series:
    """Su's function and Swish train to losses that differ by less than 0.02 of chance."""
    return (remaining(table, activation="su") - remaining(table, activation="silu")).abs()


@plotted("ranges")
def _draw(table: pd.DataFrame) -> Figure:
    """Values and slopes. ReLU's slope is 0 for half of normal inputs; the others' vanishes only far
    out.
    """
    x = np.linspace(-5, 3, 201)
    names = ("relu", "silu", "su", "gelu", "mish")
    frames = []
    for quantity, of in (("value", lambda f: f), ("slope", lambda f: jax.vmap(jax.grad(f)))):
        for name in names:
            y = np.asarray(of(activations.get(name))(jnp.asarray(x, jnp.float32)))
            frames.append(
                pd.DataFrame({"x": x, "value": y, "activation": name, "quantity": quantity})
            )
    return _plots.lines(
        pd.concat(frames),
        x="x",
        by="activation",
        panel="quantity",
        xlabel="input",
        ylabel="output",
        names={"silu": "Swish", "su": "Su", "relu": "ReLU", "gelu": "GELU", "mish": "Mish"},
    )


@predicts("ReLU (normal inputs)", bound=1e-6, side="below", unit="share of inputs", exact=True)
def _relu_normal_inputs(table: pd.DataFrame) -> float:
    """Half of standard normal inputs fall where ReLU is flat."""
    return abs(_value(table, "flat", "relu") - 0.5)


@predicts("Su's function (value)", bound=0.05, side="below", unit="output", exact=True)
def _su_s_function_value(table: pd.DataFrame) -> float:
    """Su's function is nowhere further from Swish than 0.05."""
    return _value(table, "distance_from_swish", "su")


STUDY = Study(
    name="ranges",
    **words(__doc__),
    predictions=(
        _relu_normal_inputs,
        *map(_range, KIN),
        *map(_in_network, KIN),
        _su_s_function_value,
        _su_trains_alike,
    ),
    depends="the part of the claim",
    budgets=budgets(
        by_preset(12, 16, 32),
        dict(activation=("relu", *KIN)),
        dict(
            wiring="plain",
            depth=by_preset(6, 10, 20),
            width=by_preset(32, 128, 256),
            steps=by_preset(200, 1000, 5000),
            rate=0.001,
            measures=["flat_share", "loss"],
        ),
    ),
    measure=_measure,
    prepare=trials,
    plots=(_draw,),
)
