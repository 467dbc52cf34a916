"""Claim 4: how fast a product of layers loses rank, against the analytic rate.

Claim: The rank of the product of layers falls with depth.

Source: Saxe et al. 2014; Pennington et al. 2017, 2018; Feng et al. 2022

Sentence: "We theoretically establish a universal monotonic decreasing property of network rank
from the basic rules of differential and algebraic composition" (Feng et al. 2022, abstract), there
of the numerical rank, here of the participation ratio, which need not be monotonic.

Hypothesis: The participation ratio of the input-output Jacobian at initialization falls with depth
for every activation, wiring and initialization; where the variance map of the activation has a
stable fixed point (ReLU, tanh), at the rate of mean-field theory.

Measurement: Participation ratio over width of the Jacobian of the first l blocks, mean over
Gaussian inputs of unit variance.

Theory: 1 / (1 + sigma^2), sigma^2 the relative variance of the squared singular values in wide
networks (Pennington et al. 2017 for plain networks; `jaxact.theory.mean_field`). Corrections are of
the order of depth over width, and larger for GELU, whose variance map leaves its fixed point (slope
1.14 there): GELU is drawn, and its rate not judged.

Practice: A product of random layers loses rank at a rate that theory gives in advance: choose the
depth, the width and the branch's scale by `jaxact.theory.mean_field`. Linear layers with orthogonal
weights are the one exception that loses nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxact import analysis, theory
from jaxact.experiments import _plots
from jaxact.experiments._networks import Sharded, Spec, Trials
from jaxact.experiments.verdicts._effects import select
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Cell,
    Prediction,
    Study,
    budgets,
    by_preset,
    plotted,
    words,
)

NONLINEAR = ("relu", "tanh", "gelu")
STABLE = ("relu", "tanh")
"""Those whose variance stays at its fixed point, so that theory has a rate for them."""


def orthogonal(chain: analysis.Chain, variance: jax.Array) -> analysis.Chain:
    """A network whose block weights are made orthogonal, times the root of ``variance``."""

    def make(leaf):
        if leaf.ndim != 3:
            return leaf
        q, r = jnp.linalg.qr(leaf)
        # The sign of the diagonal makes the basis Haar (Mezzadri 2007).
        return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None] * jnp.sqrt(variance)

    segments = [
        s._replace(params=jax.tree.map(make, s.params)) if s.name == "blocks" else s
        for s in chain.segments
    ]
    return analysis.Chain(tuple(segments))


def _measure(batch: Batch) -> list[pd.DataFrame]:
    settings = batch.settings
    names = tuple(dict.fromkeys(cell["activation"] for cell in batch.cells))
    wiring, kind = batch.cells[0]["wiring"], batch.cells[0]["weights"]
    trials = Trials(Spec(wiring, settings["depth"], settings["width"], names), batch.data)
    program = Sharded(
        functools.partial(_participations, trials, kind, settings["examples"]), shared=1
    )
    frames = []
    for cell in batch.cells:
        index = jnp.asarray(names.index(cell["activation"]), jnp.int32)
        values = program((index,), (np.array(batch.seeds, np.uint32),))
        axes = {"seed": list(batch.seeds), "layer": range(1, settings["depth"] + 1)}
        frames.append(analysis.tidy(values, axes, quantity="participation"))
    return frames


def _participations(
    trials: Trials, kind: str, examples: int, index: jax.Array, seed: jax.Array
) -> jax.Array:
    """Participation ratio over width of the blocks' Jacobian, by depth, mean over examples."""
    key = jax.random.key(seed)
    chain = analysis.as_chain(trials.network(index, key))
    if kind == "orthogonal":
        chain = orthogonal(chain, jnp.square(jnp.asarray(trials.gains)[index]))
    width = trials.spec.width
    # Inputs of unit variance, as the theory takes them.
    inputs = jax.random.normal(jax.random.fold_in(key, 2), (examples, width))
    if trials.spec.wiring == "plain":
        inputs = inputs / jnp.asarray(trials.gains)[index]
    body = analysis.until(chain, "blocks").segments[-1]
    of_example = jax.vmap(lambda h: analysis.participation_by_block(body, h))
    return jnp.mean(of_example(inputs), axis=0)


@functools.cache
def predicted(wiring: str, weights: str, activation: str, depth: int) -> np.ndarray:
    """The participation ratio over width that theory predicts, by depth from 1.

    With the variance of the squared singular values over the square of their mean, sigma^2, it is
    1 / (1 + sigma^2).
    """
    layer = theory.Layer(activation, weights=weights)
    field = theory.mean_field(layer, depth, wiring=wiring)
    return 1 / (1 + np.asarray(field.jacobian_dispersion)[1:])


def _falls(wiring: str, weights: str, activations: tuple[str, ...], label: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        rows = select(
            table, "participation", wiring=wiring, weights=weights, activation=activations
        )
        first, last = (
            rows[rows.layer == layer].set_index(["seed", "activation"]).value
            for layer in (rows.layer.min(), rows.layer.max())
        )
        return np.log(first / last).groupby("seed").min()

    return Prediction(
        f"falls ({label})",
        f"The participation ratio of the Jacobian falls from the first to the last block by more "
        f"than a tenth, with every activation ({label}).",
        effect,
        bound=0.1,
        unit="nats",
        reason="a tenth; seeds of one network differ by a few hundredths",
    )


def _rate(wiring: str, weights: str, label: str) -> Prediction:
    def effect(table: pd.DataFrame) -> pd.Series:
        rows = select(table, "participation", wiring=wiring, weights=weights, layer="last")
        rows = rows[rows.activation.isin(STABLE)]
        depth = int(rows.layer.max())
        expected = rows.activation.map(
            {
                name: predicted(wiring, weights, name, depth)[-1]
                for name in dict.fromkeys(rows.activation)
            }
        )
        return np.log(rows.value / expected).abs().groupby(rows.seed).max()

    return Prediction(
        f"rate ({label})",
        "At the last block the participation ratio is within 15% of theory, with ReLU and with "
        f"tanh ({label}).",
        effect,
        bound=float(np.log(1.15)),
        side="below",
        unit="nats from theory, the worse activation",
        reason="15%: theory's own error, of the order of depth over width (1/16 at the default "
        "budget), with the spread over seeds on top",
    )


@plotted("product_rate")
def _draw(table: pd.DataFrame) -> Figure:
    """Participation ratio over width of the Jacobian by depth, at initialization; black: mean-field
    theory. Median over seeds, band from least to largest.
    """
    rows = select(table, "participation")
    depth = int(rows.layer.max())
    panel = rows.wiring + ", " + rows.weights
    rows = rows.assign(panel=panel)
    lines = {
        (f"{wiring}, {weights}", name): (
            list(range(1, depth + 1)),
            list(predicted(wiring, weights, name, depth)),
        )
        for wiring, weights, name in rows[["wiring", "weights", "activation"]]
        .drop_duplicates()
        .itertuples(index=False)
    }
    return _plots.lines(
        rows,
        x="layer",
        by="activation",
        panel="panel",
        xlabel="block",
        ylabel="participation over width",
        logy=True,
        theory=lines,
        names={
            "plain, gaussian": "plain, Gaussian",
            "plain, orthogonal": "plain, orthogonal",
            "scaled, gaussian": r"branch/$\sqrt{L}$",
            "pre, gaussian": "pre-norm",
        },
    )


def _keep(cell: Cell) -> bool:
    if cell["weights"] == "orthogonal" and cell["wiring"] != "plain":
        return False
    return cell["activation"] != "identity" or cell["weights"] == "orthogonal"


STUDY = Study(
    name="product_rate",
    **words(__doc__),
    predictions=(
        _falls("plain", "gaussian", NONLINEAR, "plain with Gaussian weights"),
        _falls("plain", "orthogonal", NONLINEAR, "plain with orthogonal weights"),
        _falls("plain", "orthogonal", ("identity",), "linear with orthogonal weights"),
        _falls("scaled", "gaussian", NONLINEAR, "branch over root of depth"),
        _falls("pre", "gaussian", NONLINEAR, "pre-norm"),
        _rate("plain", "gaussian", "plain with Gaussian weights"),
        _rate("plain", "orthogonal", "plain with orthogonal weights"),
        _rate("scaled", "gaussian", "branch over root of depth"),
        _rate("pre", "gaussian", "pre-norm"),
    ),
    depends="activation, wiring and initialization",
    budgets=budgets(
        by_preset(16, 16, 32),
        dict(
            wiring=("plain", "scaled", "pre"),
            weights=("gaussian", "orthogonal"),
            activation=by_preset(
                ("identity", *NONLINEAR),
                ("identity", *NONLINEAR, "silu", "selu", "leaky_relu"),
                ("identity", *NONLINEAR, "silu", "selu", "leaky_relu", "elu", "mish"),
            ),
        ),
        dict(depth=by_preset(8, 16, 32), width=by_preset(96, 256, 1024), examples=4),
    ),
    measure=_measure,
    together=("wiring", "weights"),
    keep=_keep,
    plots=(_draw,),
)
