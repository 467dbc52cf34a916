"""Chains of trained weights against exact spectra, beside the same chains at initialization."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from jaxact import spectral

datasets = pytest.importorskip("sklearn.datasets")
DEPTH, WIDTH, STEPS = 8, 20, 300


def forward(weights, x):
    """Logits, and before them which units are on, layer by layer."""
    on = []
    for w in weights[:-1]:
        x = x @ w.T
        on.append(x > 0)
        x = jax.nn.relu(x)
    return x @ weights[-1].T, on


def loss(weights, x, labels):
    logs = jax.nn.log_softmax(forward(weights, x)[0])
    return -jnp.mean(jnp.take_along_axis(logs, labels[:, None], axis=1))


@functools.cache
def networks():
    """Weights at initialization (He's) and after training on the digits, the data, and accuracy."""
    x, labels = datasets.load_digits(return_X_y=True)
    x, labels = jnp.asarray(x / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    widths = [64] + [WIDTH] * DEPTH + [10]
    rng = np.random.default_rng(0)
    start = [
        jnp.asarray(rng.standard_normal((m, n)) * (2 / n) ** 0.5, jnp.float32)
        for n, m in itertools.pairwise(widths)
    ]

    def step(carry, rows):
        weights, moving = carry
        gradient = jax.grad(loss)(weights, x[rows], labels[rows])
        moving = jax.tree.map(lambda v, g: 0.9 * v + g, moving, gradient)
        return (jax.tree.map(lambda w, v: w - 0.02 * v, weights, moving), moving), None

    rows = jnp.asarray(rng.integers(len(x), size=(STEPS, 128)))
    train = jax.jit(lambda w: jax.lax.scan(step, (w, jax.tree.map(jnp.zeros_like, w)), rows)[0][0])
    trained = train(start)
    right = [jnp.mean(jnp.argmax(forward(w, x)[0], axis=1) == labels) for w in (start, trained)]
    return {"initial": start, "trained": trained}, x, [float(r) for r in right]


def masked(weights, x):
    """The factors of the Jacobian at one input: rows of units that are off are zero."""
    on = forward(weights, x[None])[1]
    kept = [jnp.where(m[0][:, None], w, 0) for w, m in zip(weights[:-1], on, strict=True)]
    return [*kept, weights[-1]]


def test_trained_and_initial_weights():
    stages, x, (before, after) = networks()
    assert before < 0.3
    assert after > 0.9
    chains = {
        (name, kind): chain
        for name, weights in stages.items()
        for kind, chain in {"weights": weights, "Jacobian": masked(weights, x[0])}.items()
    }
    stacks = jax.tree.map(lambda *w: jnp.stack(w), *chains.values())
    found = jax.jit(jax.vmap(spectral.product_spectrum))(stacks)
    for i, (name, chain) in enumerate(chains.items()):
        truth = zoo.truth([np.asarray(w) for w in chain])
        logs, error = (np.asarray(a[i], np.float64) for a in found[::3])
        with np.errstate(invalid="ignore"):
            off = np.where(logs == truth, 0, np.abs(logs - truth))
        print(name, truth.round(2), "off", off.max(), "error", error.max())
        assert np.all(off <= error)
        close = off < np.maximum(0.01, 1e-4 * np.abs(truth))
        # A layer of few units that are on hides its zeros from a product that starts behind it.
        assert np.all(close | (np.isinf(error) & np.isneginf(truth)))
        if name[1] == "weights":
            assert np.all(close)
            assert np.all(error < 0.01)
