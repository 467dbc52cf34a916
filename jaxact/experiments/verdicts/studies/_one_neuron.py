"""Claim 11: the residual network with one neuron a block against a narrow plain one.

Claim: A residual network with one neuron a block fits what a plain network as narrow as its input
cannot.

Source: Lin & Jegelka 2018

Sentence: "This stands in sharp contrast to fully connected networks, which are not universal
approximators if their width is the input dimension" (Lin & Jegelka 2018, abstract).

Hypothesis: On telling the unit ball from the shell around it, the one-neuron residual network tests
above 95%, a plain ReLU network of the input's width below, and the difference is more than 0.05.

Measurement: Points in the plane, half in the unit disc and half in the ring from 1.3 to 2; test
accuracy after Adam, of the attempt with the least training loss of several; networks of the same
number of blocks. Plain networks one unit wider stand beside.

Theory: Decision regions of a plain ReLU network of the input's width are unbounded (theorem 2.1);
one-neuron residual networks approximate every integrable function (theorem 3.1), which does not say
that Adam finds it.

Practice: Skips make narrow networks expressive; a plain network needs at least one unit more than
its input.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx
from matplotlib.figure import Figure

from jaxact import analysis, models, training
from jaxact.experiments import _plots
from jaxact.experiments._networks import Sharded, options
from jaxact.experiments.verdicts._effects import by_seed, select
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Cell,
    Study,
    budgets,
    by_preset,
    plotted,
    predicts,
    words,
)


def ball(key: jax.Array, count: int, dimension: int) -> tuple[jax.Array, jax.Array]:
    """Points of which half lie in the unit ball (label 1), half in the shell from 1.3 to 2."""
    direction, place, inside = jax.random.split(key, 3)
    way = jax.random.normal(direction, (count, dimension))
    way = way / jnp.linalg.norm(way, axis=-1, keepdims=True)
    u = jax.random.uniform(place, (count, 1))
    label = jax.random.bernoulli(inside, 0.5, (count,))
    radius = jnp.where(label[:, None], u ** (1 / dimension), 1.3 + 0.7 * u)
    return radius * way, label.astype(jnp.int32)


def _network(cell: Cell, settings: Any, key: jax.Array) -> Any:
    size, depth = settings["dimension"], settings["depth"]
    if cell["network"] == "one_neuron":
        return models.OneNeuronResNet(size, 2, depth=depth, rngs=nnx.Rngs(key))
    width = size + (cell["network"] == "plain_wider")
    return models.MLPResNet(
        size, 2, width=width, depth=depth, **options("plain"), activation="relu", rngs=nnx.Rngs(key)
    )


def _measure_one(batch: Batch, cell: Cell) -> pd.DataFrame:
    settings = batch.settings

    def start(key):
        leaves, structure = jax.tree.flatten(_network(cell, settings, key))
        return leaves, structure

    _, structure = start(jax.random.key(0))

    def loss(leaves, x, y):
        return training.cross_entropy(jax.tree.unflatten(structure, leaves)(x), y)

    def one(seed):
        keys = jax.random.split(jax.random.key(seed), 4)
        x, y = ball(keys[0], settings["points"], settings["dimension"])
        test_x, test_y = ball(keys[1], settings["points"], settings["dimension"])

        def attempt(key):
            init, order = jax.random.split(key)
            fit = training.fit(
                loss,
                start(init)[0],
                x,
                y,
                optimizer=optax.adam(settings["rate"]),
                steps=settings["steps"],
                batch_size=64,
                key=order,
            )
            logits = jax.tree.unflatten(structure, fit.params)(test_x)
            return loss(fit.params, x, y), training.accuracy(logits, test_y)

        # A narrow network often starts dead: the best of several by training loss stands for it.
        losses, accuracies = jax.vmap(attempt)(jax.random.split(keys[2], settings["attempts"]))
        best = jnp.nanargmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
        return losses[best], accuracies[best]

    losses, accuracies = Sharded(one)((), (np.array(batch.seeds, np.uint32),))
    axes = {"seed": list(batch.seeds)}
    return pd.concat(
        [
            analysis.tidy(values, axes, quantity=name)
            for name, values in (("loss", losses), ("test_accuracy", accuracies))
        ],
        ignore_index=True,
    )


def _measure(batch: Batch) -> list[pd.DataFrame]:
    return [_measure_one(batch, cell) for cell in batch.cells]


def _accuracy(table: pd.DataFrame, network: str) -> pd.Series:
    return by_seed(table, "test_accuracy", network=network)


@plotted("one_neuron")
def _draw(table: pd.DataFrame) -> Figure:
    """Test accuracy on a disc within a ring, a dot for each seed, a dash at the median; dotted:
    0.95.
    """
    labels = {
        "one_neuron": "one-neuron\nresidual",
        "plain": "plain,\nwidth d",
        "plain_wider": "plain,\nwidth d + 1",
    }
    groups = {
        label: select(table, "test_accuracy", network=name).value for name, label in labels.items()
    }
    return _plots.dots(groups, ylabel="test accuracy", bound=0.95)


FITS = "classes are apart by a margin, so that a network that fits errs near it only"


@predicts("one-neuron residual network fits", bound=0.95, unit="accuracy", reason=FITS)
def _one_neuron_residual_network_fits(table: pd.DataFrame) -> pd.Series:
    """The one-neuron residual network tests above 0.95."""
    return _accuracy(table, "one_neuron")


@predicts(
    "plain network of the same width does not",
    bound=0.95,
    side="below",
    unit="accuracy",
    reason=FITS,
)
def _plain_network_of_the_same_width_does_not(table: pd.DataFrame) -> pd.Series:
    """The plain network of the input's width tests below 0.95."""
    return _accuracy(table, "plain")


@predicts("difference", bound=0.05, unit="accuracy", reason="what is left below the bound of a fit")
def _difference(table: pd.DataFrame) -> pd.Series:
    """The one-neuron residual network tests higher."""
    return _accuracy(table, "one_neuron") - _accuracy(table, "plain")


STUDY = Study(
    name="one_neuron",
    **words(__doc__),
    predictions=(
        _one_neuron_residual_network_fits,
        _plain_network_of_the_same_width_does_not,
        _difference,
    ),
    depends="whether fitting or failing is meant",
    budgets=budgets(
        by_preset(12, 32, 64),
        dict(network=("one_neuron", "plain", "plain_wider")),
        dict(
            dimension=2,
            depth=by_preset(8, 10, 16),
            points=512,
            steps=by_preset(400, 4000, 20000),
            attempts=by_preset(4, 16, 64),
            rate=0.01,
        ),
    ),
    measure=_measure,
    together=("network",),
    plots=(_draw,),
)
