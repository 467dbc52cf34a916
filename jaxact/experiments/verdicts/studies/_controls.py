"""Claim 0: what the protocol must decide rightly, since the answers are known.

Hypothesis: Two arms that are the same network, from different seeds, do not differ: against a bound
of 0 the protocol must not decide, and against a bound far beyond the noise it must refute. A
network that is trained at a hundredth of the step size ends at a higher loss, which it must
confirm. A product of d Gaussian layers has a participation ratio of 1 / (1 + d) of the width in the
limit of large width, which measurement must meet.

Measurement: Plain ReLU networks on digits, the even seeds against the odd ones; and Jacobians of
linear networks, of width 16 times the depth.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxact import analysis, spectral
from jaxact.experiments.verdicts._cells import train_cells
from jaxact.experiments.verdicts._effects import by_seed, remaining
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Study,
    budgets,
    by_preset,
    predicts,
    words,
)

RATE = 1e-3
LAYERS = 4
WIDTH = 64


def participations(seeds: jax.Array, /) -> jax.Array:
    """Participation ratio over width of products of Gaussian matrices, over (1 + layers)^-1."""

    def one(seed):
        w = jax.random.normal(jax.random.key(seed), (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5
        product = jnp.linalg.multi_dot(list(w), precision="highest")
        s = spectral.singular_values(product)
        return spectral.participation_ratio(s) / WIDTH * (1 + LAYERS)

    return jax.lax.map(one, seeds)


def _measure(batch: Batch) -> list[pd.DataFrame]:
    trained = train_cells(batch)
    products = participations(jnp.asarray(batch.seeds))
    exact = analysis.tidy(products, {"seed": batch.seeds}, quantity="product", step=0, layer=0)
    return [pd.concat([trained[0], exact], ignore_index=True), *trained[1:]]


def _between_seeds(table: pd.DataFrame) -> np.ndarray:
    """How much more loss even seeds keep than odd ones, at the full step size."""
    losses = remaining(table, rate=RATE).to_numpy()
    return losses[::2] - losses[1::2]


@predicts("equal arms differ", bound=0.0, unit="share of the loss of a guess")
def _equal(table: pd.DataFrame) -> np.ndarray:
    """The even seeds end at a higher loss than the odd ones."""
    return _between_seeds(table)


@predicts("equal arms differ by much", bound=0.3, unit="share of the loss of a guess")
def _equal_by_much(table: pd.DataFrame) -> np.ndarray:
    """The even seeds end at a higher loss than the odd ones, by three tenths of a guess's."""
    return _between_seeds(table)


@predicts("a planted effect", bound=0.3, unit="share of the loss of a guess")
def _planted(table: pd.DataFrame) -> pd.Series:
    """At a hundredth of the step size the loss ends higher, by three tenths of a guess's."""
    return remaining(table, rate=RATE / 100) - remaining(table, rate=RATE)


@predicts("a known rank", bound=0.15, side="below", unit="nats from theory")
def _known_rank(table: pd.DataFrame) -> pd.Series:
    """The participation ratio of a product of Gaussian layers is within 15% of theory."""
    return pd.Series(np.log(by_seed(table, "product"))).abs()


STUDY = Study(
    name="controls",
    **words(__doc__),
    predictions=(_equal, _equal_by_much, _planted, _known_rank),
    depends="what is known",
    budgets=budgets(
        by_preset(24, 32, 64),
        dict(rate=(RATE, RATE / 100)),
        dict(
            wiring="plain",
            activation="relu",
            depth=4,
            width=by_preset(32, 64, 64),
            steps=by_preset(120, 300, 300),
            batch_size=32,
            marks="ends",
            measures=["loss"],
        ),
    ),
    measure=_measure,
    known={
        "equal arms differ": "undecided",
        "equal arms differ by much": "refuted",
        "a planted effect": "confirmed",
        "a known rank": "confirmed",
    },
)
