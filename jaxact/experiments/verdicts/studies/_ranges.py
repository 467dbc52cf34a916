"""Claim 7: how much of its range an activation uses at initialization; Su's function and Swish."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis, theory
from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import by_seed, remaining, select
from jaxact.experiments.verdicts._networks import train_cells
from jaxact.experiments.verdicts._protocol import Batch, Budget, Plot, Prediction, Study

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


def _su_trains_alike(table: pd.DataFrame) -> pd.Series:
    return (remaining(table, activation="su") - remaining(table, activation="silu")).abs()


def _draw(table: pd.DataFrame) -> Figure:
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


STUDY = Study(
    name="ranges",
    number=7,
    claim="Swish and its kin use more of their range than ReLU at initialization, since half of "
    "normal inputs fall where ReLU is flat; J. Su's max(x, x exp(-|x|)) serves as Swish does.",
    source="Ramachandran et al. 2017; Hendrycks & Gimpel 2016; J. Su 2017",
    hypothesis="Half of standard normal inputs have slope 0 under ReLU; for the others the share "
    "with a slope of at most 0.01 in size is smaller by at least a quarter, also in a network on "
    "data; Su's function is near Swish in value and trains to the same loss.",
    measurement="The share of standard normal inputs by bisection of the slope's crossings; the "
    "share over units and digits in plain networks at initialization; the largest distance of "
    "values on [-20, 20]; the loss after Adam on digits, paired by seed.",
    theory="P(Z < 0) = 1/2 for ReLU, exactly.",
    predictions=(
        Prediction(
            "ReLU (normal inputs)",
            "Half of standard normal inputs fall where ReLU is flat.",
            lambda table: abs(_value(table, "flat", "relu") - 0.5),
            bound=1e-6,
            side="below",
            unit="share of inputs",
            exact=True,
        ),
        *map(_range, KIN),
        *map(_in_network, KIN),
        Prediction(
            "Su's function (value)",
            "Su's function is nowhere further from Swish than 0.05.",
            lambda table: _value(table, "distance_from_swish", "su"),
            bound=0.05,
            side="below",
            unit="output",
            exact=True,
        ),
        Prediction(
            "Su's function (training)",
            "Su's function and Swish train to losses that differ by less than 0.02 of chance.",
            _su_trains_alike,
            bound=0.02,
            side="below",
            unit="share of the loss of a guess",
        ),
    ),
    depends="the part of the claim",
    budgets={
        preset: Budget(
            seeds,
            {"activation": ("relu", *KIN)},
            {
                "wiring": "plain",
                "depth": depth,
                "width": width,
                "steps": steps,
                "rate": 1e-3,
                "measures": ["flat_share", "loss"],
            },
        )
        for preset, seeds, depth, width, steps in (
            ("quick", 12, 6, 32, 200),
            ("default", 16, 10, 128, 1000),
            ("paper", 32, 20, 256, 5000),
        )
    },
    measure=_measure,
    plots=(
        Plot(
            "ranges",
            _draw,
            "Values and slopes. ReLU's slope is 0 for half of normal inputs; the others' vanishes "
            "only far out.",
        ),
    ),
)
