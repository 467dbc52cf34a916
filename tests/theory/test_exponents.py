"""Exponents and log norms of Jacobians against closed forms and simulated layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import activations, spectral, theory


def test_closed_forms():
    t = (np.arange(8) + 0.5) / 8
    found = theory.jacobian_exponents(theory.Layer(lambda x: x, weight_variance=3.0), 8)
    np.testing.assert_allclose(found, np.log(3 * (1 - t)) / 2, atol=1e-5)
    found = np.asarray(theory.jacobian_exponents(theory.Layer("relu", weight_variance=2.0), 8))
    np.testing.assert_allclose(found[:4], np.log(1 - 2 * t[:4]) / 2, atol=1e-5)
    assert np.all(found[4:] == -np.inf)


def test_newmans_exponents_in_the_limit():
    newman = theory.newman_exponents(256)
    found = theory.jacobian_exponents(theory.Layer(lambda x: x, weight_variance=1.0), 256)
    np.testing.assert_allclose(found[:200], newman[:200], atol=5e-3)


def simulated(f, layers, n, scale, key):
    """Matrices W D, D the slopes of f at units that are drawn anew for each layer."""
    first, second = jax.random.split(key)
    slopes = jax.vmap(jax.grad(f))(jax.random.normal(first, (layers * n,))).reshape(layers, 1, n)
    return jax.random.normal(second, (layers, n, n)) * scale / n**0.5 * slopes


@pytest.mark.slow
@pytest.mark.parametrize("wiring", ["plain", "post"])
def test_exponents_of_a_deep_product(wiring):
    """log s_i / L of 1,500 layers of tanh of width 48, to the 1/n that width leaves."""
    layers, n = 1500, 48
    w = simulated(jnp.tanh, layers, n, 1.5, jax.random.key(0))
    if wiring == "post":
        scale = 1 + 1.5**2 * theory.moments("tanh").second_moment  # of h + W f(h)
        w = (jnp.eye(n)[None] + w) / scale**0.5
    found = spectral.product_spectrum(w).log_singular_values / layers
    expected = theory.jacobian_exponents(
        theory.Layer("tanh", weight_variance=1.5**2), n, wiring=wiring
    )
    np.testing.assert_allclose(found[:40], expected[:40], atol=0.06)
    np.testing.assert_allclose(np.mean(found), np.mean(expected), atol=0.03)


def identity(x):
    return x


def test_log_moments_of_products_of_gaussian_matrices():
    """Gamma functions: E s^2g = G((L+1)g + 1) / (G(g + 1) G(Lg + 2)), the Fuss-Catalan moments."""
    law = theory.jacobian_log_moments(theory.Layer(identity, weight_variance=3.0), 5)
    layers = np.arange(6)
    np.testing.assert_allclose(law.mean, layers * (np.log(3) - 1) / 2, atol=1e-5)
    variance = layers**2 / 4 + layers * np.pi**2 / 12
    np.testing.assert_allclose(law.variance, variance, rtol=1e-5)
    np.testing.assert_array_equal(law.rank, 1)


def test_log_moments_of_a_rectified_layer():
    """Half the columns of a Gaussian matrix: Marchenko-Pastur at c = 1/2."""
    law = theory.jacobian_log_moments("relu", 1)
    np.testing.assert_allclose(law.rank, [1, 0.5], atol=1e-6)
    lower, upper = theory.marchenko_pastur_edges(0.5)
    angle = (np.arange(4000) + 0.5) / 4000 * np.pi
    x = (lower + upper) / 2 + (upper - lower) / 2 * np.cos(angle)
    density = theory.marchenko_pastur_density(x, 0.5) * np.sin(angle)
    w, log_s = density / np.sum(density), np.log(2 * x) / 2
    mean = np.sum(w * log_s)
    np.testing.assert_allclose(law.mean[1], mean, atol=1e-4)
    np.testing.assert_allclose(law.variance[1], np.sum(w * (log_s - mean) ** 2), rtol=1e-3)


def test_log_moments_of_one_skip_and_of_small_branches():
    """|1 + u| on the unit circle; free multiplicative Brownian motion at time c."""
    one = theory.jacobian_log_moments(
        theory.Layer(identity, weights="orthogonal", weight_variance=1.0), 1, wiring="norm_free"
    )
    np.testing.assert_allclose(one.mean[1], 0, atol=1e-5)
    np.testing.assert_allclose(one.variance[1], np.pi**2 / 12, rtol=1e-4)
    given = dict(wiring="pre+scaled")
    c = theory.mean_field(theory.Layer("tanh", nodes=16), 200, **given).log_jacobian[::50]
    law = theory.jacobian_log_moments(theory.Layer("tanh", nodes=16), 200, **given)
    np.testing.assert_allclose(law.mean, 0, atol=1e-4)
    np.testing.assert_allclose(law.variance[::50], c**2 / 12 + c / 2, rtol=1e-2, atol=1e-6)


def measured(name, n, depth, wiring, layers, scale, key):
    """Mean and variance of log s of a network's own Jacobian."""
    f, gain = getattr(activations, name), theory.gain(name)

    def layer(h, key):
        first, second = jax.random.normal(key, (2, n, n)) / n**0.5

        def forward(h):
            v = h * jax.lax.rsqrt(jnp.mean(h**2)) if wiring == "pre" else h
            out = h + scale * gain * first @ f(second @ v if layers == 2 else v)
            return out * jax.lax.rsqrt(jnp.mean(out**2)) if wiring == "post" else out

        return forward(h), jax.jacfwd(forward)(h)

    start, rest = jax.random.split(key)
    h = jax.random.normal(start, (n,))
    _, layers = jax.lax.scan(layer, h, jax.random.split(rest, depth))
    log_s = spectral.product_spectrum(layers).log_singular_values[:-1]  # norms take one direction
    return jnp.mean(log_s), jnp.var(log_s)


@pytest.mark.parametrize(
    ("name", "wiring", "layers", "scale", "ratio"),
    [
        ("relu", "pre", 2, 0.8, 1.0),
        ("tanh", "post", 2, 0.6, 1.0),
        # a unit's state is shared from layer to layer, which the law leaves out: 1.15 at width 512
        ("relu", "norm_free", 1, 0.5, 1.15),
    ],
)
def test_log_moments_of_networks(name, wiring, layers, scale, ratio):
    n, depth, draws = 128, 12, 8

    def one(key):
        return measured(name, n, depth, wiring, layers, scale, key)

    mean, variance = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), draws))
    law = theory.jacobian_log_moments(name, depth, wiring=wiring, layers=layers, branch_scale=scale)
    error = np.std(mean) / draws**0.5  # of what a network's norms divide by, above all
    assert abs(np.mean(mean) - law.mean[-1]) < 0.02 + 3 * error
    assert error < 0.1
    np.testing.assert_allclose(law.variance[-1] / np.mean(variance), ratio, rtol=0.03)


def test_where_a_plain_network_loses_more_units_later():
    """hard_tanh from q = 0.1: more units are beyond its kinks at each layer; from q = 4, fewer."""
    law = theory.jacobian_log_moments("hard_tanh", 3, variance=4.0)
    np.testing.assert_array_equal(np.isnan(law.mean), [False, False, False, False])
    law = theory.jacobian_log_moments(
        theory.Layer("hard_tanh", weight_variance=8.0), 2, variance=0.1
    )
    np.testing.assert_array_equal(np.isnan(law.mean), [False, True, False])
    assert np.all(np.diff(law.rank) < 0)
    n = 1024
    rng = np.random.default_rng(0)
    h, product = rng.normal(size=n) * 0.1**0.5, np.eye(n)
    for _ in range(2):
        w = rng.normal(size=(n, n)) * (8 / n) ** 0.5
        h, product = w @ np.clip(h, -1, 1), w @ ((np.abs(h) < 1)[:, None] * product)
    s = np.linalg.svd(product, compute_uv=False)
    log_s = np.log(s[s > 1e-6 * s[0]])
    assert abs(len(log_s) / n - law.rank[-1]) < 0.03
    assert abs(log_s.mean() - law.mean[-1]) < 0.06
    np.testing.assert_allclose(log_s.var(), law.variance[-1], rtol=0.05)


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
    with pytest.raises(ValueError, match=r"wiring must be plain or post, .*; got 'pre'"):
        theory.jacobian_exponents("relu", 4, wiring="pre")
    with pytest.raises(ValueError, match="layers must be 1 or 2, got 3"):
        theory.jacobian_log_moments("relu", 4, layers=3)
    with pytest.raises(ValueError, match="weights must be one of"):
        theory.jacobian_log_moments(theory.Layer("relu", weights="uniform"), 4)
