"""A measure as a regularizer: an effective-rank term keeps the rank of a deep plain network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxact import analysis, spectral

WIDTH = 16
DEPTH = 24


def block(w, x):
    return jnp.maximum(x @ w, 0)


def chain(params):
    return analysis.as_chain(
        [
            ("stem", lambda w, x: x @ w, params[0], None),
            ("blocks", block, params[1], DEPTH),
            ("head", lambda w, x: x @ w, params[2], None),
        ]
    )


def mean_rank(params, x):
    """Effective rank of the centred features, mean over the blocks."""
    h = analysis.feature_matrix(analysis.features(chain(params), x)["blocks"], centred=True)
    return jnp.mean(spectral.effective_rank(spectral.singular_values(h)))


@pytest.fixture(scope="module")
def data():
    digits = load_digits()
    x = ((digits.data - digits.data.mean()) / digits.data.std()).astype(np.float32)
    return jnp.asarray(x[:64]), jnp.asarray(digits.target[:64])


@pytest.fixture(scope="module")
def params():
    shapes = ((64, WIDTH), (DEPTH, WIDTH, WIDTH), (WIDTH, 10))
    keys = jax.random.split(jax.random.key(0), 3)
    gains = (1.0, 2.0, 1.0)
    return tuple(
        jax.random.normal(k, s) * (g / s[-2]) ** 0.5
        for k, s, g in zip(keys, shapes, gains, strict=True)
    )


@pytest.mark.slow
def test_effective_rank_term_keeps_the_rank(data, params):
    x, y = data

    def loss(params, strength):
        logits = analysis.run(chain(params), x)
        labels = jax.nn.one_hot(y, 10)
        cross_entropy = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))
        return cross_entropy - strength * jnp.log(mean_rank(params, x)), cross_entropy

    @jax.jit
    def train(strength):
        def step(carry, _):
            params, momentum = carry
            grads, value = jax.grad(loss, has_aux=True)(params, strength)
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads))
            scale = 1 / jnp.maximum(norm, 1)
            momentum = jax.tree.map(lambda m, g: 0.9 * m + scale * g, momentum, grads)
            params = jax.tree.map(lambda p, m: p - 0.02 * m, params, momentum)
            return (params, momentum), value

        start = (params, jax.tree.map(jnp.zeros_like, params))
        (trained, _), losses = jax.lax.scan(step, start, None, length=60)
        return mean_rank(trained, x), losses[-1]

    initial = float(mean_rank(params, x))
    without, loss_without = train(jnp.float32(0.0))
    with_term, loss_with = train(jnp.float32(0.3))
    assert initial < 0.4 * WIDTH  # the plain network has lost most of it at the start
    assert float(without) < 0.8 * initial  # and loses more of it in training
    assert float(with_term) > 1.4 * initial
    assert float(loss_with) < float(loss_without)
