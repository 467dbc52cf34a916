"""Claim 3: units that do not change their response, and the rank of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import activations, analysis, spectral
from jaxact.experiments.verdicts import _plots
from jaxact.experiments.verdicts._effects import correlation, select
from jaxact.experiments.verdicts._networks import Arm, Spec, Trials, rows
from jaxact.experiments.verdicts._protocol import Batch, Budget, Plot, Prediction, Study

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
    return [_measure_one(batch, cell["network"]) for cell in batch.cells]


def _measure_one(batch: Batch, network: str) -> pd.DataFrame:
    settings = batch.settings
    if network == "one layer":
        width, ends = settings["layer_width"], settings["layer_ends"]
        found = jax.vmap(lambda seed: layer_ranks(seed, width=width, ends=ends))(
            jnp.asarray(batch.seeds)
        )
        frames = [
            analysis.tidy(
                values,
                {"seed": list(batch.seeds), "distance": list(DISTANCES)},
                quantity=name,
                step=0,
                layer=1,
            )
            for name, values in found.items()
        ]
        return pd.concat(frames, ignore_index=True)
    trials = Trials(
        Spec(
            wiring=network,
            depth=settings["depth"],
            width=settings["width"],
            activations=("relu",),
            measures=("flips", "weight_rank", "loss"),
            steps=settings["steps"],
        )
    )
    (found,) = trials.run("relu", batch.seeds, [Arm(settings["rate"])])
    return rows(found, batch.seeds, trials.at).assign(distance=0.0)


def _pivot(table: pd.DataFrame) -> pd.DataFrame:
    one = table[table.network == "one layer"]
    return one.pivot_table(index=["seed", "distance"], columns="quantity", values="value")


def _of_weight(table: pd.DataFrame) -> pd.Series:
    """What the weight lacks of full rank, where the fewest units flip."""
    wide = _pivot(table).reset_index().sort_values("distance").groupby("seed").first()
    return 1 - wide.weight / wide.full


def _masked(table: pd.DataFrame) -> pd.Series:
    wide = _pivot(table)
    expected = wide[["active", "full"]].min(axis=1)
    return (wide.masked == expected).groupby("seed").mean()


def _difference(table: pd.DataFrame) -> pd.Series:
    wide = _pivot(table)
    expected = wide[["flips", "full"]].min(axis=1)
    return (wide.difference == expected).groupby("seed").mean()


def _training(network: str, label: str) -> Prediction:
    def pair(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        return (
            select(table, "flips", network=network),
            select(table, "weight_rank", network=network),
        )

    return Prediction(
        f"training ({label})",
        "Over layers and steps of training, the share of units that flip between two examples and "
        "the participation ratio of the layer's weights rise and fall together in a "
        f"{label} network.",
        correlation(pair, ["step", "layer"]),
        bound=0.3,
        unit="rank correlation",
    )


def _draw_exact(table: pd.DataFrame) -> Figure:
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


def _draw_training(table: pd.DataFrame) -> Figure:
    frames = []
    for name in ("flips", "weight_rank"):
        part = select(table, name, network=("plain", "plain_norm"))
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
            "flips": "share of units that flip",
            "weight_rank": "participation of W over width",
            "plain": "plain",
            "plain_norm": "plain, layer norm",
        },
    )


STUDY = Study(
    name="flips",
    number=3,
    claim="When few units change their response between inputs, weight matrices carry little rank.",
    source="a common account of degradation, after Orhan & Pitkow 2018",
    hypothesis="As stated, the rank of W is below full where few units flip. In its exact form, "
    "the masked weight D(x) W has as many dimensions as units are active, and the difference of "
    "two Jacobians as many as units flip. Over training, flips and the rank of W go together.",
    measurement="At initialization one layer V D(x) W of 64 or more units on pairs of inputs at "
    "distances from 2^-8 to 4; numerical ranks in float32. Over training, plain ReLU networks on "
    "digits, with and without layer norm: the share of units whose sign differs between two "
    "examples and the participation ratio of the weights, by layer, at logarithmically spaced "
    "steps.",
    theory="J(x) - J(x') = V (D - D') W, and D - D' has one nonzero entry for each flip; W does "
    "not depend on the input. The black line is min(flips, inputs).",
    predictions=(
        Prediction(
            "W (as stated)",
            "Where the fewest units flip, W lacks at least a tenth of full rank.",
            _of_weight,
            bound=0.1,
            unit="share of full rank",
        ),
        Prediction(
            "D W (exact form)",
            "The rank of the masked weight is the number of active units, up to the inputs.",
            _masked,
            bound=0.99,
            unit="share of pairs",
        ),
        Prediction(
            "Jacobian difference (exact form)",
            "The rank of the difference of Jacobians is the number of flips, up to the inputs.",
            _difference,
            bound=0.99,
            unit="share of pairs",
        ),
        _training("plain", "plain"),
        _training("plain_norm", "layer-normed plain"),
    ),
    depends="the object and the form of the claim",
    budgets={
        preset: Budget(
            seeds,
            {"network": ("one layer", "plain", "plain_norm")},
            {
                "layer_width": 64,
                "layer_ends": 32,
                "depth": depth,
                "width": width,
                "steps": steps,
                "rate": 1e-3,
            },
        )
        for preset, seeds, depth, width, steps in (
            ("quick", 16, 6, 32, 200),
            ("default", 16, 8, 64, 2000),
            ("paper", 32, 16, 256, 20000),
        )
    },
    measure=_measure,
    together=("network",),
    plots=(
        Plot(
            "flips_exact",
            _draw_exact,
            "Numerical rank at initialization of a layer's weight, masked weight and difference of "
            "Jacobians, by the number of units that flip between two inputs.",
        ),
        Plot(
            "flips_training",
            _draw_training,
            "Share of units that flip between two examples, and participation ratio of the weights "
            "over width, through training: means over layers, median over seeds.",
        ),
    ),
)
