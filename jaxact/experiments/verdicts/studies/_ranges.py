"""Claim 7: how much of its range an activation uses at initialization; Su's function and Swish.

Claim: Swish and its kin use more of their range than ReLU at initialization, since half of normal
inputs fall where ReLU is flat; J. Su's max(x, x exp(-|x|)) serves as Swish does.

Sentence: Su proposes the function as one of Swish's shape that is cheaper to compute, and reports
results as good (in our words); that its values are Swish's is not claimed.

Source: Ramachandran et al. 2017; Hendrycks & Gimpel 2016; J. Su 2017

Hypothesis: Half of standard normal inputs have slope 0 under ReLU; for the others the share with a
slope of at most 0.01 in size is smaller by at least a quarter, also in a network on data. With Su's
function the loss is at most one and a half times that with Swish, in networks that are neither
untrained nor done.

Measurement: The share of standard normal inputs by bisection of the slope's crossings; the share
over units and digits in plain networks at initialization; the loss after Adam on digits, paired by
seed, before it is so small for all that nothing differs.

Theory: P(Z < 0) = 1/2 for ReLU, exactly.

Practice: Choose between these activations by speed and by what the gain and the norm around them
are; how much of the range is used says little about the loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis, theory
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells, trials
from jaxact.experiments.verdicts._effects import (
    HALF_AGAIN,
    NOISE,
    by_seed,
    log_ratio,
    no_ceiling,
    select,
    trains,
)
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
QUARTER = "half of what ReLU leaves unused"
LEARNING = (trains(activation="silu"), no_ceiling(activation="silu"))


def _measure(batch: Batch) -> list[pd.DataFrame]:
    frames = []
    for cell, rows in zip(batch.cells, train_cells(batch), strict=True):
        flat = float(theory.flat_fraction(cell["activation"], tolerance=0.01))
        exact = analysis.tidy(flat, {}, quantity="flat", seed=-1, step=0, layer=0)
        frames.append(pd.concat([rows, exact], ignore_index=True))
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
        reason=QUARTER,
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
        reason=QUARTER,
    )


@predicts(
    "Su's function (training)",
    bound=HALF_AGAIN,
    side="below",
    unit="nats of loss",
    reason=NOISE,
    gates=LEARNING,
)
def _su_serves(table: pd.DataFrame) -> pd.Series:
    """With Su's function the loss is at most one and a half times that with Swish."""
    return log_ratio(table, "su", "silu")


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


@predicts(
    "ReLU (normal inputs)",
    bound=1e-6,
    side="below",
    unit="share of inputs",
    exact=True,
    reason="exact, up to the bisection",
)
def _relu_normal_inputs(table: pd.DataFrame) -> float:
    """Half of standard normal inputs fall where ReLU is flat."""
    return abs(_value(table, "flat", "relu") - 0.5)


STUDY = Study(
    name="ranges",
    **words(__doc__),
    predictions=(
        _relu_normal_inputs,
        *map(_range, KIN),
        *map(_in_network, KIN),
        _su_serves,
    ),
    depends="the part of the claim",
    budgets=budgets(
        by_preset(16, 24, 32),
        dict(activation=("relu", *KIN)),
        dict(
            wiring="plain",
            depth=by_preset(10, 20, 30),
            width=by_preset(32, 64, 256),
            steps=by_preset(150, 200, 400),
            rate=by_preset(0.002, 0.001, 0.0005),
            batch_size=32,
            measures=["flat_share", "loss"],
        ),
    ),
    measure=_measure,
    prepare=trials,
    plots=(_draw,),
)
