"""Claim 3: units that do not change their response, and the rank of weights.

Claim: When few units change their response between inputs, weight matrices carry little rank.

Source: a common account of degradation, after Orhan & Pitkow 2018

Sentence: Told of deep networks in general, by no one source; Orhan & Pitkow 2018 speak of units
that are eliminated, or depend linearly on others (section 2, in our words).

Hypothesis: The masked weight D(x) W has as many dimensions as units are active, and the difference
of two Jacobians as many as units flip. The claim is often told of W itself, which at initialization
knows nothing of the inputs and has full rank; over training it could come true, by flips and the
rank of W rising and falling together.

Measurement: At initialization one layer V D(x) W of 64 or more units on pairs of inputs at
distances from 2^-8 to 4; numerical ranks in float32. Over training, plain ReLU networks on digits,
with and without layer norm: the share of units whose sign differs between two examples and the
participation ratio of the weights, by layer, at logarithmically spaced steps.

Theory: J(x) - J(x') = V (D - D') W, and D - D' has one nonzero entry for each flip; W does not
depend on the input. The black line is min(flips, inputs).

Practice: Read rank off the Jacobian or the masked weights, not off W: units that do not switch make
a network linear there, and leave its weight matrices as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis, spectral
from jaxact.experiments import _plots
from jaxact.experiments.verdicts._cells import train_cells
from jaxact.experiments.verdicts._effects import correlation, select, trains
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

IDENTITY = "an identity of linear algebra: it fails where rounding makes a rank wrong only"
DISTANCES = tuple(2.0 ** np.arange(-8, 3))


def layer_ranks(seed: int, *, width: int, ends: int) -> dict[str, jax.Array]:
    """Ranks of one random ReLU layer V D(x) W at pairs of inputs, by distance of the pair.

    Args:
      seed: of weights and inputs.
      width: units of the layer.
      ends: inputs and outputs.

    Returns:
      By name arrays over `DISTANCES`: ``flips`` between the inputs of a pair, ``active`` units at
      the first, and numerical ranks of the ``weight`` W, of the ``masked`` weight D W, and of the
      ``difference`` of the two Jacobians.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    w = jax.random.normal(keys[0], (width, ends)) * (2 / ends) ** 0.5
    v = jax.random.normal(keys[1], (ends, width)) / width**0.5
    start = jax.random.normal(keys[2], (ends,))
    way = jax.random.normal(keys[3], (ends,))

    def layer(x):
        return jnp.matmul(v, activations.relu(jnp.matmul(w, x)), precision="highest")

    def rank(a):
        return spectral.numerical_rank(spectral.singular_values(a), shape=(max(a.shape), 1))

    def pair(distance):
        end = start + distance * way
        on, off = jnp.matmul(w, start) > 0, jnp.matmul(w, end) > 0
        mask = on.astype(w.dtype)[:, None]
        return {
            "flips": jnp.sum((on != off).astype(jnp.int32)),
            "active": jnp.sum(on.astype(jnp.int32)),
            "full": jnp.asarray(min(width, ends)),
            "weight": rank(w),
            "masked": rank(mask * w),
            "difference": rank(jax.jacobian(layer)(start) - jax.jacobian(layer)(end)),
        }

    return jax.lax.map(pair, jnp.asarray(DISTANCES, jnp.float32))


def _measure(batch: Batch) -> list[pd.DataFrame]:
    (cell,) = batch.cells
    if cell["network"] != "one layer":
        wired = {"wiring": cell["network"], **batch.settings}
        return [train_cells(batch._replace(settings=wired))[0].assign(distance=0.0)]
    return [_one_layer(batch)]


def _one_layer(batch: Batch) -> pd.DataFrame:
    width, ends = batch.settings["layer_width"], batch.settings["layer_ends"]
    ranks = jax.vmap(lambda seed: layer_ranks(seed, width=width, ends=ends))
    axes = {"seed": list(batch.seeds), "distance": list(DISTANCES)}
    frames = [
        analysis.tidy(values, axes, quantity=name, step=0, layer=1)
        for name, values in ranks(jnp.asarray(batch.seeds)).items()
    ]
    return pd.concat(frames, ignore_index=True)


def _pivot(table: pd.DataFrame) -> pd.DataFrame:
    one = table[table.network == "one layer"]
    return one.pivot_table(index=["seed", "distance"], columns="quantity", values="value")


@predicts("D W (exact form)", bound=0.99, unit="share of pairs", reason=IDENTITY)
def _masked(table: pd.DataFrame) -> pd.Series:
    """The rank of the masked weight is the number of active units, up to the inputs."""
    wide = _pivot(table)
    expected = wide[["active", "full"]].min(axis=1)
    return (wide.masked == expected).groupby("seed").mean()


@predicts("Jacobian difference (exact form)", bound=0.99, unit="share of pairs", reason=IDENTITY)
def _difference(table: pd.DataFrame) -> pd.Series:
    """The rank of the difference of Jacobians is the number of flips, up to the inputs."""
    wide = _pivot(table)
    expected = wide[["flips", "full"]].min(axis=1)
    return (wide.difference == expected).groupby("seed").mean()


def _training(network: str, label: str) -> Prediction:
    def pair(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return (
            select(table, "flip_share", network=network),
            select(table, "weight_participation", network=network),
        )

    return Prediction(
        f"training ({label})",
        "Over layers and steps of training, the share of units that flip between two examples and "
        "the participation ratio of the layer's weights rise and fall together in a "
        f"{label} network.",
        correlation(pair, ["step", "layer"]),
        bound=0.3,
        unit="rank correlation",
        reason="a tenth of the variance of the ranks (0.3 squared)",
        gates=(trains(network=network),),
    )


@plotted("flips_exact")
def _draw_exact(table: pd.DataFrame) -> Figure:
    """Numerical rank at initialization of a layer's weight, masked weight and difference of
    Jacobians, by the number of units that flip between two inputs.
    """
    wide = _pivot(table).reset_index()
    objects = {
        "weight": "weight W",
        "masked": "masked weight D W",
        "difference": "Jacobian difference",
    }
    tidy = wide.melt(id_vars=["seed", "flips"], value_vars=list(objects), var_name="quantity")
    full = float(wide.full.max())
    most = float(wide.flips.max())
    return _plots.lines(
        tidy,
        x="flips",
        by="quantity",
        xlabel="units that flip between the two inputs",
        ylabel="numerical rank",
        theory={"difference": ([0, full, most], [0, full, full])},
        names=objects,
    )


@plotted("flips_training")
def _draw_training(table: pd.DataFrame) -> Figure:
    """Share of units that flip between two examples, and participation ratio of the weights over
    width, through training: means over layers, median over seeds.
    """
    frames = []
    for name in ("flip_share", "weight_participation"):
        part = select(table, name, network=("plain", "original+plain"))
        frames.append(part.groupby(["network", "seed", "step"]).value.mean().reset_index())
        frames[-1]["quantity"] = name
    both = pd.concat(frames)
    both["step"] = both.step.clip(lower=0.5)
    return _plots.lines(
        both,
        x="step",
        by="quantity",
        panel="network",
        xlabel="training step (0 at 0.5)",
        ylabel="mean over layers",
        logx=True,
        names={
            "flip_share": "share of units that flip",
            "weight_participation": "participation of W over width",
            "plain": "plain",
            "original+plain": "plain, layer norm",
        },
    )


STUDY = Study(
    name="flips",
    **words(__doc__),
    predictions=(
        _masked,
        _difference,
        _training("plain", "plain"),
        _training("original+plain", "layer-normed plain"),
    ),
    depends="the object and the form of the claim",
    budgets=budgets(
        by_preset(16, 16, 32),
        dict(network=("one layer", "plain", "original+plain")),
        dict(
            layer_width=64,
            layer_ends=32,
            depth=by_preset(6, 8, 16),
            width=by_preset(32, 64, 256),
            steps=by_preset(200, 2000, 20000),
            activation="relu",
            rate=0.001,
            measures=["flip_share", "weight_participation", "loss"],
        ),
    ),
    measure=_measure,
    together=("network",),
    plots=(_draw_exact, _draw_training),
)
