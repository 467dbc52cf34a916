"""Exponents and log norms of Jacobians against closed forms and simulated layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral, theory


def test_closed_forms():
    t = (np.arange(8) + 0.5) / 8
    found = theory.jacobian_exponents(lambda x: x, 8, weight_variance=3.0)
    np.testing.assert_allclose(found, np.log(3 * (1 - t)) / 2, atol=1e-5)
    found = np.asarray(theory.jacobian_exponents("relu", 8, weight_variance=2.0))
    np.testing.assert_allclose(found[:4], np.log(1 - 2 * t[:4]) / 2, atol=1e-5)
    assert np.all(found[4:] == -np.inf)


def test_newmans_exponents_in_the_limit():
    newman = theory.newman_exponents(256)
    found = theory.jacobian_exponents(lambda x: x, 256, weight_variance=1.0)
    np.testing.assert_allclose(found[:200], newman[:200], atol=5e-3)


def simulated(f, layers, n, scale, key):
    """Matrices W D, D the slopes of f at units that are drawn anew for each layer."""
    first, second = jax.random.split(key)
    slopes = jax.vmap(jax.grad(f))(jax.random.normal(first, (layers * n,))).reshape(layers, 1, n)
    return jax.random.normal(second, (layers, n, n)) * scale / n**0.5 * slopes


@pytest.mark.slow
def test_exponents_of_a_deep_product():
    """log s_i / L of 1,500 layers of tanh of width 48, to the 1/n that width leaves."""
    layers, n = 1500, 48
    w = simulated(jnp.tanh, layers, n, 1.5, jax.random.key(0))
    found = spectral.product_spectrum(w).log_singular_values / layers
    expected = theory.jacobian_exponents("tanh", n, weight_variance=1.5**2)
    np.testing.assert_allclose(found[:40], expected[:40], atol=0.06)
    np.testing.assert_allclose(np.mean(found), np.mean(expected), atol=0.03)


def log_norms(network, n, depth, draws=2000):
    """log |J u|^2 of a network, or of layers whose slopes are drawn anew."""
    scale = float(theory.gain("relu" if network else "tanh"))

    def one(key):
        keys = jax.random.split(key, depth + 1)

        def step(carry, key):
            first, second = jax.random.split(key)
            w = jax.random.normal(first, (n, n)) * scale / n**0.5
            h, u = carry
            if network:
                return jax.jvp(lambda h: w @ jax.nn.relu(h), (h,), (u,)), None
            slopes = 1 - jnp.tanh(jax.random.normal(second, (n,))) ** 2
            return (h, w @ (slopes * u)), None

        h, u = jax.random.normal(keys[0], (2, n))
        return jnp.log(
            jnp.sum(jax.lax.scan(step, (h, u / jnp.linalg.norm(u)), keys[1:])[0][1] ** 2)
        )

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws)))


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_log_norm(name):
    """A rectified network's own Jacobian; for tanh layers that are free of each other."""
    n, depth = 64, 12
    logs = log_norms(name == "relu", n, depth)
    law = theory.jacobian_log_norm(name, n, depth)
    assert abs(logs.mean() - law.mean[-1]) < 0.06
    np.testing.assert_allclose(logs.var(), law.variance[-1], rtol=0.1)


def test_arguments():
    with pytest.raises(ValueError, match="n must be"):
        theory.jacobian_exponents("relu", 0)
    with pytest.raises(ValueError, match="depth must be"):
        theory.jacobian_log_norm("relu", 4, 0)
    with pytest.raises(ValueError, match="variance"):
        theory.jacobian_exponents("relu", 4, variance=-1.0)
